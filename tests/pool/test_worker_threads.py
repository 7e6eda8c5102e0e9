"""The worker threads of a ThreadPoolMixIn: when they start, how they end, who waits for them."""

import contextlib
import os
import socket
import sys
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait


@pytest.mark.skipif(not wait.native, reason="where they do not accept they start when needed")
def test_min_workers_start_with_the_server(pooled, serving, eventually, echo, workers):
    with serving(server := pooled(handler=echo, min_workers=3)):
        eventually(lambda: len(workers(server)) == 3)


def test_idle_workers_end_down_to_min_workers(
        pooled, connect, serving, gate, eventually, way, workers):
    server = pooled(handler=lambda h: gate.handle(h), request_queue_size=16, min_workers=2,
                    max_workers=8, worker_idle_timeout=0.01, **way)
    with serving(server):
        clients = [connect(server) for _ in range(8)]
        assert gate.entered(8)
        assert len(workers(server)) == 8
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 8
        eventually(lambda: len(workers(server)) == 2)
        assert connect(server).recv(9) == b"left"


def test_idle_workers_stay_without_a_timeout(pooled, connect, serving, gate, workers):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=4, worker_idle_timeout=None)
    with serving(server):
        clients = [connect(server) for _ in range(4)]
        assert gate.entered(4)
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 4
        assert len(workers(server)) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_workers", 0), ("max_workers", "8"), ("max_workers", 10**30),
     ("min_workers", -1), ("min_workers", None),
     ("worker_idle_timeout", -1), ("stall_seconds", -1), ("max_connections", 1),
     ("max_connections", "8")],
)
def test_settings_that_make_no_sense(pooled, name, value):
    server = pooled(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be .* not {value!r}"):
        server.serve_forever()


def test_shutdown_ends_idle_workers(pooled, background, eventually, way, echo, ask, workers):
    server = pooled(handler=echo, **way)
    serving = background(server.serve_forever, None)
    assert ask(server) == b"line\n"
    started = time.monotonic()
    server.shutdown()
    assert time.monotonic() - started < 5
    serving.result(10)
    eventually(lambda: workers(server) == [])
    assert os.get_blocking(server.fileno())


def test_shutdown_leaves_busy_workers_alone(
        pooled, connect, background, gate, eventually, way, workers):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=2, **way)
    serving = background(server.serve_forever)
    clients = [connect(server), connect(server)]
    assert gate.entered(2)
    late = connect(server)
    server.shutdown()
    serving.result(10)
    gate.leave.set()
    assert [client.recv(9) for client in clients] == [b"left"] * 2
    eventually(lambda: workers(server) == [])
    assert not gate.inside.acquire(timeout=0)
    again = background(server.serve_forever)
    assert late.recv(9) == b"left"
    server.shutdown()
    again.result(10)


