"""Servers of asyncio, uvloop and gevent, written as their documentation writes them."""

import asyncio
import contextlib
import socket

BACKLOG = 1024
LONGEST_LINE = 4 << 20


def asyncio_streams(task, announce):
    """asyncio.start_server, which reads as simply as a handler."""
    asyncio.run(serve_streams(task, announce))


def asyncio_protocol(task, announce):
    """asyncio with a Protocol or DatagramProtocol, which does not."""
    asyncio.run(serve_protocol(task, announce))


def uvloop_streams(task, announce):
    """asyncio.start_server on uvloop's loop."""
    import uvloop

    uvloop.run(serve_streams(task, announce))


def uvloop_protocol(task, announce):
    """A Protocol or DatagramProtocol on uvloop's loop."""
    import uvloop

    uvloop.run(serve_protocol(task, announce))


def listener(task, library=socket):
    """A bound socket of the task's kind."""
    family = socket.AF_UNIX if task.path else socket.AF_INET
    kind = socket.SOCK_DGRAM if task.work == "packets" else socket.SOCK_STREAM
    listening = library.socket(family, kind)
    listening.bind(task.address)
    if kind == socket.SOCK_STREAM:
        listening.listen(BACKLOG)
    return listening


async def serve_streams(task, announce):
    """Both kinds of loop set TCP_NODELAY by themselves."""
    listening = listener(task)
    start = asyncio.start_unix_server if task.path else asyncio.start_server
    server = await start(stream_lines, sock=listening, limit=LONGEST_LINE)
    announce(task.transport, listening.getsockname())
    await server.serve_forever()


async def stream_lines(reader, writer):
    """Echo line by line."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    writer.close()


async def serve_protocol(task, announce):
    """The loop's own servers."""
    loop, listening = asyncio.get_running_loop(), listener(task)
    listening.setblocking(False)
    announce(task.transport, listening.getsockname())
    if task.work == "packets":
        await loop.create_datagram_endpoint(Packets, sock=listening)
        await loop.create_future()
    create = loop.create_unix_server if task.path else loop.create_server
    server = await create(Lines, sock=listening, backlog=BACKLOG)
    await server.serve_forever()


class Lines(asyncio.Protocol):
    """Echoes line by line; keeps what is not yet a line."""

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


class Packets(asyncio.DatagramProtocol):
    """Echoes packets."""

    def connection_made(self, transport):
        """Remember where to answer."""
        self.transport = transport

    def datagram_received(self, data, address):
        """Answer it."""
        self.transport.sendto(data, address)


def gevent(task, announce):
    """StreamServer or DatagramServer."""
    import gevent.socket
    from gevent.server import DatagramServer, StreamServer

    if task.work == "packets":
        server = DatagramServer(task.address, lambda data, address: server.sendto(data, address))
    else:
        server = StreamServer(listener(task, gevent.socket), gevent_lines)
    server.start()
    announce(task.transport, server.socket.getsockname())
    server.serve_forever()


def gevent_lines(connection, address):
    """Echo line by line."""
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as received:
        for line in received:
            connection.sendall(line)
