"""Bad clients, bad handlers, missing descriptors, closed listeners: a clear error or the stdlib's
behaviour, and the server goes on. (Wrong addresses: test_servers.py; leaks: test_leaks.py.)"""

import contextlib
import errno
import json
import os
import pathlib
import socket
import struct
import sys
import time

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
improved = pytest.mark.parametrize("implementation", ["fast", "patched"], indirect=True)
MIXINS = [None, "ThreadingMixIn"]
if hasattr(os, "fork"):
    MIXINS.append("ForkingMixIn")
EXHAUSTED = pathlib.Path(__file__).parent / "exhausted.py"


def echo_line(self):
    self.wfile.write(self.rfile.readline(65537))


@pytest.fixture
def quiet_server(make_server):
    """`quiet_server(mixin, handler)`: a TCP server that keeps the errors of its requests."""

    def make(mixin=None, handler=echo_line, **attributes):
        def handle_error(self, request, client_address):
            self.errors.append(sys.exc_info()[0])

        bases = [mixin, "TCPServer"] if mixin else ["TCPServer"]
        attributes = {"errors": [], "handle_error": handle_error, **attributes}
        return make_server(*bases, handler=handler, **attributes)

    return make


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_a_line(client):
    client.sendall(b"half a li")
    client.close()


def half_a_line_then_reset(client):
    client.sendall(b"half a li")
    reset(client)


def end_of_stream_only(client):
    client.shutdown(socket.SHUT_WR)
    assert client.recv(9) == b""


def more_than_is_read(client):
    client.sendall(b"line\n" * 1000)
    assert client.recv(9) == b"line\n"


BAD_CLIENTS = [
    socket.socket.close,
    reset,
    half_a_line,
    half_a_line_then_reset,
    end_of_stream_only,
    more_than_is_read,
]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("mixin", MIXINS)
@pytest.mark.parametrize("behave", BAD_CLIENTS, ids=lambda function: function.__name__)
def test_client_misbehaving(quiet_server, connect, serving, behave, mixin):
    with serving(server := quiet_server(mixin, {"handle": echo_line, "timeout": 0.5})):
        for _ in range(3):
            behave(connect(server))
        assert connect(server, b"good\n").recv(9) == b"good\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("mixin", MIXINS)
def test_client_silent(quiet_server, connect, serving, mixin):
    """The handler's timeout ends the request; meanwhile a synchronous server serves nobody."""
    with serving(server := quiet_server(mixin, {"handle": echo_line, "timeout": 0.05})):
        assert connect(server).recv(9) == b""
        assert connect(server, b"good\n").recv(9) == b"good\n"
    if mixin != "ForkingMixIn":
        assert server.errors == [TimeoutError]


@pytest.mark.parametrize("mixin", MIXINS[:2])
def test_client_that_does_not_read(quiet_server, connect, serving, mixin):
    def handle(self):
        if self.rfile.readline() == b"much\n":
            self.wfile.write(bytes(64 << 20))
        self.wfile.write(b"done")

    with serving(server := quiet_server(mixin, {"handle": handle, "timeout": 0.1})):
        deaf = connect(server, b"much\n")
        assert connect(server, b"little\n").recv(9) == b"done"
        reset(deaf)
    assert len(server.errors) == 1
    assert issubclass(server.errors[0], OSError)


def test_line_without_end_against_a_limit(quiet_server, connect, serving):
    """100 MB sent, 65537 bytes read: the rest is refused, not kept."""
    with serving(server := quiet_server()):
        client = connect(server)
        sent, block = 0, bytes(1 << 20)
        with contextlib.suppress(ConnectionError):
            while sent < 100 << 20:
                client.sendall(block)
                sent += len(block)
        assert sent < 100 << 20
        assert connect(server, b"good\n").recv(9) == b"good\n"


def test_line_without_end_read_in_limited_steps(quiet_server, connect, serving):
    def handle(self):
        sizes = set()
        while line := self.rfile.readline(65536):
            sizes.add(len(line))
        self.wfile.write(b"%d %d" % (max(sizes), len(sizes)))

    with serving(server := quiet_server(handler=handle)):
        client = connect(server)
        for _ in range(100):
            client.sendall(bytes(1 << 20))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(99) == b"65536 1"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("mixin", MIXINS)
@pytest.mark.parametrize("method", ["setup", "handle", "finish"])
def test_handler_raising(quiet_server, socketserver, connect, serving, mixin, method):
    def fail(self):
        getattr(socketserver.StreamRequestHandler, method)(self)
        raise ValueError(method)

    server = quiet_server(mixin, {method: fail})
    with serving(server):
        for _ in range(3):
            assert connect(server).recv(9) == b""
    if mixin != "ForkingMixIn":
        assert server.errors == [ValueError] * 3


