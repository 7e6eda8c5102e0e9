"""Let random clients at a server for a long time, and account for every answer.

    python -m bench.soak ThreadPoolTCPServer --seconds 600
    python -m bench.soak greenlet --seconds 600      # http.server after patch(threads="greenlet")

Some clients go away without a word, some say nothing, some send a byte at a time. Every other one
must get exactly the answers to what it asked. Afterwards the server must have as many descriptors
and no more threads than before. Exits with 1 if anything is missing.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import socket
import struct
import sys
import time

import psutil

from bench import workloads
from bench.runner import Settings

PATCHED = {"thread": "patched", "pool": "patched_pool", "greenlet": "patched_greenlet"}
LINGER = struct.pack("ii", 1, 0)  # close() then resets the connection
SETTLED_WITHIN = 40  # seconds until idle workers have ended and descriptors are closed
PATIENCE = 30  # seconds for one answer


def server_of(name):
    """A class of the package that echoes lines, or http.server patched with such threads."""
    # With one arena for all threads what glibc holds stays level, and what is lost shows.
    os.environ["MALLOC_ARENA_MAX"] = "1"
    if name in PATCHED:
        return Settings().server(PATCHED[name], workloads.find("threadinghttp_keep_16"))
    for workload in map(workloads.find, workloads.STANDARD):
        if (workload.server, workload.transport, workload.work) == (name, "tcp", "lines"):
            return Settings().server("fast", workload)
    raise SystemExit(f"no class that is measured is called {name}")


class Client:
    """One client after the other, each of a kind that chance picks."""

    def __init__(self, server, counts, seed):
        _, host, port = server.address.split(":")
        self.address = host, int(port)
        self.page = server.workload.request, server.workload.answer
        self.counts = counts
        self.chance = random.Random(seed)

    def make(self):
        """A GET and the page, or a line and its echo; one in a hundred is large."""
        if self.page[0]:
            return self.page
        size = self.chance.choice([200_000] + [self.chance.randrange(8, 900)] * 99)
        line = self.chance.randbytes(size // 2).hex().encode() + b"\n"
        return line, line

    async def run(self, until):
        """Be clients until the time is over."""
        kinds = [self.ask, self.ask, self.keep, self.half, self.abort, self.silent, self.slow]
        while time.monotonic() < until:
            kind = self.chance.choice(kinds)
            self.counts["clients"] += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(*self.address, limit=1 << 20)
                    with contextlib.closing(writer):
                        await kind(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.counts[f"FAILED {kind.__name__}: {type(error).__name__}"] += 1

    async def take(self, reader, expected):
        """Read an answer and look whether it is the right one."""
        head = b"HTTP/1.1 200"
        if self.page[0]:
            head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(expected))
        if not head.startswith(b"HTTP/1.1 200") or body != expected:
            self.counts["FAILED: wrong answer"] += 1
        self.counts["answered"] += 1

    async def ask(self, reader, writer):
        """A request and its answer."""
        request, expected = self.make()
        self.counts["asked"] += 1
        writer.write(request)
        await self.take(reader, expected)

    async def keep(self, reader, writer):
        """Requests on a kept connection."""
        for _ in range(self.chance.randrange(2, 60)):
            await self.ask(reader, writer)
            await asyncio.sleep(self.chance.random() / 50)

    async def half(self, reader, writer):
        """All requests at once, then the end of the stream, then the answers."""
        requests = [self.make() for _ in range(self.chance.randrange(1, 6))]
        self.counts["asked"] += len(requests)
        writer.write(b"".join(request for request, _ in requests))
        writer.write_eof()
        for _, expected in requests:
            await self.take(reader, expected)

    async def slow(self, reader, writer):
        """A request byte by byte."""
        request, expected = self.make()
        self.counts["asked"] += 1
        for at in range(20):
            writer.write(request[at : at + 1])
            await asyncio.sleep(0.01)
        writer.write(request[20:])
        await self.take(reader, expected)

    async def abort(self, reader, writer):
        """Go away without waiting for the answer."""
        self.counts["aborted"] += 1
        writer.write(self.make()[0])
        if self.chance.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)

    async def silent(self, reader, writer):
        """Say nothing."""
        await asyncio.sleep(self.chance.random())


def holds(server):
    """What the server and its children hold: descriptors, threads, bytes of their own."""
    server = psutil.Process(server.process.pid)
    family = [server, *server.children(recursive=True)]
    total = collections.Counter()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total["descriptors"] += member.num_fds()
            total["threads"] += member.num_threads()
            total["memory"] += member.memory_full_info().uss
    return total


async def load(server, options, seconds, counts):
    """All clients; what the server held after a tenth of the time."""
    until = time.monotonic() + seconds
    clients = [Client(server, counts, options.seed + n) for n in range(options.clients)]
    tasks = [asyncio.create_task(client.run(until)) for client in clients]
    await asyncio.sleep(seconds / 10)
    early = await asyncio.to_thread(holds, server)
    await asyncio.gather(*tasks)
    return early


def settled(server, before):
    """What the server holds when it has had time to close and end what it does not need."""
    until = time.monotonic() + SETTLED_WITHIN
    while not all_within(before, now := holds(server)) and time.monotonic() < until:
        time.sleep(0.2)
    return now


def all_within(before, now):
    """Are there no more descriptors and threads than before?"""
    return all(now[what] <= before[what] for what in ("descriptors", "threads"))


def main():
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help=f"a class of the package, or one of {', '.join(PATCHED)}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options, counts = parser.parse_args(), collections.Counter()
    print(f"{options.server}, {options.seconds:g} seconds", flush=True)
    with server_of(options.server) as server:
        asyncio.run(load(server, options, 1, counts))  # so that it has what it needs only once
        time.sleep(1)  # for it to close the last connections
        before = holds(server)
        counts.clear()
        early = asyncio.run(load(server, options, options.seconds, counts))
        after = settled(server, before)
    print(json.dumps(counts, indent=2, sort_keys=True))
    print(f"descriptors {before['descriptors']} -> {after['descriptors']}, "
          f"threads {before['threads']} -> {after['threads']}, own memory early under load "
          f"{early['memory'] >> 10} KiB, afterwards {after['memory'] >> 10} KiB")
    return int(any(what.startswith("FAILED") for what in counts) or not all_within(before, after))


if __name__ == "__main__":
    sys.exit(main())
