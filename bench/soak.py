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
import functools
import http.server
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import psutil

from bench.process import ROOT

PATCHED = ["thread", "pool", "greenlet"]
LINGER = struct.pack("ii", 1, 0)  # close() then resets the connection
SETTLED_WITHIN = 40  # seconds until idle workers have ended and descriptors are closed
PATIENCE = 30  # seconds for one answer


# The server, in a process of its own.


def serve(name):
    """Serve with a class of the package, or http.server patched, until SIGTERM."""
    import socketserver_fast

    class Lines(socketserver_fast.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    class Pages(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Ten minutes of it would only fill the disk."""

    if name in PATCHED:
        socketserver_fast.patch(**({} if name == "thread" else {"threads": name}))
        cls, handler = http.server.ThreadingHTTPServer, Pages
    else:
        cls, handler = getattr(socketserver_fast, name), Lines
    cls = type("Server", (cls,), {"request_queue_size": 1024, "log_disconnects": False,
                                  "handle_error": lambda *args: None})
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
    with cls(("127.0.0.1", 0), handler) as server:
        print(json.dumps(server.server_address), flush=True)
        server.serve_forever()


@contextlib.contextmanager
def running(name):
    """The server's process and its address."""
    # With one arena for all threads what glibc holds stays level, and what is lost shows.
    environment = dict(os.environ, PYTHONPATH=str(ROOT), MALLOC_ARENA_MAX="1")
    command = [sys.executable, "-m", "bench.soak", "--serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield psutil.Process(process.pid), tuple(json.loads(process.stdout.readline()))
        finally:
            process.terminate()


# The clients.


def line_of(chance):
    """A line and its echo; one in a hundred is large."""
    size = chance.choice([200_000] + [chance.randrange(8, 900)] * 99)
    line = chance.randbytes(size // 2).hex().encode() + b"\n"
    return line, line


def get_of(chance):
    """A GET and the body of its answer."""
    path = f"/{chance.randbytes(chance.randrange(4, 200)).hex()}"
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode(), path.encode()


async def read_line(reader, expected):
    """Read an echo; whether it is the right one."""
    return await reader.readexactly(len(expected)) == expected


async def read_page(reader, expected):
    """Read an answer of HTTP; whether it is the right one."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200") and await reader.readexactly(len(expected)) == expected


class Client:
    """One client after the other, each of a kind that chance picks."""

    def __init__(self, address, counts, seed, http):
        self.address = address
        self.counts = counts
        self.chance = random.Random(seed)
        self.make, self.read = (get_of, read_page) if http else (line_of, read_line)

    async def run(self, until):
        """Be clients until the time is over."""
        kinds = [self.close, self.close, self.close, self.keep, self.half, self.abort, self.silent,
                 self.slow]
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

    async def ask(self, reader, writer):
        """One request and its answer."""
        request, expected = self.make(self.chance)
        self.counts["asked"] += 1
        writer.write(request)
        if not await self.read(reader, expected):
            self.counts["FAILED: wrong answer"] += 1
        self.counts["answered"] += 1

    async def close(self, reader, writer):
        for _ in range(self.chance.randrange(1, 4)):
            await self.ask(reader, writer)

    async def keep(self, reader, writer):
        for _ in range(self.chance.randrange(1, 60)):
            await self.ask(reader, writer)
            await asyncio.sleep(self.chance.random() / 50)

    async def half(self, reader, writer):
        """All requests at once, then the end of the stream, then the answers."""
        requests = [self.make(self.chance) for _ in range(self.chance.randrange(1, 6))]
        self.counts["asked"] += len(requests)
        writer.write(b"".join(request for request, _ in requests))
        writer.write_eof()
        for _, expected in requests:
            if not await self.read(reader, expected):
                self.counts["FAILED: wrong answer"] += 1
            self.counts["answered"] += 1

    async def abort(self, reader, writer):
        """Go away without waiting for the answer."""
        self.counts["aborted"] += 1
        writer.write(self.make(self.chance)[0])
        if self.chance.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)

    async def silent(self, reader, writer):
        await asyncio.sleep(self.chance.random())

    async def slow(self, reader, writer):
        request, expected = self.make(self.chance)
        self.counts["asked"] += 1
        for byte in request[:20]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        writer.write(request[20:])
        if not await self.read(reader, expected):
            self.counts["FAILED: wrong answer"] += 1
        self.counts["answered"] += 1


# The account.


def holds(server):
    """What the server and its children hold: descriptors, threads, bytes of their own."""
    family = [server, *server.children(recursive=True)]
    total = collections.Counter()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total["descriptors"] += member.num_fds()
            total["threads"] += member.num_threads()
            total["memory"] += member.memory_full_info().uss
    return total


async def load(address, options, counts, server):
    """All clients; what the server held after a tenth of the time."""
    until = time.monotonic() + options.seconds
    http = options.server in PATCHED
    clients = [Client(address, counts, options.seed + n, http) for n in range(options.clients)]
    tasks = [asyncio.create_task(client.run(until)) for client in clients]
    await asyncio.sleep(options.seconds / 10)
    early = await asyncio.to_thread(holds, server)
    await asyncio.gather(*tasks)
    return early


def settled(server, before):
    """What the server holds when it has had time to close and end what it does not need."""
    until = time.monotonic() + SETTLED_WITHIN
    enough = functools.partial(all_within, before)
    while not enough(now := holds(server)) and time.monotonic() < until:
        time.sleep(0.2)
    return now


def all_within(before, now):
    """Are there no more descriptors and threads than before?"""
    return all(now[what] <= before[what] for what in ("descriptors", "threads"))


def main(options):
    """Returns the exit status."""
    counts = collections.Counter()
    with running(options.server) as (server, address):
        asyncio.run(load(address, argparse.Namespace(**{**vars(options), "seconds": 1}), counts,
                         server))  # so that it has what it needs only once
        time.sleep(1)  # for it to close the last connections
        before = holds(server)
        counts.clear()
        early = asyncio.run(load(address, options, counts, server))
        after = settled(server, before)
    print(options.server, json.dumps(counts, indent=2, sort_keys=True))
    print(f"descriptors {before['descriptors']} -> {after['descriptors']}, "
          f"threads {before['threads']} -> {after['threads']}, own memory early under load "
          f"{early['memory'] >> 10} KiB, afterwards {after['memory'] >> 10} KiB")
    failed = [what for what in counts if what.startswith("FAILED")]
    return 1 if failed or not all_within(before, after) else 0


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help=f"a class of the package, or one of {', '.join(PATCHED)}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        sys.exit(main(arguments()))
