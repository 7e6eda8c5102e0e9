"""Fixtures that the tests of pools share."""

import functools
import http.server
import os
import socket
import socketserver as stdlib
import threading

import pytest

import socketserver_fast

try:
    import resource
except ImportError:  # on Windows
    resource = None

@pytest.fixture(params=["class", "patched"])
def socketserver(request):
    """The module under test, where `mixin` has the workers."""
    if request.param == "class":
        yield socketserver_fast
    else:
        socketserver_fast.patch(threads="pool", max_workers=8)
        yield stdlib
        socketserver_fast.unpatch()


@pytest.fixture
def pooled(make_server, socketserver):
    """`pooled(handler=handle, max_workers=2)`: a TCP server with a pool."""
    mixin = "ThreadingMixIn" if socketserver is stdlib else "ThreadPoolMixIn"
    return functools.partial(make_server, mixin, "TCPServer", daemon_threads=True)


class Gate:
    """A handler that says that it runs, and stays until told to leave."""

    def __init__(self):
        self.inside, self.leave = threading.Semaphore(0), threading.Event()
        self.names, self.threads = [], set()

    def handle(self, handler):
        self.names.append(threading.current_thread().name)
        self.threads.add(threading.current_thread())
        self.stay()
        handler.wfile.write(b"left")

    def stay(self):
        self.inside.release()
        assert self.leave.wait(20)

    def entered(self, count=1):
        return all(self.inside.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.leave.set()


class Held(Gate):
    """A Gate for a handler that reads a line first; `most` is how many of them stayed at once."""

    def __init__(self):
        super().__init__()
        self.lock, self.most, self.now = threading.Lock(), 0, 0

    def handle(self, handler):
        handler.rfile.readline()
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.stay()
        with self.lock:
            self.now -= 1
        handler.wfile.write(b"left")


@pytest.fixture
def held():
    held = Held()
    yield held
    held.leave.set()


WAYS = {
    "workers accept": {},
    "serving thread accepts": {"verify_request": lambda self, request, client_address: True},
}


@pytest.fixture(params=WAYS)
def way(request):
    """Attributes of a server whose pool goes either of its two ways."""
    return WAYS[request.param]


@pytest.fixture
def echo():
    """A handle() that echoes lines."""

    def handle(handler):
        for line in handler.rfile:
            handler.wfile.write(line)

    return handle


@pytest.fixture
def ask(connect):
    """`ask(server, b"text")`: what a client gets that sends this and then nothing more."""

    def run(server, text=b"line\n"):
        with connect(server, text) as client:
            client.shutdown(socket.SHUT_WR)
            return client.makefile("rb").read()

    return run


@pytest.fixture
def visit(connect):
    """`visit(server)`: what a client gets that sends nothing."""

    def run(server):
        with connect(server) as client:
            return client.makefile("rb").read()

    return run


@pytest.fixture
def workers():
    """`workers(server)`: the worker threads of a server that are alive."""

    def find(server):
        return [t for t in threading.enumerate() if getattr(t, "_server", None) is server]

    return find


@pytest.fixture
def many_descriptors():
    """Both ends of some hundred connections are in this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/nested":
            with socket.create_connection(self.server.server_address, 20) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.makefile("rb").readline().split()[1] == b"200"
        elif self.path == "/fork":
            if (pid := os.fork()) == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


@pytest.fixture(params=["class", "patched http.server"])
def pages(request, make_server):
    """`pages(max_workers=2)`: a server of HTTP/1.1 on a pool, for tests of `socketserver_fast`."""
    if request.param == "class":
        # A wait shows in the package's files, which patch() gives the stdlib's handlers too.
        attributes = {"setup": socketserver_fast.StreamRequestHandler.setup}
        yield functools.partial(
            make_server, socketserver_fast.ThreadPoolMixIn, "TCPServer", daemon_threads=True,
            request_queue_size=1024, handler=type("Page", (Page,), attributes))
        return
    servers = []

    def make(**attributes):
        attributes = {"request_queue_size": 1024, **attributes}
        server_class = type("Server", (http.server.ThreadingHTTPServer,), attributes)
        servers.append(server_class(("127.0.0.1", 0), Page))
        return servers[-1]

    socketserver_fast.patch(threads="pool")
    try:
        yield make
    finally:
        for server in servers:
            server.server_close()
        socketserver_fast.unpatch()
