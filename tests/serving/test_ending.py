"""shutdown(), drain(), serve_until_signal(): how each kind of server ends, and loses nothing."""

import contextlib
import gc
import itertools
import json
import logging
import os
import pathlib
import signal
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading

import pytest

import socketserver_fast
from socketserver_fast._serving.serving import give_up_drain, request_drain, serving_thread
from socketserver_fast._sockets import wait

pytestmark = [
    pytest.mark.parametrize("implementation", ["fast"], indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
KINDS = [("TCPServer",), ("ThreadingMixIn", "TCPServer"), ("ThreadPoolMixIn", "TCPServer")]
if hasattr(os, "fork"):
    KINDS.append(("ForkingMixIn", "TCPServer"))
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")
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
        eventually(lambda: serving_thread(server) is not None)
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


def test_drain_before_serve_forever_closes_what_is_queued(make_server, connect):
    """As server_close() does: nobody has accepted it, and a handler may not run before its time."""
    handled = []
    server = make_server("TCPServer", handler=lambda *arguments: handled.append(arguments))
    client = connect(server)
    assert server.drain() is True
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    server.serve_forever()
    assert handled == []


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


def process_request(self, request, client_address):
    """As the pools in programs: calls the thread's body, in a thread of its own."""
    threading.Thread(target=self.process_request_thread, args=(request, client_address)).start()


def process_request_thread(self, request, client_address):
    """As pynetdicom's: does not call the default one, whose bookkeeping it would miss."""
    self.finish_request(request, client_address)
    self.close_request(request)


@pytest.mark.parametrize("own", [process_request, process_request_thread])
def test_requests_of_own_hooks_are_counted(make_server, connect, started, background, own):
    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines, **{own.__name__: own})
    started(server)
    client = Client(connect, server)
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
def test_drain_of_200_requests(make_server, connect, started, background, eventually, kind):
    server = make_server(*kind, handler=echo_lines, daemon_threads=True, request_queue_size=200,
                         max_workers=200)
    started(server)
    clients = [Client(connect, server) for _ in range(200)]
    draining = background(server.drain)
    eventually(lambda: server.fileno() == -1)
    for client in clients:
        assert not draining.done()
        assert client.finish(b"x" * 5000 + b"\n") == b"x" * 5000 + b"\n"
    assert draining.result(10) is True
    assert server.requests_in_progress == 0


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


def test_drain_of_datagrams_handles_what_is_queued(make_server, connect, started, background):
    entered, leave = threading.Event(), threading.Event()

    def handle(self):
        entered.set()
        leave.wait(10)
        self.wfile.write(self.rfile.read())

    server = make_server("UDPServer", handler=handle)
    started(server)
    first = connect(server, b"first")
    entered.wait(10)
    clients = [connect(server, b"queued %d" % number) for number in range(20)]
    draining = background(server.drain)
    leave.set()
    assert first.recv(99) == b"first"
    assert [client.recv(99) for client in clients] == [b"queued %d" % n for n in range(20)]
    assert draining.result(10) is True


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


def test_drain_calls_the_hooks_of_what_is_queued(make_server, connect, started, background):
    """Also where the program accepts by itself, as Odoo does."""
    calls = []

    def _handle_request_noblock(self):
        calls.append("accept")
        super(type(self), self)._handle_request_noblock()

    def service_actions(self):
        calls.append("service")

    server = make_server("TCPServer", handler=echo_lines, service_actions=service_actions,
                         _handle_request_noblock=_handle_request_noblock)
    started(server)
    client = Client(connect, server)
    queued = connect(server)
    queued.shutdown(socket.SHUT_WR)
    calls.clear()
    draining = background(server.drain)
    client.finish()
    assert queued.makefile("rb").read() == b"hello\n"
    assert draining.result(10) is True
    assert calls[-2:] == ["accept", "service"]


def test_drain_at_its_deadline_takes_no_more_of_what_is_queued(
    make_server, connect, started, background
):
    """Where the program accepts by itself, and so handles one before it takes the next."""
    handled = []

    def _handle_request_noblock(self):
        super(type(self), self)._handle_request_noblock()

    def handle(self):
        handled.append(self.request)
        if len(handled) == 2:
            give_up_drain(server)  # as drain() and serve_until_signal() do at the deadline
        self.wfile.write(b"x")

    def service_actions(self):
        if len(handled) == 1:
            request_drain(self)

    server = make_server("TCPServer", handler=handle, service_actions=service_actions,
                         _handle_request_noblock=_handle_request_noblock)
    clients = [connect(server) for _ in range(4)]
    background(server.serve_forever).result(10)
    assert len(handled) == 2
    server.server_close()
    with contextlib.suppress(ConnectionError):
        assert clients[3].recv(1) == b""


@every_kind
def test_drain_leaves_a_shared_listener_open(make_server, connect, started, background, kind):
    """A sibling process that has the listener goes on accepting from it."""
    server = make_server(*kind, handler=echo_lines)
    sibling = make_server("TCPServer", activate=False, handler=echo_lines)
    sibling.server_close()
    sibling.socket, sibling.server_address = server.socket.dup(), server.server_address
    started(server)
    client = Client(connect, server)
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True
    serving = started(sibling)
    client = Client(connect, sibling)
    assert client.finish() == b"last\n"
    sibling.shutdown()
    serving.result(10)


KILLED = """
    import os, signal, socket, sys
    import socketserver_fast as socketserver
    from socketserver_fast._serving.serving import is_draining
    listener = socket.socket(fileno=int(sys.argv[3]))

    def killed(moment):
        if moment == sys.argv[2]:
            os.killpg(0, signal.SIGKILL)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            killed("in a request")
            self.wfile.write(b"hello\\n")
            if self.rfile.readline() == b"end\\n":
                os.kill(server_process, signal.SIGTERM)

    class Server(getattr(socketserver, sys.argv[1])):
        workers = 1

        def get_request(self):
            if is_draining(self):
                killed("while the queue is taken")
            request = super().get_request()
            killed("after an accept")
            return request

        def _stop_accepting(self, *args):
            killed("when the drain begins")
            return super()._stop_accepting(*args)

        def _wait_for_requests(self, *args):
            killed("while requests are waited for")
            return super()._wait_for_requests(*args)

    server_process = os.getpid()
    server = Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    print("serving", flush=True)
    server.serve_until_signal(drain_timeout=5)
    os.killpg(0, signal.SIGKILL)
"""
MOMENTS = ["after an accept", "in a request", "while the queue is taken", "when the drain begins",
           "while requests are waited for"]


@posix
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", [
    "TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "ForkingTCPServer",
    "PreforkTCPServer", "GreenletTCPServer"])
