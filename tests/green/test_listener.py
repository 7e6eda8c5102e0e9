"""The listener of a greenlet server: what its connections get from it, and others who share it."""

import contextlib
import os
import socket
import socketserver as stdlib
import struct
import time

import pytest

import socketserver_fast

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)

LIMIT = struct.pack("ll", 0, 10_000)  # struct timeval: 10 ms
LATE = 0.05  # seconds


def limit(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LIMIT)


def receive_late(server, client_of):
    """What a handler without a timeout receives from a client that is late."""
    server.outcomes = []
    client = client_of(server)
    while not server.outcomes:
        time.sleep(LATE)
        with contextlib.suppress(OSError):  # the handler has ended
            client.send(b"x")
    return server.outcomes


@pytest.mark.parametrize("family", ["TCP", "UnixStream"])
@pytest.mark.parametrize("when", ["never", "at first", "later", "on the connection"])
def test_time_limit_of_the_kernel_is_that_of_a_blocking_socket(
    make_green, serving, connect, unix_path, family, when
):
    """A connection may inherit SO_RCVTIMEO from the listener; it is asked for once."""
    def handle(handler):
        if handler.server.limits_connections:
            limit(handler.request)
        try:
            handler.server.outcomes.append(handler.request.recv(1))
        except OSError as error:
            handler.server.outcomes.append(repr(error))

    def outcomes(server):
        server.limits_connections = False
        if when == "at first":
            limit(server.socket)
        with serving(server):
            yield receive_late(server, connect)
            if when == "later":
                limit(server.socket)
            server.limits_connections = when == "on the connection"
            yield receive_late(server, connect)

    def stdlib_server():
        address = unix_path() if family == "UnixStream" else ("127.0.0.1", 0)
        handler = type("Handler", (stdlib.StreamRequestHandler,), {"handle": handle})
        return getattr(stdlib, f"Threading{family}Server")(address, handler)

    ours = make_green(handle, base=getattr(socketserver_fast, f"Greenlet{family}Server"))
    assert list(outcomes(ours)) == list(outcomes(stdlib_server()))


def test_two_servers_of_one_listener_wake_for_each_connection(
    make_green, serving, connect, receive
):
    """The one that is overtaken goes on with what it has."""
    first = make_green()
    second = make_green(base=type("Second", (socketserver_fast.GreenletTCPServer,), {}))
    second.socket.close()
    second.socket = first.socket.dup()
    with serving(first), serving(second):
        kept = [connect(first) for _ in range(8)]
        for number in range(100):
            client = connect(first, b"%03d\n" % number)
            assert receive(client, 4) == b"%03d\n" % number
            client.close()
            for one in kept:
                one.sendall(b"line\n")
                assert receive(one, 5) == b"line\n"
        for one in kept:
            one.close()
        assert os.get_blocking(first.fileno())