@pytest.mark.parametrize("missing", [None, "text", 3])
def test_handler_not_callable(quiet_server, connect, serving, missing):
    server = quiet_server()
    server.RequestHandlerClass = missing
    with serving(server):
        assert connect(server).recv(9) == b""
    assert server.errors == [TypeError]


def test_handle_missing(make_server, connect, serving):
    with serving(server := make_server("TCPServer", handler={"rbufsize": -1})):
        assert connect(server).recv(9) == b""


def test_read_and_close_by_two_threads(quiet_server, connect, background, eventually):
    """Closing a file that another thread reads from ends in the line or an error, in no crash."""
    handlers, results = [], []

    def handle(self):
        handlers.append(self)
        results.append(self.rfile.readline())

    server = quiet_server("ThreadingMixIn", handle)
    client = connect(server)
    server.handle_request()
    eventually(lambda: handlers)
    closing = background(handlers[0].rfile.close)
    client.sendall(b"line\n")
    assert isinstance(closing.exception(10), ValueError | None)  # when both close it, without a GIL
    assert client.recv(9) == b""
    server.server_close()
    assert (results, server.errors) in [
        ([b"line\n"], []),
        ([b"line\n"], [ValueError]),  # without a GIL, finish() may meet the close() half-way
        ([], [ValueError]),
        ([], [OSError]),
    ]


def test_request_shut_down_while_another_thread_reads(quiet_server, connect, eventually):
    """A server gets rid of a client that way: the handler that reads finds the end."""
    handlers, results = [], []

    def handle(self):
        handlers.append(self)
        results.append(self.rfile.readline())

    server = quiet_server("ThreadingMixIn", handle)
    connect(server)
    server.handle_request()
    eventually(lambda: handlers)
    handlers[0].request.shutdown(socket.SHUT_RDWR)
    server.shutdown_request(handlers[0].request)
    server.server_close()
    assert (results, server.errors) == ([b""], [])


@pytest.mark.parametrize("close", ["server_close", "socket.close", "os.close"])
def test_listener_closed_while_serving(make_server, connect, background, close):
    """The stdlib's loop spins until shutdown(); in no case does an exception come out of it."""
    server = make_server("TCPServer", handler=echo_line)
    loop = background(server.serve_forever, 0.02)
    assert connect(server, b"good\n").recv(9) == b"good\n"
    close_listener(server, close)
    server.shutdown()
    assert loop.result(10) is None


def close_listener(server, how):
    if how == "server_close":
        server.server_close()
    elif how == "socket.close":
        server.socket.close()
    else:
        os.close(server.socket.detach())


@improved
@pytest.mark.parametrize("poll_interval", [0.02, None])
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_server_close_ends_serve_forever(make_server, connect, background, kind, poll_interval):
    server = make_server(kind, handler=lambda self: self.wfile.write(b"ok"))
    loop = background(server.serve_forever, poll_interval)
    assert connect(server, b"hello").recv(9) == b"ok"
    server.server_close()
    assert loop.result(5) is None
    assert server._BaseServer__is_shut_down.is_set()


@improved
@pytest.mark.parametrize("close", ["socket.close", "os.close"])
def test_socket_closed_ends_serve_forever_within_poll_interval(
    make_server, connect, background, close
):
    server = make_server("TCPServer", handler=echo_line)
    loop = background(server.serve_forever, 0.05)
    assert connect(server, b"good\n").recv(9) == b"good\n"
    close_listener(server, close)
    assert loop.result(2) is None


@pytest.mark.parametrize("serve", ["serve_forever", "handle_request"])
def test_serving_after_close(make_server, serve):
    server = make_server("TCPServer", timeout=0.01)
    server.server_close()
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(server, serve)()


def test_accept_failing_is_tried_again(make_server, connect, serving):
    class Failing:
        failures, request_queue_size = 0, 64

        def get_request(self):
            request, client_address = super().get_request()
            if self.failures < 50:
                self.failures += 1
                request.close()
                raise ConnectionAbortedError(errno.ECONNABORTED, "client gone")
            return request, client_address

    with serving(server := make_server(Failing, "TCPServer", handler=echo_line)):
        for _ in range(50):
            connect(server).close()
        assert connect(server, b"good\n").recv(9) == b"good\n"


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_resources_exhausted_for_a_while(make_server, connect, serving, number):
    class Exhausted:
        failures = 0

        def get_request(self):
            if self.failures < 3:
                self.failures += 1
                raise OSError(getattr(errno, number), "none left")
            return super().get_request()

    with serving(server := make_server(Exhausted, "TCPServer", handler=echo_line)):
        assert connect(server, b"good\n").recv(9) == b"good\n"
    assert server.failures == 3