@pytest.mark.usefixtures("implementation")
def test_killed_process_leaves_nothing_on_a_shared_listener(tmp_path, name, moment):
    """Somebody else who has it, a supervisor for example, serves the next clients from it."""
    if not hasattr(socketserver_fast, name):
        pytest.skip("no fork on this platform")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        process = stack.enter_context(subprocess.Popen(
            [sys.executable, script, name, moment, str(listener.fileno())], stdout=-1,
            start_new_session=True, pass_fds=[listener.fileno()]))
        stack.callback(process.kill)
        assert process.stdout.readline() == b"serving\n"
        clients = [socket.create_connection(listener.getsockname(), 10) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)
        with contextlib.suppress(OSError):
            clients[0].sendall(b"end\n")
            for client in clients:
                client.shutdown(socket.SHUT_WR)
        assert process.wait(30) == -signal.SIGKILL
        # A pool and worker processes leave O_NONBLOCK: nobody else can take it away from them.
        if name not in ("ThreadPoolTCPServer", "PreforkTCPServer"):
            assert os.get_blocking(listener.fileno())
        served = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                served.append(self.client_address)

        server = stack.enter_context(
            socketserver.TCPServer(listener.getsockname(), Handler, bind_and_activate=False))
        server.socket.close()
        server.socket, server.timeout = listener, 10
        later = stack.enter_context(socket.create_connection(listener.getsockname(), 10))
        while later.getsockname() not in served:
            before = len(served)
            server.handle_request()
            assert len(served) == before + 1, "it was not served in time"


