"""patch() puts the compiled paths into the stdlib's own classes and nothing else changes; unpatch()
takes them out again; what somebody else replaced is left alone by both."""

import contextlib
import http.client
import http.server
import inspect
import io
import pickle
import selectors
import socket
import socketserver as stdlib
import subprocess
import sys
import threading
import wsgiref.simple_server
import xmlrpc.server
from unittest import mock

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader

# What reads a connection: a portable build leaves that to the stdlib.
Reader = SocketReader if wait.native else io.BufferedReader
CLASSES = [value for value in vars(stdlib).values() if inspect.isclass(value)]
OWN_CLASSES = [cls for cls in CLASSES if cls.__module__ == "socketserver"]


@pytest.fixture
def patched():
    """The stdlib is patched during the test."""
    socketserver_fast.patch()
    yield
    socketserver_fast.unpatch()


@pytest.fixture
def restored():
    """The stdlib is as it was again after the test, which patches and replaces for itself."""
    before = snapshot()
    yield
    socketserver_fast.unpatch()
    assert snapshot() == before


def snapshot():
    """Everything in the module and in each of its classes, in its order."""
    return [list(vars(holder).items()) for holder in [stdlib, *OWN_CLASSES]]


class Echo(stdlib.StreamRequestHandler):
    """Sends lines back, and notes what it was made of on its server."""

    def handle(self):
        self.server.seen = self
        for line in self.rfile:
            self.wfile.write(line)


def ask(address, *lines):
    """Send lines on one connection; return what came back."""
    with socket.create_connection(address, timeout=10) as client, client.makefile("rwb") as file:
        return [answer(file, line) for line in lines]


def answer(file, line):
    file.write(line)
    file.flush()
    return file.readline()


# What is changed, and what is not.


def test_patch_changes_methods_and_unpatch_restores_everything():
    before = snapshot()
    serve_forever, setup = stdlib.BaseServer.serve_forever, stdlib.StreamRequestHandler.setup
    socketserver_fast.patch()
    try:
        assert stdlib.BaseServer.serve_forever is not serve_forever
        assert stdlib.StreamRequestHandler.setup is not setup
        assert snapshot()[0] == before[0], "the module itself changed"
    finally:
        socketserver_fast.unpatch()
    assert snapshot() == before


@pytest.mark.parametrize("threads", ["pool", "greenlet"])
def test_a_server_that_runs_goes_on_after_unpatch(restored, serving, threads):
    if threads == "greenlet":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    socketserver_fast.patch(threads=threads)
    server = stdlib.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    with serving(server) as address:
        with (
            socket.create_connection(address, timeout=10) as client,
            client.makefile("rwb") as file,
        ):
            assert answer(file, b"before\n") == b"before\n"
            socketserver_fast.unpatch()
            assert answer(file, b"after\n") == b"after\n"
        for _ in range(3):
            assert ask(address, b"new\n") == [b"new\n"]


def test_patch_twice_is_patch_once(restored):
    socketserver_fast.patch()
    once = snapshot()
    socketserver_fast.patch()
    assert snapshot() == once


def test_patch_with_a_pool_is_undone_as_well(restored):
    socketserver_fast.patch(threads="pool", max_workers=3)
    mixin = stdlib.ThreadingMixIn
    assert (mixin.max_workers, mixin.min_workers, mixin.worker_idle_timeout) == (3, 1, 30)
    socketserver_fast.patch()
    assert mixin.max_workers == 3
    socketserver_fast.patch(threads="pool", max_workers=5)
    assert mixin.max_workers == 5


def test_pool_leaves_alone_what_somebody_else_has_set(monkeypatch):
    def process_request(self, request, client_address):
        pass

    monkeypatch.setattr(stdlib.ThreadingMixIn, "process_request", process_request)
    monkeypatch.setattr(stdlib.ThreadingMixIn, "max_workers", 7, raising=False)
    socketserver_fast.patch(threads="pool", max_workers=3)
    socketserver_fast.unpatch()
    assert stdlib.ThreadingMixIn.process_request is process_request
    assert stdlib.ThreadingMixIn.max_workers == 7


