"""asyncio and uvloop: streams, which read as simply as a handler, and protocols, which do not."""

import asyncio
import contextlib
import functools
import socket

from bench.contenders.work import BODY

BACKLOG = 1024
LONGEST_LINE = 4 << 20


def asyncio_streams(task, announce):
    """asyncio.start_server."""
    asyncio.run(serve_streams(task, announce))


def asyncio_protocol(task, announce):
    """asyncio with a Protocol or DatagramProtocol."""
    asyncio.run(serve_protocol(task, announce))


def uvloop_streams(task, announce):
    """asyncio.start_server on uvloop's loop."""
    import uvloop

    uvloop.run(serve_streams(task, announce))


def uvloop_protocol(task, announce):
    """A Protocol or DatagramProtocol on uvloop's loop."""
    import uvloop

    uvloop.run(serve_protocol(task, announce))


async def serve_streams(task, announce):
    """Both kinds of loop set TCP_NODELAY by themselves."""
    work = functools.partial(quietly, stream_lines if task.work == "lines" else stream_bulk)
    if task.path:
        start = asyncio.start_unix_server(work, task.path, backlog=BACKLOG, limit=LONGEST_LINE)
    else:
        start = asyncio.start_server(work, *task.address, backlog=BACKLOG, limit=LONGEST_LINE)
    server = await start
    announce(task.transport, server.sockets[0].getsockname())
    await server.serve_forever()


async def quietly(work, reader, writer):
    """The handler, and the end of the connection."""
    with contextlib.suppress(ConnectionError):
        await work(reader, writer)
    writer.close()


async def stream_lines(reader, writer):
    """Echo line by line."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


async def stream_bulk(reader, writer):
    """`P n` and n bytes are taken, `G n` gets n bytes."""
    while line := await reader.readline():
        size = int(line[1:])
        if line[:1] == b"G":
            writer.write(BODY[:size])
        elif len(await reader.readexactly(size)) == size:
            writer.write(b"ok\n")
        await writer.drain()


async def serve_protocol(task, announce):
    """The loop's own servers."""
    loop = asyncio.get_running_loop()
    protocol = Lines if task.work == "lines" else Bulk
    if task.work == "packets":
        listener = datagram_socket(task)
        await loop.create_datagram_endpoint(Packets, sock=listener)
        announce(task.transport, listener.getsockname())
        await loop.create_future()
    elif task.path:
        server = await loop.create_unix_server(protocol, task.path, backlog=BACKLOG)
    else:
        server = await loop.create_server(protocol, *task.address, backlog=BACKLOG)
    announce(task.transport, server.sockets[0].getsockname())
    await server.serve_forever()


def datagram_socket(task):
    """A bound socket of the task's kind."""
    listener = socket.socket(socket.AF_UNIX if task.path else socket.AF_INET, socket.SOCK_DGRAM)
    listener.setblocking(False)
    listener.bind(task.address)
    return listener


class Lines(asyncio.Protocol):
    """Echo line by line; what is not yet a line is kept."""

    def connection_made(self, transport):
        """Remember where to answer."""
        self.transport = transport
        self.rest = bytearray()

    def data_received(self, data):
        """Answer the lines that are whole."""
        if self.rest:
            self.rest += data
            if data.find(b"\n") < 0:
                return
            data = bytes(self.rest)
            self.rest.clear()
        for line in data.splitlines(keepends=True):
            if line.endswith(b"\n"):
                self.transport.write(line)
            else:
                self.rest += line


class Bulk(asyncio.Protocol):
    """`P n` and n bytes are taken, `G n` gets n bytes; one at a time, as the load sends them."""

    def connection_made(self, transport):
        """Remember where to answer."""
        self.transport = transport
        self.body, self.size = bytearray(), None

    def data_received(self, data):
        """Answer a `G n`, or a body that is whole."""
        self.body += data
        if self.size is None:
            self.begin()
        if self.size is not None and len(self.body) >= self.size:
            self.transport.write(b"ok\n")
            self.body, self.size = bytearray(), None

    def begin(self):
        """See whether the line is there that says what follows."""
        line, newline, rest = self.body.partition(b"\n")
        if newline:
            self.body = rest
            if line[:1] == b"G":
                self.transport.write(BODY[: int(line[1:])])
            else:
                self.size = int(line[1:])


class Packets(asyncio.DatagramProtocol):
    """Echo a packet."""

    def connection_made(self, transport):
        """Remember where to answer."""
        self.transport = transport

    def datagram_received(self, data, address):
        """Answer it."""
        self.transport.sendto(data, address)