def test_error_while_the_queue_is_taken(make_server, connect, started, background):
    """What came before it is served."""

    def get_request(self):
        accepted.append(1)
        if len(accepted) == 3:
            raise ValueError("the third")
        return super(type(self), self).get_request()

    accepted = []
    server = make_server("TCPServer", handler=echo_lines, get_request=get_request)
    serving = started(server)
    first = Client(connect, server)
    queued = [connect(server, b"line\n") for _ in range(2)]
    draining = background(server.drain)
    queued[0].shutdown(socket.SHUT_WR)
    first.finish()
    first.file.close()  # the traceback below would keep it
    with queued[0].makefile("rb") as file:
        assert file.read() == b"hello\nline\n"
    with pytest.raises(ValueError, match="the third"):
        serving.result(10)
    assert draining.result(10) is True


def test_handler_that_raises_in_the_queue_leaves_the_others(
        make_server, connect, started, background):
    def handle(self):
        if self.rfile.readline() == b"exit\n":
            raise SystemExit
        self.wfile.write(b"served")

    server = make_server("TCPServer", handler=handle)
    serving = started(server)
    first = connect(server)
    clients = [connect(server, text) for text in [b"exit\n", b"line\n", b"exit\n", b"line\n"]]
    draining = background(server.drain)
    first.sendall(b"line\n")
    replies = [client.makefile("rb").read() for client in [first, *clients]]
    assert replies == [b"served", b"", b"served", b"", b"served"]
    assert draining.result(10) is True
    with pytest.raises(SystemExit):
        serving.result(10)


def test_one_interrupt_leaves_the_queue(make_server, connect, started, background):
    def handle(self):
        if self.rfile.readline() == b"interrupt\n":
            raise KeyboardInterrupt
        self.wfile.write(b"served")

    server = make_server("TCPServer", handler=handle)
    serving = started(server)
    first = connect(server)
    clients = [connect(server, text) for text in [b"line\n", b"interrupt\n", b"line\n"]]
    draining = background(server.drain)
    first.sendall(b"line\n")
    replies = [client.makefile("rb").read() for client in [first, *clients]]
    assert replies == [b"served", b"served", b"", b""]
    assert draining.result(10) is True
    with pytest.raises(KeyboardInterrupt):
        serving.result(10)


def test_shutdown_and_drain_of_a_server_with_its_own_selector(
        socketserver, make_server, connect, background, monkeypatch, eventually):
    class OwnSelector(socketserver._ServerSelector):
        pass

    monkeypatch.setattr(socketserver, "_ServerSelector", OwnSelector)
    server = make_server("TCPServer", handler=echo_lines)
    serving = background(server.serve_forever, 0.01)
    client = Client(connect, server)
    assert server.shutdown(0.01) is False
    assert client.finish() == b"last\n"
    serving.result(10)
    serving = background(server.serve_forever, 0.01)
    client = Client(connect, server)
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


def test_drain_logs_what_it_closes(make_server, connect, started, caplog):
    server = make_server("ThreadingMixIn", "TCPServer", handler=echo_lines)
    started(server)
    clients = [Client(connect, server) for _ in range(3)]
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


DISCONNECTS = [BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError]


@pytest.mark.parametrize("error", DISCONNECTS)
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind[0])
def test_disconnects_are_logged_quietly(make_server, connect, started, caplog, capfd, kind, error):
    def handle(self):
        raise error("gone")

    caplog.set_level(logging.DEBUG, "socketserver_fast")
    server = make_server(*kind, handler=handle, log_disconnects=False)
    started(server)
    client = connect(server)
    assert client.recv(9) == b""
    assert server.drain(10) is True
    [record] = caplog.records
    assert record.levelname == "DEBUG"
    assert str(client.getsockname()) in record.getMessage()
    assert error.__name__ in record.getMessage()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