@improved
@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_resources_exhausted_backs_off(make_server, connect, serving, caplog, number):
    tries = []

    def get_request(self):
        tries.append(1)
        raise OSError(getattr(errno, number), "none left")

    with serving(server := make_server("TCPServer", get_request=get_request), 30):
        connect(server)
        time.sleep(0.3)
        count = len(tries)
        start = time.monotonic()
        server.shutdown()
        assert time.monotonic() - start < 10
    assert 2 <= count <= 30
    assert [record.name for record in caplog.records] == ["socketserver_fast"]
    assert "none left" in caplog.text


@posix
def test_descriptors_exhausted_recovers(python):
    """Connections made meanwhile wait in the backlog, and are served when descriptors come back."""
    out, err = python(EXHAUSTED, 0.2).communicate(timeout=30)
    assert err == ""
    before, _, _, answers, seconds_to_stop = json.loads(out)
    assert [before, *answers] == ["ok"] * 5
    assert seconds_to_stop < 1


@posix
@improved
def test_descriptors_exhausted_rests_and_says_so_once(python):
    out, err = python(EXHAUSTED, 1.5).communicate(timeout=30)
    assert err == ""
    _, cpu_share, records, _, seconds_to_stop = json.loads(out)
    assert cpu_share < 0.02
    assert [record[:2] for record in records] == [["socketserver_fast", "WARNING"]]
    assert seconds_to_stop < 0.25


FIRST_WARNING = """
    import os, resource, socket, socketserver, sys, threading, time

    class Server(getattr(socketserver, sys.argv[1])):
        def service_actions(self):
            turns.append(1)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            raise ValueError("no handler")

    def fill():
        # Take all descriptors; returns whether there was one.
        count = len(taken)
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            return len(taken) > count

    turns, taken, clients = [], [], [socket.socket() for _ in range(2)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    while not turns:
        time.sleep(0.01)
    fill()
    os.close(taken.pop())
    clients[0].connect(server.server_address)
    print(clients[0].recv(9))
    while not fill():
        time.sleep(0.01)
    clients[1].connect(server.server_address)
    turns.clear()
    while len(turns) < 20:
        time.sleep(0.01)
    while taken:
        os.close(taken.pop())
    print(clients[1].recv(9), "logging" in sys.modules)
    server.shutdown()
    server.server_close()
"""


@posix
@improved
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_descriptors_exhausted_before_anything_was_logged(implementation, python, name):
    """Neither the warning nor the first traceback may need a descriptor."""
    if implementation != "fast" and name != "ThreadingTCPServer":
        pytest.skip("the stdlib's handle_error() needs one, and it has no pool")
    out, err = python(FIRST_WARNING, name).communicate(timeout=30)
    assert out == "b''\nb'' False\n"
    if implementation == "fast":
        assert err.count("ValueError: no handler") == 2
    assert err.count("cannot accept connections: [Errno 24]") == 1


FULL_DISK = """
    import os, socket, socketserver, sys, threading

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            if self.rfile.readline() == b"raise\\n":
                raise ValueError
            self.wfile.write(b"ok")

    def ask(line):
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(line)
            return client.makefile("rb").read()

    server = getattr(socketserver, sys.argv[1])(("127.0.0.1", 0), Handler)
    out = os.dup(2)
    if sys.argv[2] == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    elif sys.argv[2] == "closed":
        sys.stderr.close()
    else:
        sys.stderr = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for _ in range(3):
        print(ask(b"raise\\n"), ask(b"good\\n"))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("state", ["full", "closed", "none"])
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_stderr_unusable(implementation, python, name, state):
    """Errors of requests cannot be printed; no server ends for that."""
    if implementation != "fast" and name != "ThreadingTCPServer":
        pytest.skip("the stdlib's TCPServer ends then, and it has no pool")
    out, _ = python(FULL_DISK, name, state).communicate(timeout=30)
    assert out.count("b'' b'ok'\n") == 3


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_serving(make_server, connect, serving):
    """A child forked by any thread of the process neither disturbs the loop nor keeps clients."""
    with serving(server := make_server("ThreadingMixIn", "TCPServer", handler=echo_line)):
        for _ in range(5):
            client = connect(server)
            if (child := os.fork()) == 0:
                os._exit(0)
            os.waitpid(child, 0)
            client.sendall(b"good\n")
            assert client.makefile("rb").read() == b"good\n"


def test_many_silent_clients_in_threads(quiet_server, connect, serving):
    server = quiet_server("ThreadingMixIn", daemon_threads=True, request_queue_size=64)
    with serving(server):
        silent = [connect(server) for _ in range(50)]
        assert connect(server, b"good\n").recv(9) == b"good\n"
        for client in silent:
            client.close()