def test_patch_refuses_what_it_does_not_know(restored):
    with pytest.raises(ValueError, match=r"threads is one of 'pool'.*, not 'fibers'"):
        socketserver_fast.patch(threads="fibers")
    with pytest.raises(TypeError, match="no setting 'most'"):
        socketserver_fast.patch(threads="pool", most=3)
    with pytest.raises(TypeError, match="no setting 'max_workers'"):
        socketserver_fast.patch(max_workers=3)


def test_unpatch_without_patch_changes_nothing(restored):
    socketserver_fast.unpatch()
    socketserver_fast.patch()
    socketserver_fast.unpatch()
    socketserver_fast.unpatch()


def description(function):
    """Return what callers and subclasses can tell of a function."""
    return {
        "name": function.__name__,
        "qualname": function.__qualname__,
        "signature": str(inspect.signature(function)),
    }


def test_methods_look_the_same(restored):
    methods = {
        (cls, name): description(value)
        for cls in OWN_CLASSES
        for name, value in vars(cls).items()
        if inspect.isfunction(value)
    }
    socketserver_fast.patch()
    changed = [
        f"{cls.__name__}.{name}: {what} was {before[what]!r}, is {now!r}"
        for (cls, name), before in methods.items()
        for what, now in description(vars(cls)[name]).items()
        if now != before[what]
    ]
    assert not changed, "\n".join(changed)


def test_classes_are_the_same_objects(restored):
    before = [(cls, cls.__mro__, cls.__bases__, type(cls)) for cls in OWN_CLASSES]
    handler = Echo.__new__(Echo)
    socketserver_fast.patch()
    assert [(cls, cls.__mro__, cls.__bases__, type(cls)) for cls in OWN_CLASSES] == before
    assert all(getattr(stdlib, cls.__name__) is cls for cls in OWN_CLASSES)
    assert isinstance(handler, stdlib.StreamRequestHandler)
    assert issubclass(http.server.ThreadingHTTPServer, stdlib.ThreadingMixIn)
    assert pickle.loads(pickle.dumps(stdlib.TCPServer)) is stdlib.TCPServer


def test_a_connection_is_served_by_the_compiled_reader(patched, serving):
    with stdlib.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server, serving(server) as address:
        assert ask(address, b"a\n", b"b\n") == [b"a\n", b"b\n"]
        assert type(server.seen.rfile) is Reader
        assert isinstance(server.seen.wfile, stdlib._SocketWriter)


def test_name_mangled_attributes_work(patched):
    with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server:
        stopped = server._BaseServer__is_shut_down
        assert isinstance(stopped, threading.Event)
        assert not stopped.is_set()
        assert vars(server)["_BaseServer__shutdown_request"] is False
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        assert ask(server.server_address, b"a\n") == [b"a\n"]
        server._BaseServer__shutdown_request = True
        thread.join(10)
        assert not thread.is_alive()
        assert stopped.is_set()
        assert vars(server)["_BaseServer__shutdown_request"] is False


def test_methods_may_be_copied_to_other_classes(patched):
    class Other:
        process_request = stdlib.BaseServer.process_request
        shutdown_request = stdlib.TCPServer.shutdown_request
        close_request = stdlib.TCPServer.close_request
        get_request = stdlib.TCPServer.get_request

        def finish_request(self, request, client_address):
            request.sendall(b"served")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = Other()
        other.socket = listener
        with socket.create_connection(listener.getsockname()) as client:
            other.process_request(*other.get_request())
            assert client.recv(100) == b"served"


# Programs that were imported before.


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the type of its rfile."""

    def do_GET(self):
        body = type(self.rfile).__name__.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class XMLRPCPage(Page, xmlrpc.server.SimpleXMLRPCRequestHandler):
    """The same under xmlrpc's handler, whose wfile is buffered."""