@pytest.mark.parametrize("quiet", [True, False])
def test_path_of_a_client_cannot_forge_a_line(make_server, unix_path, caplog, capsys, quiet):
    def handle(self):
        raise ConnectionResetError("gone")

    caplog.set_level(logging.DEBUG, "socketserver_fast")
    server = make_server("UnixDatagramServer", handler=handle, log_disconnects=not quiet)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.bind(unix_path() + "\nforged")
        client.sendto(b"packet", server.server_address)
        server.handle_request()
    said = caplog.messages if quiet else capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("forged") or "\n" in line] == []
    assert [line for line in said if "\\nforged" in line] != []


@pytest.mark.parametrize(("quiet", "error"), [(True, ValueError), (False, BrokenPipeError)])
def test_other_errors_are_printed(make_server, connect, capsys, quiet, error):
    def handle(self):
        raise error("this one")

    attributes = {"log_disconnects": False} if quiet else {}
    server = make_server("TCPServer", handler=handle, **attributes)
    connect(server)
    server.handle_request()
    assert "this one" in capsys.readouterr().err


def test_serve_until_signal_outside_of_the_main_thread(make_server, background):
    server = make_server("TCPServer")
    with pytest.raises(RuntimeError, match="main thread"):
        background(server.serve_until_signal).result(10)
    assert server.fileno() != -1


@posix
def test_serve_until_signal_restores_the_handlers(make_server, background, eventually):
    def own_handler(number, frame):
        raise AssertionError("not while the server has it")

    server = make_server("TCPServer")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, own_handler)
    try:
        def send():
            eventually(lambda: serving_thread(server) is not None)
            os.kill(os.getpid(), signal.SIGUSR1)

        sending = background(send)
        assert server.serve_until_signal(signal.SIGUSR1) == signal.SIGUSR1
        sending.result(10)
        assert signal.getsignal(signal.SIGUSR1) is own_handler
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert server.fileno() == -1
    finally:
        signal.signal(signal.SIGUSR1, before[signal.SIGUSR1])


def test_serve_until_signal_ended_by_another_thread(make_server, background, eventually):
    server = make_server("TCPServer")

    def stop():
        eventually(lambda: serving_thread(server) is not None)
        return server.shutdown()

    before = signal.getsignal(signal.SIGINT)
    stopping = background(stop)
    assert server.serve_until_signal() is None
    assert stopping.result(10) is True
    assert signal.getsignal(signal.SIGINT) is before
    assert server.fileno() == -1


@posix
def test_serve_until_signal_refuses_a_signal_that_cannot_be_handled(make_server):
    server = make_server("TCPServer")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="Invalid argument"):
        server.serve_until_signal(signal.SIGTERM, signal.SIGKILL)
    assert signal.getsignal(signal.SIGTERM) is before


def wakeup_fd():
    """What signal.set_wakeup_fd() was last called with."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


@pytest.fixture
def seen_while_serving(make_server, connect):
    """`seen_while_serving()`: the wake-up descriptor while serve_forever() runs in this thread."""

    def serve():
        seen = []
        server = make_server("TCPServer", handler=lambda self: seen.append(wakeup_fd()))
        connect(server)
        server.service_actions = lambda: vars(server).update(_BaseServer__shutdown_request=True)
        server.serve_forever()
        return seen[0]

    return serve


def test_signals_are_written_to_the_loop(seen_while_serving):
    """One that comes just before the loop waits would be noticed at the next wake-up only."""
    assert wakeup_fd() == -1
    assert seen_while_serving() != -1
    assert wakeup_fd() == -1


def test_wakeup_descriptor_of_the_program_stays(seen_while_serving):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        signal.set_wakeup_fd(near.fileno())
        try:
            assert seen_while_serving() == near.fileno()
            assert wakeup_fd() == near.fileno()
        finally:
            signal.set_wakeup_fd(-1)


UNTIL_SIGNAL = """
    import json, socketserver, sys, time

    kind, options = sys.argv[1], json.loads(sys.argv[2])

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            for line in self.rfile:
                self.wfile.write(line)

    class Server(getattr(socketserver, kind)):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        print(json.dumps(server.server_address), flush=True)
        print(repr(server.serve_until_signal(**options)), server.fileno(), flush=True)
