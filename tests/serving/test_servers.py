"""Constructing, serving, stopping and closing the four kinds of server, without mix-ins."""

import contextlib
import inspect
import os
import pathlib
import select
import signal
import socket
import socketserver as stdlib
import sys
import threading
import time
from unittest import mock

import pytest

from socketserver_fast.servers import _Ending

unix = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets on Windows")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
improved = pytest.mark.parametrize("implementation", ["fast", "patched"], indirect=True)

CLASSES = {name: value for name, value in vars(stdlib).items() if isinstance(value, type)}
CLASSES = {name: cls for name, cls in CLASSES.items() if cls.__module__ == "socketserver"}


def members(cls):
    """The class attributes of the untouched stdlib, methods as their signatures."""
    own = {name: value for name, value in vars(cls).items() if not name.startswith(("__", "_abc"))}
    own["__init__"] = cls.__init__
    return {name: signature_or_value(value) for name, value in own.items()}


def signature_or_value(value):
    if not callable(value):
        return value
    try:
        return inspect.signature(value)
    except ValueError:  # object.__init__
        return None


STDLIB_MEMBERS = {name: members(cls) for name, cls in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_members_of_stdlib(socketserver, name):
    cls = getattr(socketserver, name)
    for member, expected in STDLIB_MEMBERS[name].items():
        value = signature_or_value(getattr(cls, member))
        if isinstance(expected, stdlib._NoThreads):
            assert isinstance(value, socketserver._NoThreads)
        elif member == "shutdown":  # ours takes a timeout, and callers need not know
            assert list(value.parameters.values())[:1] == list(expected.parameters.values())
            assert all(p.default is None for p in list(value.parameters.values())[1:])
        else:
            assert value == expected, member


@pytest.mark.parametrize("name", CLASSES)
def test_class_mro_names(socketserver, name):
    names = [cls.__name__ for cls in getattr(socketserver, name).__mro__ if cls is not _Ending]
    assert names == [cls.__name__ for cls in CLASSES[name].__mro__]


def test_module_names_programs_reach_for(socketserver):
    """COMPATIBILITY.md 2.3 item 17"""
    for name in ["socket", "selectors", "os", "sys", "threading", "time", "BufferedIOBase"]:
        assert getattr(socketserver, name) is getattr(stdlib, name)
    for name in ["_ServerSelector", "_SocketWriter", "_Threads", "_NoThreads"]:
        assert isinstance(getattr(socketserver, name), type)


def test_module_all(socketserver):
    extra = set(socketserver.__all__) - set(stdlib.__all__)
    assert set(stdlib.__all__) <= set(socketserver.__all__)
    assert all(hasattr(socketserver, name) for name in socketserver.__all__)
    if sys.version_info >= (3, 12):  # the first with the ForkingUnix* classes
        assert socketserver is not stdlib or extra == set()


@pytest.mark.parametrize(
    ("kind", "address", "error"),
    [
        ("TCPServer", None, TypeError),
        ("TCPServer", ("127.0.0.1",), TypeError),
        ("TCPServer", ("127.0.0.1", "80"), TypeError),
        ("TCPServer", ("127.0.0.1", 70000), OverflowError),
        ("UDPServer", 80, TypeError),
        ("UDPServer", ("127.0.0.1", -1), OverflowError),
        pytest.param("UnixStreamServer", ("127.0.0.1", 0), TypeError, marks=unix),
        pytest.param("UnixStreamServer", "/no/such/folder/socket", OSError, marks=unix),
    ],
)
def test_address_wrong(socketserver, kind, address, error):
    with pytest.raises(error):
        getattr(socketserver, kind)(address, None)


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_address_used(socketserver, make_server, kind):
    with pytest.raises(OSError, match="in use"):
        getattr(socketserver, kind)(make_server(kind).server_address, None)


@pytest.mark.parametrize("failing", ["server_bind", "server_activate"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_constructor_failing_closes(socketserver, failing, error):
    closed = []

    class Server(socketserver.TCPServer):
        def server_close(self):
            super().server_close()
            closed.append(self.socket)

    setattr(Server, failing, mock.Mock(side_effect=error))
    with pytest.raises(error):
        Server(("127.0.0.1", 0), None)
    assert [each.fileno() for each in closed] == [-1]


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_server_address_of_port_0(make_server, kind):
    server = make_server(kind)
    assert server.server_address == server.socket.getsockname()
    assert server.server_address[1] > 0
    assert server.fileno() == server.socket.fileno()


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_address_family_ipv6(make_server, connect, kind):
    seen = []
    server = make_server(
        kind,
        address_family=socket.AF_INET6,
        handler=lambda self: seen.append(self.client_address),
    )
    client = connect(server, b"hello")
    server.handle_request()
    assert seen == [client.getsockname()]
    assert len(server.server_address) == len(seen[0]) == 4


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
@pytest.mark.parametrize("allowed", [False, True])
def test_allow_reuse(make_server, kind, allowed):
    server = make_server(kind, allow_reuse_address=allowed, allow_reuse_port=allowed)
    assert bool(server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is allowed
    if hasattr(socket, "SO_REUSEPORT"):
        assert bool(server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)) is allowed


def test_request_queue_size_passed_to_listen(socketserver):
    class Server(socketserver.TCPServer):
        request_queue_size = 77

        def server_activate(self):
            self.socket, listener = mock.Mock(), self.socket
            super().server_activate()
            self.listen, self.socket = self.socket.listen, listener

    with Server(("127.0.0.1", 0), None) as server:
        server.listen.assert_called_once_with(77)


def test_unactivated_server_given_a_socket(make_server, connect, serving):
    """werkzeug and Odoo replace the socket, which was never bound, under systemd."""
    server = make_server("TCPServer", activate=False, handler=lambda self: self.wfile.write(b"ok"))
    assert server.socket.getsockname()[1] == 0
    server.server_close()
    server.socket = socket.create_server(("127.0.0.1", 0))
    server.server_address = server.socket.getsockname()
    with serving(server):
        assert connect(server).makefile("rb").read() == b"ok"


def test_socket_replaced_between_requests(make_server, connect, background):
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    connect(server)
    server.handle_request()
    with server.socket:
        server.socket = socket.create_server(("127.0.0.1", 0))
    server.server_address = server.socket.getsockname()
    client = connect(server)
    server.handle_request()
    assert client.recv(9) == b"ok"


@pytest.mark.parametrize(
    ("listener_timeout", "server_timeout"), [(None, 0.03), (0.03, None), (0.03, 9), (9, 0.03)]
)
def test_handle_request_timeout_is_the_lesser(make_server, listener_timeout, server_timeout):
    server = make_server("TCPServer", timeout=server_timeout, handle_timeout=lambda self: "late")
    server.socket.settimeout(listener_timeout)
    start = time.monotonic()
    assert server.handle_request() == "late"
    assert 0.02 < time.monotonic() - start < 5


def test_handle_request_without_timeout(make_server, connect, background):
    served = []
    server = make_server("TCPServer", handler=lambda self: served.append(self))
    waiting = background(server.handle_request)
    connect(server)
    assert waiting.result(10) is None
    assert len(served) == 1


def test_handle_request_leaves_the_shutdown_flag(make_server, connect):
    server = make_server("TCPServer")
    server._BaseServer__shutdown_request = True
    connect(server)
    server.handle_request()
    assert server._BaseServer__shutdown_request is True


@pytest.mark.parametrize("poll_interval", [0, -1, 0.01])
def test_poll_interval(make_server, connect, background, poll_interval):
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    loop = background(server.serve_forever, poll_interval)
    assert connect(server).makefile("rb").read() == b"ok"
    server.shutdown()
    assert loop.result(10) is None


def test_poll_interval_none(make_server, connect, background):
    """The stdlib sleeps until something comes, so its shutdown() needs one more connection."""
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    loop = background(server.serve_forever, None)
    assert connect(server).makefile("rb").read() == b"ok"
    server._BaseServer__shutdown_request = True
    connect(server)
    assert loop.result(10) is None


@pytest.mark.parametrize("poll_interval", ["1", [], object()])
def test_poll_interval_of_wrong_type(make_server, poll_interval):
    server = make_server("TCPServer")
    with pytest.raises(TypeError):
        server.serve_forever(poll_interval)
    assert server._BaseServer__is_shut_down.is_set()


@improved
@pytest.mark.parametrize("poll_interval", [None, 5])
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_shutdown_prompt_whatever_the_poll_interval(
    make_server, connect, background, eventually, kind, poll_interval
):
    served = []
    server = make_server(kind, handler=lambda self: served.append(self))
    loop = background(server.serve_forever, poll_interval)
    connect(server, b"hello")
    eventually(lambda: served)
    start = time.monotonic()
    server.shutdown()
    assert time.monotonic() - start < 0.25
    assert loop.result(1) is None


def test_shutdown_twice_ends_the_next_serve_forever(make_server, background):
    server = make_server("TCPServer")
    loop = background(server.serve_forever, 0.01)
    server.shutdown()
    loop.result(10)
    server.shutdown()
    assert server.serve_forever(60) is None


def test_shutdown_before_serve_forever(make_server, background, eventually):
    server = make_server("TCPServer")
    shutdown = background(server.shutdown)
    eventually(lambda: server._BaseServer__shutdown_request)
    assert not shutdown.done()
    assert server.serve_forever(60) is None
    assert shutdown.result(10) in (None, True)


def test_shutdown_by_several_threads(make_server, background):
    server = make_server("TCPServer")
    loop = background(server.serve_forever, 0.05)
    for shutdown in [background(server.shutdown) for _ in range(3)]:
        assert shutdown.result(10) in (None, True)
    assert loop.result(10) is None


def test_shutdown_from_a_handler_in_a_thread(make_server, connect, background):
    server = make_server("ThreadingMixIn", "TCPServer", handler=lambda self: self.server.shutdown())
    loop = background(server.serve_forever, 0.02)
    connect(server)
    assert loop.result(10) is None


def test_shutdown_waits_for_the_handler(make_server, connect, background):
    entered, leave = threading.Event(), threading.Event()

    def handle(self):
        entered.set()
        leave.wait(10)

    server = make_server("TCPServer", handler=handle)
    background(server.serve_forever, 0.02)
    connect(server)
    entered.wait(10)
    shutdown = background(server.shutdown)
    with pytest.raises(TimeoutError):
        shutdown.result(0.1)
    leave.set()
    assert shutdown.result(10) in (None, True)


def test_serve_forever_twice(make_server, connect, background):
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    for _ in range(2):
        loop = background(server.serve_forever, 0.02)
        assert connect(server).makefile("rb").read() == b"ok"
        server.shutdown()
        assert loop.result(10) is None


def test_with_statement_closes(socketserver):
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        assert server.fileno() >= 0
    assert server.fileno() == -1
    server.server_close()


def test_several_servers_selected_by_fileno(make_server, connect):
    servers = [make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))]
    servers += [make_server("UDPServer", handler=lambda self: self.wfile.write(b"ok"))]
    clients = [connect(server, b"hello") for server in servers]
    waiting = list(servers)
    while waiting:
        for server in select.select(waiting, [], [], 10)[0]:
            server.handle_request()
            waiting.remove(server)
    assert [client.recv(9) for client in clients] == [b"ok", b"ok"]


INTERRUPTED = """
    import socketserver, sys
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        print("ready", flush=True)
        try:
            server.serve_forever({poll_interval})
        except KeyboardInterrupt:
            print("interrupted", server._BaseServer__is_shut_down.is_set(), flush=True)
"""


@posix
@pytest.mark.parametrize("poll_interval", [None, 60])
def test_serve_forever_interrupted_by_a_signal(python, poll_interval):
    child = python(INTERRUPTED.format(poll_interval=poll_interval))
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.05)  # into the wait; before it is right too
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=10) == ("interrupted True\n", "")
    assert time.monotonic() - start < 3


