"""shutdown(), drain(), serve_until_signal(): how each kind of server ends, and loses nothing."""

import os
import socket
import threading
import time

import pytest

pytestmark = [
    pytest.mark.parametrize("implementation", ["fast"], indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
KINDS = [("TCPServer",), ("ThreadingMixIn", "TCPServer")]
if hasattr(os, "fork"):
    KINDS.append(("ForkingMixIn", "TCPServer"))
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
CONCURRENT = KINDS[1:]
every_concurrent_kind = pytest.mark.parametrize("kind", CONCURRENT, ids=lambda kind: kind[0])


def echo_lines(self):
    """Says hello, so that the client knows that it runs, and echoes lines until the end."""
    self.wfile.write(b"hello\n")
    for line in self.rfile:
        self.wfile.write(line)


@pytest.fixture
def started(background, eventually):
    """`started(server)`: serve_forever in a thread, already in its loop; returns its Future."""

    def start(server):
        serving = background(server.serve_forever)
        eventually(lambda: "_loop" in vars(server))
        return serving

    return start


class Client:
    """A client of echo_lines whose handler is running."""

    def __init__(self, connect, server):
        self.socket = connect(server)
        self.file = self.socket.makefile("rb")
        assert self.file.readline() == b"hello\n"

    def finish(self, text=b"last\n"):
        """Send a last line; what comes back up to the end."""
        self.socket.sendall(text)
        # Not close(): a forked handler has a copy of this socket.
        self.socket.shutdown(socket.SHUT_WR)
        return self.file.read()


@every_kind
def test_shutdown_says_that_the_loop_has_ended(make_server, started, kind):
    server = make_server(*kind)
    serving = started(server)
    assert server.shutdown() is True
    assert server.shutdown(0) is True
    serving.result(10)


def test_shutdown_in_time_or_not(make_server, connect, started):
    server = make_server("TCPServer", handler=echo_lines)
    serving = started(server)
    client = Client(connect, server)
    assert server.shutdown(0.01) is False
    assert client.finish() == b"last\n"
    serving.result(10)
    assert server.shutdown(10) is True


def test_shutdown_before_serve_forever(make_server, background):
    server = make_server("TCPServer")
    assert server.shutdown(0.01) is False
    stopping = background(server.shutdown)
    with pytest.raises(TimeoutError):
        stopping.result(0.05)
    server.serve_forever()
    assert stopping.result(10) is True


@pytest.mark.parametrize("method", ["shutdown", "drain"])
def test_stopping_from_the_serving_thread(make_server, connect, started, method):
    def handle(self):
        with pytest.raises(RuntimeError, match=rf"{method}\(\) .* another thread"):
            getattr(self.server, method)()
        self.wfile.write(b"refused")

    server = make_server("TCPServer", handler=handle)
    serving = started(server)
    for _ in range(2):
        assert connect(server).makefile("rb").read() == b"refused"
    server.shutdown()
    serving.result(10)


@every_kind
def test_drain_of_an_idle_server(make_server, started, kind):
    server = make_server(*kind)
    serving = started(server)
    assert server.drain() is True
    serving.result(10)
    assert server.fileno() == -1
    assert server.requests_in_progress == 0


@every_kind
def test_drain_waits_for_requests(make_server, connect, started, background, eventually, kind):
    server = make_server(*kind, handler=echo_lines, daemon_threads=True)
    serving = started(server)
    count = 1 if kind == ("TCPServer",) else 3
    clients = [Client(connect, server) for _ in range(count)]
    eventually(lambda: server.requests_in_progress == count)
    draining = background(server.drain, 60)
    with pytest.raises(TimeoutError):
        draining.result(0.05)
    for client in clients:
        assert client.finish() == b"last\n"
    assert draining.result(10) is True
    serving.result(10)
    assert server.requests_in_progress == 0


@every_kind
def test_drain_closes_what_is_left(make_server, connect, started, kind):
    server = make_server(*kind, handler=echo_lines)
    serving = started(server)
    client = Client(connect, server)
    assert server.drain(0.01) is False
    assert client.file.read() == b""
    serving.result(10)
    assert server.drain(10) is True
    assert server.requests_in_progress == 0


def test_drain_does_not_wait_for_a_stubborn_thread(make_server, connect, started):
    leave = threading.Event()

    def handle(self):
        self.wfile.write(b"hello\n")
        leave.wait(60)

    server = make_server("ThreadingMixIn", "TCPServer", handler=handle)
    serving = started(server)
    client = Client(connect, server)
    assert server.drain(0.01) is False
    serving.result(10)
    assert server.requests_in_progress == 1
    assert client.file.read() == b""
    leave.set()
    assert server.drain(10) is True


def test_drain_serves_what_is_queued(make_server, connect, started, background):
    server = make_server("TCPServer", handler=echo_lines)
    serving = started(server)
    client = Client(connect, server)
    queued = [connect(server, b"line\n") for _ in range(4)]
    draining = background(server.drain)
    for waiting in queued:
        waiting.shutdown(socket.SHUT_WR)
    assert client.finish() == b"last\n"
    for waiting in queued:
        assert waiting.makefile("rb").read() == b"hello\nline\n"
    assert draining.result(10) is True
    serving.result(10)


def test_drain_closes_the_listener_before_it_handles_the_queue(
        make_server, connect, started, background):
    server = make_server("TCPServer", handler=echo_lines)
    started(server)
    client, queued = Client(connect, server), connect(server)
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert queued.recv(9) == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    assert server.requests_in_progress == 1
    queued.shutdown(socket.SHUT_WR)
    assert draining.result(10) is True


@every_kind
def test_drain_before_serve_forever(make_server, kind):
    server = make_server(*kind)
    assert server.drain() is True
    server.serve_forever()


@every_concurrent_kind
def test_drain_after_handle_request(make_server, connect, background, kind):
    server = make_server(*kind, handler=echo_lines)
    accepting = background(server.handle_request)
    client = Client(connect, server)
    accepting.result(10)
    assert server.requests_in_progress == 1
    draining = background(server.drain)
    with pytest.raises(TimeoutError):
        draining.result(0.05)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True


def test_drain_from_a_request_in_a_thread(make_server, connect, started):
    def handle(self):
        with pytest.raises(RuntimeError, match="another thread"):
            self.server.drain()
        self.wfile.write(b"refused")

    server = make_server("ThreadingMixIn", "TCPServer", handler=handle)
    started(server)
    assert connect(server).makefile("rb").read() == b"refused"
    assert server.drain(10) is True


@every_kind
def test_drain_leaves_no_request_counted_after_errors(make_server, connect, started, kind, capfd):
    def handle(self):
        raise ValueError("bad")

    server = make_server(*kind, handler=handle)
    started(server)
    for _ in range(3):
        assert connect(server).recv(9) == b""
    assert server.drain(10) is True
    assert server.requests_in_progress == 0


def test_thread_that_cannot_start_is_not_counted(make_server, connect, monkeypatch, capfd):
    def start(self):
        raise RuntimeError("can't start new thread")

    server = make_server("ThreadingMixIn", "TCPServer")
    monkeypatch.setattr(threading.Thread, "start", start)
    client = connect(server)
    server.handle_request()
    assert client.recv(9) == b""
    assert server.requests_in_progress == 0


def test_requests_of_an_own_process_request_thread_are_counted(
        make_server, connect, started, background):
    """pynetdicom's does not call the default one, whose bookkeeping it would miss."""

    def process_request_thread(self, request, client_address):
        self.finish_request(request, client_address)
        self.close_request(request)

    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines,
                         process_request_thread=process_request_thread)
    started(server)
    client = Client(connect, server)
    assert server.requests_in_progress == 1
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True


def test_drain_of_200_requests(make_server, connect, started, background, eventually):
    """Nothing lost, and back soon after the last one; the seconds are for a busy machine."""
    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines, daemon_threads=True,
                         request_queue_size=200)
    started(server)
    clients = [Client(connect, server) for _ in range(200)]
    draining = background(server.drain)
    eventually(lambda: server.fileno() == -1)
    for client in clients:
        assert not draining.done()
        assert client.finish(b"x" * 5000 + b"\n") == b"x" * 5000 + b"\n"
    last = time.monotonic()
    assert draining.result(10) is True
    assert time.monotonic() - last < 2


@every_kind
def test_ending_twice_and_at_once(make_server, connect, started, background, kind):
    server = make_server(*kind, handler=echo_lines)
    serving = started(server)
    client = Client(connect, server)
    calls = [background(call) for call in [server.drain, server.drain, server.shutdown]]
    assert client.finish() == b"last\n"
    calls.append(background(server.server_close))
    assert [call.result(10) for call in calls] == [True, True, True, None]
    serving.result(10)
    server.server_close()
    assert server.drain() is True