"""
STREAM_CLASSES = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"]
if hasattr(os, "fork"):
    STREAM_CLASSES.append("ForkingTCPServer")
every_class = pytest.mark.parametrize("name", STREAM_CLASSES)


@pytest.fixture
def until_signal(python):
    """`until_signal("TCPServer", drain_timeout=1)`: a process in serve_until_signal(), and
    `connected()`, a client of it whose handler is running."""

    with contextlib.ExitStack() as stack:

        def start(name, **options):
            process = python(UNTIL_SIGNAL, name, json.dumps(options))
            address = tuple(json.loads(process.stdout.readline()))

            def connected():
                client = stack.enter_context(socket.create_connection(address, 10))
                assert client.recv(9) == b"hello\n"
                return client

            return process, connected

        yield start


FORKED = """
    import os, signal, socketserver, sys, warnings

    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            if self.server.forks:
                self.tell()
            elif os.fork() == 0:
                self.tell()
                os._exit(0)
            else:
                assert os.wait()[1] == signal.SIGTERM

        def tell(self):
            words = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
            self.wfile.write(f"{(*words, signal.set_wakeup_fd(-1))}\\n".encode())
            self.rfile.readline()
            os.kill(os.getpid(), signal.SIGTERM)

    class Server(getattr(socketserver, sys.argv[1])):
        forks = sys.argv[1].startswith("Forking")
        workers = 1

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_until_signal()
"""


@posix
@pytest.mark.parametrize("name", [*STREAM_CLASSES, "PreforkTCPServer", "GreenletTCPServer"])
def test_forked_child_has_the_signals_of_the_program(python, name):
    """Its parent's handlers would make it ignore the first SIGTERM."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    process = python(FORKED, name)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client, client.makefile("rb") as file:
        # Ctrl-C reaches the child as well, and is its parent's business.
        requests = name.startswith(("Forking", "Prefork"))
        interrupt = "Handlers.SIG_IGN" if requests else "built-in function default_int_handler"
        told = file.readline().decode()
        assert told.startswith("(<Handlers.SIG_DFL: 0>, ")
        assert interrupt in told
        assert told.endswith(", -1)\n")
        client.sendall(b"end\n")
        assert file.read() == b""
    process.terminate()
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


@posix
@every_class
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signal_finishes_requests(until_signal, name, number):
    process, connected = until_signal(name, drain_timeout=60)
    client = connected()
    process.send_signal(number)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    client.sendall(b"last\n")
    client.shutdown(socket.SHUT_WR)
    assert client.makefile("rb").read() == b"last\n"
    out, err = process.communicate(timeout=30)
    assert out == f"{int(number)} -1\n"
    assert process.returncode == 0
    assert err == ""


@posix
@every_class
def test_signal_and_a_request_that_does_not_end(until_signal, name):
    """A plain server's is in the main thread, where the signal's handler runs in between."""
    process, connected = until_signal(name, drain_timeout=0.1)
    client = connected()
    process.send_signal(signal.SIGTERM)
    assert client.recv(9) == b""
    out, err = process.communicate(timeout=30)
    assert out == f"{int(signal.SIGTERM)} -1\n"
    assert err.count("not finished in time") == 1
    assert process.returncode == 0


@posix
@every_class
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_second_signal_ends_at_once(until_signal, name, number):
    process, connected = until_signal(name, drain_timeout=None)
    client = connected()
    for _ in range(100):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            break
    client.close()  # a child goes on to its end, and has the pipes
    _, err = process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == -signal.SIGTERM
    else:
        assert process.returncode in (-signal.SIGINT, 1)
        assert "KeyboardInterrupt" in err


@posix
@every_class
def test_sigterm_under_load_answers_what_was_accepted(until_signal, name):
    """Each of eight clients connects anew until it is refused; each connection is answered.

    But for one that was made after the last look at the queue, before the listener was closed: it
    is reset. See _serving/loop.pyx for how many those are.
    """
    for _ in range(3):  # for a machine that lets the server wait just then
        failed = drained_under_load(*until_signal(name, drain_timeout=60))
        if len(failed) <= 2:
            return
    pytest.fail(f"{len(failed)} connections were reset")


