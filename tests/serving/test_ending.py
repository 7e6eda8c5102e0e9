"""shutdown() and drain(): how each kind of server ends, and loses nothing."""

import gc
import os
import pathlib
import socket
import sys
import threading

import pytest

pytestmark = [
    pytest.mark.parametrize("implementation", ["fast"], indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")
KINDS = [("TCPServer",), ("ThreadingMixIn", "TCPServer"), ("ThreadPoolMixIn", "TCPServer")]
if hasattr(os, "fork"):
    KINDS.append(("ForkingMixIn", "TCPServer"))
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
every_concurrent_kind = pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind[0])


@every_kind
def test_shutdown_says_that_the_loop_has_ended(make_server, started, kind):
    server = make_server(*kind)
    serving = started(server)
    assert server.shutdown() is True
    assert server.shutdown(0) is True
    serving.result(10)


def test_shutdown_in_time_or_not(make_server, echo_lines, client_of, started):
    server = make_server("TCPServer", handler=echo_lines)
    serving = started(server)
    client = client_of(server)
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
def test_drain_waits_for_requests(
        make_server, echo_lines, client_of, started, background, eventually, kind):
    server = make_server(*kind, handler=echo_lines, daemon_threads=True)
    serving = started(server)
    count = 1 if kind == ("TCPServer",) else 3
    clients = [client_of(server) for _ in range(count)]
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
def test_drain_closes_what_is_left(make_server, echo_lines, client_of, started, kind):
    server = make_server(*kind, handler=echo_lines)
    serving = started(server)
    client = client_of(server)
    assert server.drain(0.01) is False
    assert client.file.read() == b""
    serving.result(10)
    assert server.drain(10) is True
    assert server.requests_in_progress == 0


def test_drain_does_not_wait_for_a_stubborn_thread(make_server, client_of, started):
    leave = threading.Event()

    def handle(self):
        self.wfile.write(b"hello\n")
        leave.wait(60)

    server = make_server("ThreadingMixIn", "TCPServer", handler=handle)
    serving = started(server)
    client = client_of(server)
    assert server.drain(0.01) is False
    serving.result(10)
    assert server.requests_in_progress == 1
    assert client.file.read() == b""
    leave.set()
    assert server.drain(10) is True


@every_kind
def test_drain_before_serve_forever(make_server, kind):
    server = make_server(*kind)
    assert server.drain() is True
    server.serve_forever()


@every_concurrent_kind
def test_drain_after_handle_request(make_server, echo_lines, client_of, background, kind):
    server = make_server(*kind, handler=echo_lines)
    accepting = background(server.handle_request)
    client = client_of(server)
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


def process_request(self, request, client_address):
    """Call the body of the thread in a thread of its own, as pools in programs do."""
    threading.Thread(target=self.process_request_thread, args=(request, client_address)).start()


def process_request_thread(self, request, client_address):
    """Do without the default one, which keeps the books, as pynetdicom does."""
    self.finish_request(request, client_address)
    self.close_request(request)


@pytest.mark.parametrize("own", [process_request, process_request_thread])
def test_requests_of_own_hooks_are_counted(
        make_server, echo_lines, client_of, started, background, own):
    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines, **{own.__name__: own})
    started(server)
    client = client_of(server)
    assert server.requests_in_progress == 1
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True


def test_thread_that_cannot_start_is_not_counted(make_server, connect, monkeypatch, capfd):
    def start(self):
        raise RuntimeError("can't start new thread")

    server = make_server("ThreadingMixIn", "TCPServer")
    monkeypatch.setattr(threading.Thread, "start", start)
    client = connect(server)
    server.handle_request()
    assert client.recv(9) == b""
    assert server.requests_in_progress == 0


@pytest.mark.parametrize("kind", KINDS[1:3], ids=lambda kind: kind[0])
def test_drain_of_200_requests(
        make_server, echo_lines, client_of, started, background, eventually, kind):
    server = make_server(*kind, handler=echo_lines, daemon_threads=True, request_queue_size=200,
                         max_workers=200)
    started(server)
    clients = [client_of(server) for _ in range(200)]
    draining = background(server.drain)
    eventually(lambda: server.fileno() == -1)
    for client in clients:
        assert not draining.done()
        assert client.finish(b"x" * 5000 + b"\n") == b"x" * 5000 + b"\n"
    assert draining.result(10) is True
    assert server.requests_in_progress == 0