STOPPED_BY_HANDLER = """
    import signal, socketserver
    def stop(*args):
        server._BaseServer__shutdown_request = True
    signal.signal(signal.SIGTERM, stop)
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        print("ready", flush=True)
        server.serve_forever(0.1)
"""


@posix
def test_serve_forever_stopped_by_a_signal_handler(python):
    child = python(STOPPED_BY_HANDLER)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=10) == ("", "")
    assert child.returncode == 0


@pytest.mark.parametrize("kind", ["TCPServer", pytest.param("UnixStreamServer", marks=unix)])
def test_accepted_socket(make_server, connect, kind):
    seen = []

    def handle(self):
        request, listener = self.request, self.server.socket
        seen.append(type(request) is socket.socket)
        seen.append((request.family, request.type) == (listener.family, listener.type))
        seen.append(request.proto == listener.proto)
        seen.append(not os.get_inheritable(request.fileno()))
        seen.append(type(request.family) is socket.AddressFamily)
        seen.append(request.gettimeout() is None)

    server = make_server(kind, handler=handle)
    client = connect(server)
    server.handle_request()
    assert seen == [True] * 6
    client.close()


def test_accepted_socket_blocks_under_a_listener_timeout(make_server, connect, serving):
    seen = []

    def handle(self):
        seen.append((self.request.gettimeout(), self.request.getblocking()))
        self.wfile.write(self.rfile.readline())

    server = make_server("TCPServer", handler=handle)
    server.socket.settimeout(5)
    with serving(server):
        client = connect(server)
        time.sleep(0.02)  # the handler may already be reading; either way it must wait
        client.sendall(b"late\n")
        assert client.makefile("rb").read() == b"late\n"
    assert seen == [(None, True)]