def drained_under_load(process, connected):
    """The errors of the eight clients."""
    answered, failed, counter = [], [], itertools.count(1)

    def load():
        while True:
            try:
                client = connected()
            except ConnectionRefusedError:
                return
            except BaseException as error:
                failed.append(error)
                return
            with client:
                client.sendall(b"line\n")
                client.shutdown(socket.SHUT_WR)
                answered.append(client.makefile("rb").read())
            if next(counter) == 100:
                process.send_signal(signal.SIGTERM)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    out, err = process.communicate(timeout=30)
    assert [error for error in failed if not isinstance(error, ConnectionResetError)] == []
    assert len(answered) >= 100
    assert set(answered) == {b"line\n"}
    assert (out, err) == (f"{int(signal.SIGTERM)} -1\n", "")
    return failed


ENDED_BY_HANDLER = """
    import signal, socketserver, sys, threading

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            self.wfile.write(self.rfile.readline())

    def end(number, frame):
        try:
            getattr(server, sys.argv[2])()
        except RuntimeError as error:
            assert "another thread" in str(error)
            threading.Thread(target=getattr(server, sys.argv[2])).start()

    server = getattr(socketserver, sys.argv[1])(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, end)
    print(server.server_address[1], flush=True)
    server.serve_forever(None)
    server.server_close()
    print("closed", flush=True)
"""


@posix
@pytest.mark.parametrize("method", ["shutdown", "drain", "server_close"])
@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_ended_by_a_signals_handler_twice(python, name, method):
    """It runs in the serving thread, where shutdown() and drain() are refused."""
    process = python(ENDED_BY_HANDLER, name, method)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client:
        assert client.recv(9) == b"hello\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        client.sendall(b"last\n")
        assert client.makefile("rb").read() == b"last\n"
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("closed\n", "", 0)


@pytest.mark.parametrize("base", ["TCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"])
@pytest.mark.parametrize("method", ["set", "clear"])
def test_shutdown_in_a_signal_handler_that_interrupts_the_event(socketserver, base, method):
    """A signal may come while serve_forever() holds the lock of the event on which others wait."""
    said = []

    class Event(threading.Event):
        """One whose methods are interrupted before and after the flag has changed."""

        def interrupted(self, change):
            with self._cond:
                call()
                change(self)
                call()

        def set(self):
            self.interrupted(lambda self: setattr(self, "_flag", True))
            super().set()

        def clear(self):
            self.interrupted(lambda self: setattr(self, "_flag", False))

    def call():
        if sys._getframe(2).f_code.co_name == method:
            try:
                said.append(server.shutdown(5))
            except RuntimeError:
                said.append("refused")

    with getattr(socketserver, base)(("127.0.0.1", 0), None) as server:
        server._BaseServer__is_shut_down = Event()
        server._BaseServer__is_shut_down._flag = True
        server._BaseServer__shutdown_request = True
        server.serve_forever()
    assert said == (["refused", True] if method == "set" else [True, "refused"])


EXIT = """
    import socketserver, sys, threading
    running = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            running.set()
            self.wfile.write(self.rfile.readline())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = sys.argv[1] == "True"

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.handle_request()
    running.wait()
    print(server.requests_in_progress, flush=True)
"""


@pytest.mark.parametrize("daemon", [True, False])
def test_exit_of_the_interpreter_with_requests_in_progress(python, daemon):
    process = python(EXIT, daemon)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client:
        assert client.recv(9) == b"hello\n"
        assert process.stdout.readline() == "1\n"
        if not daemon:
            client.sendall(b"last\n")
        assert client.makefile("rb").read() == (b"" if daemon else b"last\n")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@posix
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(("name", "lines"), [
    ("TCPServer", 100), ("ThreadingTCPServer", 100), ("PreforkTCPServer", 60)])