def wsgi_app(environ, start_response):
    """Answers with the type of its rfile; the name of that is all the application gets."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [type(environ["wsgi.input"]).__name__.encode()]


class QuietWSGI(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


def http_program():
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)


def xmlrpc_program():
    return xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), XMLRPCPage)


def wsgi_program():
    make_server = wsgiref.simple_server.make_server
    return make_server("127.0.0.1", 0, wsgi_app, handler_class=QuietWSGI)


@pytest.mark.parametrize("program", [http_program, xmlrpc_program, wsgi_program])
def test_programs_are_served_by_it_while_patched(program, restored, serving):
    def get(address):
        connection = http.client.HTTPConnection(*address, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().read()

    with program() as server, serving(server) as address:
        assert get(address) == b"BufferedReader"
        socketserver_fast.patch()
        assert get(address) == Reader.__name__.encode()
        socketserver_fast.unpatch()
        assert get(address) == b"BufferedReader"


IMPORTS = {
    "patch first": "import socketserver_fast; socketserver_fast.patch(); import http.server",
    "package first": "import socketserver_fast, http.server; socketserver_fast.patch()",
    "stdlib first": "import http.server\nfrom socketserver_fast import patch\npatch()",
    "from imports": """
from socketserver import StreamRequestHandler, TCPServer
from http.server import BaseHTTPRequestHandler
from socketserver_fast import patch
patch()
import http.server
assert issubclass(BaseHTTPRequestHandler, StreamRequestHandler)
assert issubclass(http.server.HTTPServer, TCPServer)
""",
}
PROGRAM = """
import socket
class Handler(http.server.BaseHTTPRequestHandler):
    def handle(self):
        print(type(self.rfile).__module__, type(self.rfile).__name__)
with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    with socket.create_connection(server.server_address):
        server.handle_request()
"""


@pytest.mark.parametrize("order", IMPORTS)
def test_order_of_imports_does_not_matter(order):
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS[order] + PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.stdout, child.stderr) == (f"{Reader.__module__} {Reader.__name__}\n", "")


# What others replaced.


def mine(self, *args, **kwargs):
    """Somebody's own method."""


EVERY_METHOD = [
    (cls, name)
    for cls in OWN_CLASSES
    for name, value in vars(cls).items()
    if inspect.isfunction(value)
]


@pytest.mark.parametrize(("cls", "name"), EVERY_METHOD)
def test_a_method_replaced_before_is_left_alone(restored, monkeypatch, cls, name):
    monkeypatch.setattr(cls, name, mine)
    socketserver_fast.patch()
    assert vars(cls)[name] is mine
    socketserver_fast.unpatch()
    assert vars(cls)[name] is mine
    monkeypatch.undo()


@pytest.mark.parametrize(("cls", "name"), EVERY_METHOD)
def test_a_method_replaced_after_is_left_alone(restored, cls, name):
    before = vars(cls)[name]
    socketserver_fast.patch()
    setattr(cls, name, mine)
    try:
        socketserver_fast.patch()
        assert vars(cls)[name] is mine
        socketserver_fast.unpatch()
        assert vars(cls)[name] is mine
    finally:
        setattr(cls, name, before)


def test_a_class_of_the_module_replaced_is_left_alone(restored, monkeypatch):
    class Server(stdlib.TCPServer):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(stdlib, "TCPServer", Server)
        socketserver_fast.patch()
        assert stdlib.TCPServer is Server
        assert "serve_forever" not in vars(Server)
        socketserver_fast.unpatch()
        assert stdlib.TCPServer is Server


def test_patch_inside_mock_patch(restored):
    original = stdlib.BaseServer.serve_forever
    with mock.patch.object(stdlib.BaseServer, "serve_forever") as stub:
        socketserver_fast.patch()
        assert stdlib.BaseServer.serve_forever is stub
    assert stdlib.BaseServer.serve_forever is original
    socketserver_fast.patch()
    assert stdlib.BaseServer.serve_forever is not original


def test_mock_patch_around_unpatch_and_another_unpatch(restored):
    original = stdlib.BaseServer.serve_forever
    socketserver_fast.patch()
    with mock.patch("socketserver.BaseServer.serve_forever", autospec=True) as stub:
        socketserver_fast.unpatch()
        assert stdlib.BaseServer.serve_forever is stub
    # mock puts back what it had found, which was ours.
    socketserver_fast.patch()
    socketserver_fast.unpatch()
    assert stdlib.BaseServer.serve_forever is original