def test_accepted_socket_takes_the_default_timeout(make_server, connect, monkeypatch):
    seen = []
    server = make_server("TCPServer", handler=lambda self: seen.append(self.request.gettimeout()))
    server.socket.settimeout(None)
    connect(server)
    socket.setdefaulttimeout(4)
    try:
        server.handle_request()
    finally:
        socket.setdefaulttimeout(None)
    assert seen == [4]


def test_nonblocking_listener_without_a_connection(make_server):
    server = make_server("TCPServer")
    server.socket.setblocking(False)
    assert server._handle_request_noblock() is None


@pytest.mark.parametrize(
    "kind", ["TCPServer", "UDPServer", pytest.param("UnixStreamServer", marks=unix)]
)
def test_client_address(make_server, connect, kind):
    seen = []
    server = make_server(kind, handler=lambda self: seen.append(self.client_address))
    client = connect(server, b"hello")
    server.handle_request()
    assert seen == [client.getsockname()]
    assert type(seen[0]) is (str if kind == "UnixStreamServer" else tuple)


@unix
def test_client_address_of_a_bound_unix_client(make_server, unix_path):
    seen = []
    server = make_server("UnixStreamServer", handler=lambda self: seen.append(self.client_address))
    with socket.socket(socket.AF_UNIX) as client:
        path = unix_path()
        client.bind(path)
        client.connect(server.server_address)
        server.handle_request()
    assert seen == [path]


