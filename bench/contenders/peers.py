"""Servers of asyncio, uvloop and gevent, written as their documentation writes them."""

import asyncio
import contextlib

BACKLOG = 1024
LONGEST_LINE = 4 << 20


def asyncio_streams(task, announce):
    asyncio.run(streams(task, announce))


def uvloop_streams(task, announce):
    import uvloop

    uvloop.run(streams(task, announce))


def uvloop_bytes(task, announce):
    """Echo bytes without looking for lines: what Python can reach at best."""
    import uvloop

    uvloop.run(serve_bytes(task, announce))


async def streams(task, announce):
    """Serve lines; the loop sets TCP_NODELAY by itself."""
    server = await asyncio.start_server(echo, *task.address, backlog=BACKLOG, limit=LONGEST_LINE)
    announce()
    await server.serve_forever()


async def echo(reader, writer):
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    writer.close()


async def serve_bytes(task, announce):
    loop = asyncio.get_running_loop()
    if task.work == "packets":
        await loop.create_datagram_endpoint(Bytes, task.address)
    else:
        await loop.create_server(Bytes, *task.address, backlog=BACKLOG)
    announce()
    await loop.create_future()


class Bytes(asyncio.Protocol, asyncio.DatagramProtocol):
    """Echoes bytes and packets."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


def gevent(task, announce):
    from gevent.server import DatagramServer, StreamServer

    if task.work == "packets":
        server = DatagramServer(task.address, lambda data, address: server.sendto(data, address))
    else:
        server = StreamServer(task.address, gevent_echo, backlog=BACKLOG)
    server.start()
    announce()
    server.serve_forever()


def gevent_echo(connection, address):
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as received:
        for line in received:
            connection.sendall(line)