@every_kind
def test_ending_twice_and_at_once(make_server, echo_lines, client_of, started, background, kind):
    server = make_server(*kind, handler=echo_lines)
    serving = started(server)
    client = client_of(server)
    calls = [background(call) for call in [server.drain, server.drain, server.shutdown]]
    assert client.finish() == b"last\n"
    calls.append(background(server.server_close))
    assert [call.result(10) for call in calls] == [True, True, True, None]
    serving.result(10)
    server.server_close()
    assert server.drain() is True


def test_drain_waits_for_datagrams_in_threads(make_server, connect, started, background):
    entered, leave = threading.Event(), threading.Event()

    def handle(self):
        entered.set()
        leave.wait(10)
        self.wfile.write(self.rfile.read())

    server = make_server("ThreadingUDPServer", handler=handle, daemon_threads=True)
    started(server)
    client = connect(server, b"packet")
    entered.wait(10)
    draining = background(server.drain)
    with pytest.raises(TimeoutError):
        draining.result(0.05)
    leave.set()
    assert client.recv(99) == b"packet"
    assert draining.result(10) is True


def test_shutdown_and_drain_of_a_server_with_its_own_selector(
        socketserver, echo_lines, client_of, make_server, background, monkeypatch, eventually):
    class OwnSelector(socketserver._ServerSelector):
        pass

    monkeypatch.setattr(socketserver, "_ServerSelector", OwnSelector)
    server = make_server("TCPServer", handler=echo_lines)
    serving = background(server.serve_forever, 0.01)
    client = client_of(server)
    assert server.shutdown(0.01) is False
    assert client.finish() == b"last\n"
    serving.result(10)
    serving = background(server.serve_forever, 0.01)
    client = client_of(server)
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True
    serving.result(10)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_drain_refuses_what_is_no_time(make_server, timeout):
    server = make_server("TCPServer")
    with pytest.raises(ValueError, match="number of seconds"):
        server.drain(timeout)
    with pytest.raises(ValueError, match="number of seconds"):
        server.serve_until_signal(drain_timeout=timeout)
    assert server.fileno() != -1


def test_drain_logs_what_it_closes(make_server, echo_lines, client_of, started, caplog):
    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines)
    started(server)
    clients = [client_of(server) for _ in range(3)]
    assert server.drain(0) is False
    assert [record.getMessage() for record in caplog.records] == [
        "Server: 3 requests were not finished in time and are closed"
    ]
    assert [client.file.read() for client in clients] == [b""] * 3
    assert server.drain(10) is True


def test_server_close_from_a_handler_in_a_thread(make_server, connect, started):
    closed = threading.Event()

    def handle(self):
        self.server.server_close()
        closed.set()

    server = make_server("ThreadingMixIn", "TCPServer", handler=handle)
    serving = started(server)
    connect(server)
    assert closed.wait(10)
    serving.result(10)


def test_shutdown_from_a_handler_in_a_thread_then_drain(make_server, connect, started):
    server = make_server("ThreadingMixIn", "TCPServer",
                         handler=lambda self: self.wfile.write(b"%d" % self.server.shutdown()))
    serving = started(server)
    assert connect(server).recv(9) == b"1"
    serving.result(10)
    assert server.drain(10) is True


@posix
@pytest.mark.untraced(reason="the tracer keeps something of each thread")
@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_many_starts_and_drains_leave_nothing(socketserver, name):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\n")

    def cycle():
        server = getattr(socketserver, name)(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            assert client.recv(9) == b"hello\n"
        assert server.drain(10) is True
        thread.join(10)

    def state():
        gc.collect()
        descriptors = len(list(pathlib.Path("/dev/fd").iterdir()))
        return descriptors, threading.active_count(), sys.getallocatedblocks()

    for _ in range(20):
        cycle()
    before = state()
    for _ in range(1000):
        cycle()
    after = state()
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 200