def test_mock_patch_while_patched(patched, serving):
    with mock.patch("socketserver.BaseServer.handle_error") as handle_error:
        server = stdlib.TCPServer(("127.0.0.1", 0), lambda *args: 1 / 0)
        with serving(server) as address, socket.create_connection(address) as client:
            assert client.recv(1) == b""
        assert handle_error.call_count == 1


# What others replace while it is patched.


def test_replaced_selector_is_used(patched, monkeypatch, serving):
    used = []

    class Selector(selectors.SelectSelector):
        def select(self, timeout=None):
            used.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr(stdlib, "_ServerSelector", Selector)
    with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server:
        with serving(server, 0.0123) as address:
            assert ask(address, b"a\n") == [b"a\n"]
        assert set(used) == {0.0123}
    used.clear()
    with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server:
        server.timeout = 0
        server.handle_request()
    assert used == [0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_replaced_writer_is_used(restored, monkeypatch, serving, when):
    class Writer(stdlib._SocketWriter):
        def write(self, b):
            return super().write(b.upper())

    if when == "after":
        socketserver_fast.patch()
    with monkeypatch.context() as replace:
        replace.setattr(stdlib, "_SocketWriter", Writer)
        socketserver_fast.patch()
        with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server, serving(server) as address:
            assert ask(address, b"a\n") == [b"A\n"]
            assert type(server.seen.wfile) is Writer


def test_replaced_write_is_used(patched, monkeypatch, serving):
    write = stdlib._SocketWriter.write
    monkeypatch.setattr(stdlib._SocketWriter, "write", lambda self, b: write(self, b.upper()))
    with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server, serving(server) as address:
        assert ask(address, b"a\n") == [b"A\n"]


SERVER_HOOKS = [
    "get_request", "verify_request", "process_request", "finish_request", "shutdown_request",
    "close_request", "service_actions", "server_bind", "server_activate", "server_close", "fileno",
    "_handle_request_noblock", "serve_forever", "shutdown",
]  # fmt: skip
HANDLER_HOOKS = ["setup", "handle", "finish"]


def overriding(base, hooks, called):
    """A subclass that notes the call of each hook and leaves the rest to super()."""

    def override(name):
        def hook(self, *args):
            called.append(name)
            return getattr(super(Subclass, self), name)(*args)

        return hook

    Subclass = type("Subclass", (base,), {name: override(name) for name in hooks})
    return Subclass


@pytest.mark.parametrize("base", [stdlib.TCPServer, stdlib.ThreadingTCPServer])
def test_overridden_hooks_that_call_super_work(patched, serving, base):
    called = []
    server_class = overriding(base, SERVER_HOOKS, called)
    server = server_class(("127.0.0.1", 0), overriding(Echo, HANDLER_HOOKS, called))
    with serving(server) as address:
        assert ask(address, b"a\n") == [b"a\n"]
    assert set(called) == set(SERVER_HOOKS + HANDLER_HOOKS)


# Servers that run.


@pytest.mark.parametrize("poll_interval", [0.02, 0.5])
@pytest.mark.parametrize("first", ["patch", "unpatch"])
def test_running_servers_go_on(restored, serving, first, poll_interval):
    steps = [socketserver_fast.patch, socketserver_fast.unpatch]
    if first == "unpatch":
        socketserver_fast.patch()
        steps.reverse()
    server = stdlib.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    with serving(server, poll_interval) as address:
        kept = socket.create_connection(address, timeout=10)
        with kept, kept.makefile("rwb") as file:
            assert answer(file, b"before\n") == b"before\n"
            for step in steps * 2:
                step()
                assert answer(file, b"kept\n") == b"kept\n"
                assert ask(address, b"new\n") == [b"new\n"]
            steps[0]()  # so that it is stopped by what did not start it


def test_server_that_existed_before_is_served_by_it(restored, serving):
    with stdlib.TCPServer(("127.0.0.1", 0), Echo) as server:
        socketserver_fast.patch()
        with serving(server) as address:
            assert ask(address, b"a\n") == [b"a\n"]
        assert type(server.seen.rfile) is Reader
        socketserver_fast.unpatch()
        with pytest.raises(OSError, match="refused"):
            ask(address, b"closed\n")
