"""gevent's own servers, written as its documentation writes them."""

import contextlib
import socket

from bench.contenders.work import BODY

BACKLOG = 1024


def gevent_servers(task, announce):
    """StreamServer or DatagramServer."""
    from gevent.server import DatagramServer, StreamServer

    if task.work == "packets":
        server = DatagramServer(task.address, lambda data, address: server.sendto(data, address))
    else:
        server = StreamServer(listener(task), lines if task.work == "lines" else bulk)
    server.start()
    announce(task.transport, server.socket.getsockname())
    server.serve_forever()


def listener(task):
    """A listening socket of gevent's kind."""
    import gevent.socket

    family = socket.AF_UNIX if task.path else socket.AF_INET
    listening = gevent.socket.socket(family, socket.SOCK_STREAM)
    listening.bind(task.address)
    listening.listen(BACKLOG)
    return listening


def lines(connection, address):
    """Echo line by line."""
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as received:
        for line in received:
            connection.sendall(line)


def bulk(connection, address):
    """`P n` and n bytes are taken, `G n` gets n bytes."""
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as received:
        for line in received:
            size = int(line[1:])
            if line[:1] == b"G":
                connection.sendall(BODY[:size])
            elif len(received.read(size)) == size:
                connection.sendall(b"ok\n")