@unix
def test_unix_socket_file_stays_after_close(make_server):
    server = make_server("UnixStreamServer")
    server.server_close()
    assert pathlib.Path(server.server_address).is_socket()


def test_handle_error_prints_to_the_current_stderr(make_server, connect, capsys):
    def handle(self):
        raise ValueError("this one")

    server = make_server("TCPServer", handler=handle)
    client = connect(server)
    with contextlib.redirect_stderr(sys.stdout):
        server.handle_request()
    out, err = capsys.readouterr()
    first, second, *traceback, last = out.splitlines()
    assert first == last == "-" * 40
    assert second.endswith(f"processing of request from {client.getsockname()}")
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: this one"
    assert err == ""


def test_socket_class_replaced_by_a_mock(socketserver):
    """Unit tests of programs do this to construct servers that touch no network."""
    with mock.patch.object(socketserver.socket, "socket") as socket_class:
        server = socketserver.TCPServer(("host", 80), None)
        server.server_close()
    assert socket_class.mock_calls == [
        mock.call(socket.AF_INET, socket.SOCK_STREAM),
        mock.call().bind(("host", 80)),
        mock.call().getsockname(),
        mock.call().listen(server.request_queue_size),
        mock.call().close(),
    ]
    assert server.server_address is socket_class().getsockname()


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_get_request_asks_a_stand_in_for_the_socket(make_server, kind):
    server = make_server(kind)
    server.server_close()
    server.socket = stand_in = mock.Mock()
    stand_in.accept.return_value = stand_in.recvfrom.return_value = ("what", "from whom")
    request, client_address = server.get_request()
    assert request == ("what" if kind == "TCPServer" else ("what", stand_in))
    assert client_address == "from whom"


@pytest.mark.parametrize("timeout", [None, 5])
def test_accept_replaced_on_the_socket_class(make_server, connect, serving, monkeypatch, timeout):
    """gevent and eventlet do that, and tests that count connections."""
    accepted, accept = [], socket.socket.accept

    def counting_accept(self):
        accepted.append(self)
        return accept(self)

    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    server.socket.settimeout(timeout)
    with serving(server):
        assert connect(server).makefile("rb").read() == b"ok"
        monkeypatch.setattr(socket.socket, "accept", counting_accept)
        assert connect(server).makefile("rb").read() == b"ok"
    assert accepted == [server.socket]