def test_interrupted_at_any_line_leaves_nothing(name, lines):
    """Of a server with workers the lines before it handles SIGINT itself."""
    script = pathlib.Path(__file__).parent / "interrupted.py"
    done = subprocess.run([sys.executable, script, name, str(lines)], capture_output=True,
                          text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("", "")


# Kept connections of HTTP.

KEPT = """
    import http.server, os, signal, socketserver, sys, time

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Of the module under test, whatever http.server was imported with.
        setup = socketserver.StreamRequestHandler.setup

        def do_GET(self):
            if self.path == "/slow":
                os.kill(main, signal.SIGTERM)
                time.sleep(0.3)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def do_POST(self):
            os.kill(main, signal.SIGTERM)
            time.sleep(0.3)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    class Server(*[getattr(socketserver, name) for name in sys.argv[1].split("+")]):
        workers = 1

    main = os.getpid()
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        print(server.serve_until_signal(drain_timeout=60), flush=True)
"""
compiled = pytest.mark.skipif(not wait.native, reason="the compiled reader sees them")
KEEPING = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]
if hasattr(os, "fork"):
    KEEPING += ["PreforkMixIn+" + name for name in KEEPING]
GET, SLOW = b"GET / HTTP/1.1\r\n\r\n", b"GET /slow HTTP/1.1\r\n\r\n"


@pytest.fixture
def keeping(python):
    """`keeping("TCPServer")`: its process, and `connected()`, a client with an open file."""
    with contextlib.ExitStack() as stack:

        def start(name):
            if "Greenlet" in name:
                pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
            process = python(KEPT, name)
            address = "127.0.0.1", int(process.stdout.readline())

            def connected():
                client = stack.enter_context(socket.create_connection(address, 10))
                return client, stack.enter_context(client.makefile("rb"))

            return process, connected

        yield start


def ended(process):
    """Wait for its end, much sooner than drain_timeout; what it printed."""
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    return out


def read_body(file, body=b"hello"):
    """Read one answer, whose body this has to be."""
    while file.readline() not in (b"\r\n", b""):
        pass
    assert file.read(len(body)) == body


@compiled
@posix
@pytest.mark.parametrize("name", KEEPING)
def test_kept_connection_does_not_hold_up_the_end(keeping, name):
    process, connected = keeping(name)
    client, file = connected()
    client.sendall(GET)
    read_body(file)
    process.terminate()
    assert file.read() == b""
    assert ended(process) == f"{int(signal.SIGTERM)}\n"


@compiled
@posix
@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_request_under_way_is_finished_and_then_its_kept_connection_ends(keeping, name, before):
    """Also the one that came together with it."""
    process, connected = keeping(name)
    client, file = connected()
    if before:
        client.sendall(before)
        read_body(file)
    client.sendall(SLOW + GET)
    read_body(file)
    read_body(file)
    assert file.read() == b""
    assert ended(process) == f"{int(signal.SIGTERM)}\n"


@compiled
@posix
@pytest.mark.parametrize("name", KEEPING)
def test_body_and_head_under_way_are_waited_for(keeping, name):
    process, connected = keeping(name)
    client, file = connected()
    client.sendall(GET)
    read_body(file)
    client.sendall(b"POST / HTTP/1.1\r\nContent-")
    client.sendall(b"Length: 6\r\n\r\n")
    client.settimeout(0.8)
    with pytest.raises(TimeoutError):  # it has got its signal, and waits for the body
        client.recv(1)
    client.settimeout(10)
    client.sendall(b"bo")
    client.sendall(b"dy!!")
    with client.makefile("rb") as answer:
        read_body(answer, b"body!!")
        assert answer.read() == b""
    assert ended(process) == f"{int(signal.SIGTERM)}\n"


@compiled
@posix
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_connection_without_a_request_yet_is_waited_for(keeping, name):
    """Its first one may be under way."""
    process, connected = keeping(name)
    client, file = connected()
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert file.read().endswith(b"hello")  # it obeys signals by now
    client, file = connected()
    if name == "TCPServer":
        client.sendall(b"G")
    other, other_file = connected()
    other.sendall(GET)
    if name != "TCPServer":
        read_body(other_file)
    process.terminate()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    client.sendall(GET if name != "TCPServer" else GET[1:])
    with client.makefile("rb") as answer:
        read_body(answer)
        assert answer.read() == b""
    if name == "TCPServer":
        read_body(other_file)
    assert ended(process) == f"{int(signal.SIGTERM)}\n"