def test_server_close_waits_for_workers(
        pooled, connect, background, gate, eventually, way, workers):
    server = pooled(handler=lambda h: gate.handle(h), **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    eventually(lambda: len(server._threads) >= 1)
    server.shutdown()
    closing = background(server.server_close)
    with pytest.raises(TimeoutError):
        closing.result(0.05)
    gate.leave.set()
    closing.result(10)
    serving.result(10)
    assert client.recv(9) == b"left"
    assert workers(server) == []
    assert len(server._threads) == 0


@pytest.mark.parametrize("attributes", [{"daemon_threads": True}, {"block_on_close": False}])
def test_server_close_does_not_wait(
        pooled, connect, background, gate, attributes, eventually, workers):
    server = pooled(handler=lambda h: gate.handle(h))
    server.daemon_threads = False
    vars(server).update(attributes)
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    server.shutdown()
    server.server_close()
    serving.result(10)
    eventually(lambda: len(workers(server)) == 1)
    gate.leave.set()
    assert client.recv(9) == b"left"
    eventually(lambda: workers(server) == [])


def test_server_close_waits_for_threads_of_the_programs_own(pooled):
    leave = threading.Event()
    server = pooled()
    thread = threading.Thread(target=leave.wait, args=(10,))
    thread.start()
    vars(server).setdefault("_threads", socketserver_fast._Threads()).append(thread)
    threading.Timer(0.05, leave.set).start()
    server.server_close()
    assert not thread.is_alive()


def test_server_close_while_serving(pooled, background, eventually, way, echo, ask, workers):
    server = pooled(handler=echo, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    assert ask(server) == b"line\n"
    server.server_close()
    serving.result(10)
    eventually(lambda: workers(server) == [])


def test_everything_ends_it_at_once_and_twice(
        pooled, connect, background, eventually, way, workers):
    def handle(self):
        server.shutdown()
        server.server_close()
        server.server_close()
        self.wfile.write(b"closed")

    server = pooled(handler=handle, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    client = connect(server)
    others = [background(end) for end in [server.shutdown, server.server_close] * 2]
    for other in [serving, *others]:
        other.result(10)
    eventually(lambda: workers(server) == [])
    with contextlib.suppress(ConnectionError):
        assert client.recv(9) in (b"closed", b"")


@pytest.mark.parametrize("_", range(5))
def test_server_close_in_two_handlers(pooled, connect, background, eventually, way, _, workers):
    """Neither may wait for the other one, also not when that is just being started."""

    def handle(self):
        barrier.wait(10)
        server.server_close()

    barrier = threading.Barrier(2)
    server = pooled(handler=handle, max_workers=2, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    clients = [connect(server), connect(server)]
    assert [client.recv(9) for client in clients] == [b"", b""]
    serving.result(10)
    eventually(lambda: workers(server) == [])


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
@pytest.mark.parametrize("daemon", [False, True])
def test_drain_finishes_what_workers_have(pooled, connect, background, gate, way, daemon):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=2, request_queue_size=16, **way)
    server.daemon_threads = daemon
    serving = background(server.serve_forever)
    clients = [connect(server) for _ in range(6)]
    assert gate.entered(2)
    assert server.requests_in_progress == 2
    draining = background(server.drain, 20)
    with pytest.raises(TimeoutError):
        draining.result(0.05)
    gate.leave.set()
    assert draining.result(20) is True
    serving.result(10)
    assert [client.recv(9) for client in clients] == [b"left"] * 6
    assert server.requests_in_progress == 0
    assert server.fileno() == -1


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no such sockets")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has the name only")
@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_closes_a_listener_of_sequenced_packets(
        make_server, connect, background, gate, eventually, way):
    """As it does that of streams: before it waits for the handlers."""
    server = make_server("ThreadPoolMixIn", "UnixStreamServer", handler=lambda h: gate.handle(h),
                         socket_type=socket.SOCK_SEQPACKET, **way)
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    draining = background(server.drain, 20)
    eventually(lambda: server.fileno() == -1)
    gate.leave.set()
    assert client.recv(9) == b"left"
    assert draining.result(20) is True
    serving.result(10)


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_closes_what_is_left_at_the_deadline(make_server, connect, background, way):
    """A worker that reads finds the end of the stream."""
    ended = threading.Event()

    def handle(self):
        self.rfile.read()
        ended.set()

    server = make_server("ThreadPoolMixIn", "TCPServer", handler=handle, **way)
    serving = background(server.serve_forever)
    client = connect(server, b"line\n")
    assert client.getpeername()
    while not server.requests_in_progress:
        time.sleep(0.001)
    assert server.drain(0.05) is False
    assert ended.wait(10)
    serving.result(10)


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_from_a_worker_is_refused(make_server, serving, way, visit):
    def handle(self):
        try:
            server.drain()
        except RuntimeError as error:
            self.wfile.write(str(error).encode())

    with serving(server := make_server("ThreadPoolMixIn", "TCPServer", handler=handle, **way)):
        assert b"would wait for that to finish" in visit(server)
