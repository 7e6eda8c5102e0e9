"""ThreadPoolMixIn, as a class and put into the stdlib's ThreadingMixIn by patch(threads="pool")."""

import contextvars
import functools
import os
import socket
import sys
import threading
import time

import pytest

import socketserver_fast


@pytest.fixture(params=["class", "patched"])
def socketserver(request):
    """The module with the servers; `pool_mixin` there is the mix-in with the workers."""
    if request.param == "class":
        return socketserver_fast
    socketserver_fast.patch(threads="pool", max_workers=8)
    request.addfinalizer(socketserver_fast.unpatch)
    return __import__("socketserver")


@pytest.fixture
def mixin(socketserver):
    """The name of the mix-in."""
    return "ThreadPoolMixIn" if socketserver is socketserver_fast else "ThreadingMixIn"


@pytest.fixture
def pooled(make_server, mixin):
    """`pooled(handle, max_workers=2)`: a TCP server with a pool."""
    return functools.partial(make_server, mixin, "TCPServer", daemon_threads=True)


class Gate:
    """A handler that says that it runs, and stays until told to leave."""

    def __init__(self):
        self.inside, self.leave = threading.Semaphore(0), threading.Event()
        self.names, self.threads = [], set()

    def __call__(self, handler):
        self.names.append(threading.current_thread().name)
        self.threads.add(threading.current_thread())
        self.inside.release()
        assert self.leave.wait(20)
        handler.wfile.write(b"left")


@pytest.fixture
def gate():
    gate = Gate()
    yield lambda handler: gate(handler)
    gate.leave.set()


@pytest.fixture
def gated():
    gate = Gate()
    yield gate
    gate.leave.set()


@pytest.fixture(params=["workers accept", "serving thread accepts"])
def hook(request):
    """Attributes that make the pool go either of its two ways."""
    if request.param == "workers accept":
        return {}
    return {"verify_request": lambda self, request, client_address: True}


def echo(handler):
    for line in handler.rfile:
        handler.wfile.write(line)


def workers(server):
    return [t for t in threading.enumerate() if "-worker-" in t.name]


def ask(connect, server, text=b"line\n"):
    with connect(server, text) as client:
        return client.recv(99)


def test_answers_many(pooled, connect, serving, hook):
    with serving(server := pooled(handler=echo, **hook)):
        for number in range(100):
            assert ask(connect, server, b"%d\n" % number) == b"%d\n" % number


def test_requests_are_served_at_once_up_to_max_workers(pooled, connect, serving, gated, hook):
    with serving(server := pooled(handler=lambda self: gated(self), max_workers=3, **hook)):
        clients = [connect(server) for _ in range(5)]
        for _ in range(3):
            assert gated.inside.acquire(timeout=10)
        assert not gated.inside.acquire(timeout=0.1)
        assert len(gated.threads) == 3
        gated.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5
        assert len(gated.threads) == 3


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="asks Linux for the queue's length")
def test_nothing_is_accepted_that_is_not_served(pooled, connect, serving, gated, hook):
    """tcpi_unacked of a listener is how many connections the kernel has ready for accept()."""
    with serving(server := pooled(handler=lambda self: gated(self), max_workers=2, **hook)):
        clients = [connect(server) for _ in range(2)]
        for _ in clients:
            assert gated.inside.acquire(timeout=10)
        clients += [connect(server) for _ in range(3)]
        time.sleep(0.1)
        info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[24:28], sys.byteorder) == 3
        gated.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5
