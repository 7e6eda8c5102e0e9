"""ThreadPoolMixIn when threads or descriptors are missing, clients misbehave, or handlers fork."""

import contextlib
import functools
import os
import socket
import struct
import sys
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait


@pytest.fixture
def refuse_workers(monkeypatch):
    """`refuse_workers(1)`: the system starts one worker more, then none, until `None`."""
    left = [None]
    start = threading.Thread.start

    def refusing(self):
        if "-worker-" in self.name and left[0] is not None:
            if left[0] == 0:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return functools.partial(left.__setitem__, 0)


def test_no_worker_can_be_started(pooled, serving, refuse_workers, way, echo, ask, visit):
    errors = []
    server = pooled(
        handler=echo, handle_error=lambda self, *_: errors.append(sys.exc_info()[0]), **way)
    refuse_workers(0)
    with serving(server):
        for _ in range(3):
            assert visit(server) == b""
        assert errors == [RuntimeError] * 3
        refuse_workers(None)
        assert ask(server) == b"line\n"
    assert len(errors) == 3


def test_requests_wait_when_only_one_worker_can_be_started(
        pooled, connect, serving, refuse_workers, gate, way):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=4, **way)
    refuse_workers(1)
    with serving(server):
        clients = [connect(server) for _ in range(5)]
        assert gate.entered()
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5


@pytest.mark.skipif(not wait.native, reason="where the workers do not accept")
def test_closed_while_it_begins(pooled, monkeypatch):
    def pipe():
        server.socket.close()
        pipes.extend(original())
        return pipes[-2:]

    pipes, original, server = [], os.pipe, pooled()
    monkeypatch.setattr(os, "pipe", pipe)
    server.serve_forever()
    assert len(pipes) == 2
    for fd in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.skipif(not wait.native, reason="where the workers do not accept")
def test_closed_while_it_ends(pooled, background, monkeypatch, eventually, workers):
    """serve_forever() gives the listener back: it must be blocking again, if it is still there."""
    def set_blocking(fd, blocking):
        if blocking:
            server.socket.close()
        original(fd, blocking)

    original, server = os.set_blocking, pooled()
    monkeypatch.setattr(os, "set_blocking", set_blocking)
    serving = background(server.serve_forever)
    eventually(lambda: workers(server))
    server.shutdown()
    assert serving.result(10) is None


def test_two_servers_share_a_listener(pooled, serving, echo, ask):
    """As processes do: the one that comes too late must not wait in accept()."""
    first, second = pooled(handler=echo), pooled(handler=echo, activate=False)
    second.socket.close()
    second.socket = first.socket.dup()
    second.server_address = first.server_address
    with serving(first), serving(second):
        for number in range(100):
            assert ask(first, b"%d\n" % number) == b"%d\n" % number


def behave_badly(address, number):
    """A client that says nothing, leaves half a line, resets, or stops sending, and then leaves."""
    with contextlib.suppress(ConnectionError), socket.create_connection(address, 10) as client:
        if number % 4:
            client.sendall(b"half a line")
        if number % 4 == 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 4 == 3:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(99) == b"half a line"


def test_ten_thousand_connections_of_all_kinds(pooled, background, serving, echo, workers):
    """Four clients at a time, of which every other connection behaves well, for four workers, of
    which silent and slow clients would keep six."""

    def visit_often(server):
        answered = 0
        for number in range(1250):
            behave_badly(server.server_address, number)
            with socket.create_connection(server.server_address, 60) as client:
                client.sendall(b"%d\n" % number)
                answered += client.recv(99) == b"%d\n" % number
        return answered

    def say_slowly(server):
        lines = 0
        with socket.create_connection(server.server_address, 60) as client:
            while not done.is_set():
                for byte in b"slow\n":
                    client.sendall(bytes([byte]))
                    done.wait(0.005)
                assert client.recv(9) == b"slow\n"
                lines += 1
        return lines

    done = threading.Event()
    server = pooled(handler=echo, max_workers=4, request_queue_size=128,
                    handle_error=lambda *_: None)
    with serving(server):
        silent = [socket.create_connection(server.server_address, 10) for _ in range(4)]
        slow = [background(say_slowly, server) for _ in range(2)]
        clients = [background(visit_often, server) for _ in range(4)]
        assert [client.result(100) for client in clients] == [1250] * 4
        # A visitor whose wait was found to be long while all four waited has a thread more.
        assert 0 < len(workers(server)) <= 4 + len(silent) + len(slow) + len(clients)
        done.set()
        assert all(client.result(60) > 0 for client in slow)
        for client in silent:
            client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_in_a_handler(pooled, serving, way, visit):
    """The child that comes back from the handler must not go on as a worker."""

    def handle(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        else:
            self.wfile.write(b"%d" % os.getppid())

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(2):
            assert visit(server) == b"%d" % os.getpid()


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="only without the GIL")
def test_workers_run_in_parallel_without_the_gil(pooled, connect, serving):
    """Each counts by itself until it sees the other one count: with one at a time neither would."""
    counters = [0, 0]
    numbers = iter([0, 1])

    def handle(self):
        mine = next(numbers)
        deadline = time.monotonic() + 20
        before = counters[1 - mine]
        while counters[1 - mine] < before + 3 and time.monotonic() < deadline:
            counters[mine] += 1
        counters[mine] += 1000
        self.wfile.write(b"seen" if time.monotonic() < deadline else b"not seen")

    with serving(server := pooled(handler=handle)):
        clients = [connect(server), connect(server)]
        assert [client.recv(9) for client in clients] == [b"seen"] * 2
    assert not sys._is_gil_enabled()


def test_every_serve_forever_after_another_accepts():
    """A worker that is about to end at the end of one may find that the next has begun."""

    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    server = socketserver_fast.ThreadPoolTCPServer(("127.0.0.1", 0), Handler)
    for _ in range(300):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"line\n")
            assert client.recv(9) == b"line\n"
        assert server.shutdown(10)
        thread.join()
    server.server_close()
