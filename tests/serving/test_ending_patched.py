"""drain() and serve_until_signal() of the package on the stdlib's own classes, patched."""

import http.client
import http.server
import os
import signal
import socket
import socketserver as stdlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import socketserver_fast
from socketserver_fast._serving import serving

forking = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

# Each server of the stdlib, and what patch() is told.
SERVERS = {
    "sync": (http.server.HTTPServer, {}),
    "threads": (http.server.ThreadingHTTPServer, {}),
    "threads that are waited for": (stdlib.ThreadingTCPServer, {}),
    "pool": (http.server.ThreadingHTTPServer, {"threads": "pool"}),
    "greenlet": (http.server.ThreadingHTTPServer, {"threads": "greenlet"}),
    "forking": (getattr(stdlib, "ForkingTCPServer", None), {}),
}
KINDS = [
    pytest.param(kind, marks=forking if kind == "forking" else ()) for kind in SERVERS
]


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers in two parts; the second one when the client has sent a word."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.rfile.read(4)
        self.wfile.write(b"whole")

    def log_message(self, *args):
        pass


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def server(kind, eventually):
    """A running server of this kind."""
    server_class, settings = SERVERS[kind]
    socketserver_fast.patch(**settings)
    server = server_class(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=serve, args=[server], daemon=True)
    thread.start()
    eventually(lambda: serving.serving_thread(server) is not None)
    yield server
    thread.join(20)
    eventually(lambda: not [one for one in threading.enumerate() if "-worker-" in one.name])
    socketserver_fast.unpatch()
    assert not thread.is_alive()


def serve(server):
    """serve_forever() of a server that is closed under its request at the end of a test."""
    server.handle_error = lambda request, client_address: None
    server.serve_forever()


@pytest.fixture
def under_way(server):
    """A connection whose response has begun."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request("GET", "/")
    client = connection.sock
    response = connection.getresponse()
    assert response.status == 200
    yield client, response
    connection.close()
    response.close()


def test_drain_finishes_a_response_under_way(server, under_way, background, eventually):
    client, response = under_way
    assert server.requests_in_progress == 1
    drained = background(socketserver_fast.drain, server)
    eventually(lambda: serving.is_draining(server))
    assert not drained.done()
    client.sendall(b"word")
    assert response.read() == b"whole"
    assert drained.result(20) is True
    assert server.requests_in_progress == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.server_address, 10)


def test_drain_that_took_too_long_closes_the_connection(server, under_way):
    client, _ = under_way
    assert socketserver_fast.drain(server, 0.05) is False
    assert client.recv(1) == b""


def test_drain_that_unpatch_overtakes(server, under_way, background, eventually):
    client, response = under_way
    drained = background(socketserver_fast.drain, server)
    eventually(lambda: serving.is_draining(server))
    socketserver_fast.unpatch()
    client.sendall(b"word")
    assert response.read() == b"whole"
    assert drained.result(20) is True
    assert server.fileno() == -1
    assert not hasattr(stdlib.BaseServer, "_stop_accepting"), "unpatch() is not complete"


def test_drain_that_unpatch_overtakes_and_that_takes_too_long(
    server, under_way, background, eventually
):
    client, _ = under_way
    drained = background(socketserver_fast.drain, server, 0.3)
    eventually(lambda: serving.is_draining(server))
    socketserver_fast.unpatch()
    assert drained.result(20) is False
    assert client.recv(1) == b""
    assert server.fileno() == -1


def test_patch_again_during_a_drain_stays(server, under_way, background, eventually):
    client, response = under_way
    drained = background(socketserver_fast.drain, server)
    eventually(lambda: serving.is_draining(server))
    socketserver_fast.unpatch()
    socketserver_fast.patch()
    client.sendall(b"word")
    assert response.read() == b"whole"
    assert drained.result(20) is True
    assert hasattr(stdlib.BaseServer, "_stop_accepting")


def test_drain_of_an_idle_server(server):
    assert socketserver_fast.drain(server, 20) is True


PROGRAM = """
import signal, sys, threading
import socketserver_fast
socketserver_fast.patch(**{settings})
from {module} import {server}
from tests_handler import Slow

server = {server}(("127.0.0.1", 0), Slow)
print(server.server_address[1], flush=True)
number = socketserver_fast.serve_until_signal(server, drain_timeout=20)
print(signal.Signals(number).name, server.fileno(), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is sent to the process itself")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_until_signal_finishes_a_response_under_way(kind, number, tmp_path):
    server_class, settings = SERVERS[kind]
    source = Path(__file__).read_text()
    start = source.index("class Slow")
    handler = "import http.server\n" + source[start:source.index("\n\n\n", start)]
    (tmp_path / "tests_handler.py").write_text(handler)
    program = PROGRAM.format(settings=settings, module=server_class.__module__,
                             server=server_class.__name__)
    child = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=-1, stderr=-1,
                             text=True)
    with child:
        try:
            port = int(child.stdout.readline())
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            client = connection.sock
            response = connection.getresponse()
            child.send_signal(number)
            threading.Timer(0.1, client.sendall, [b"word"]).start()
            assert response.read() == b"whole"
            connection.close()
            assert child.communicate(timeout=30) == (f"{number.name} -1\n", "")
            assert child.returncode == 0
        finally:
            child.kill()


UNPATCHING = """
import os, signal, socketserver, threading
import socketserver_fast
socketserver_fast.patch()

class Server(socketserver.TCPServer):
    def service_actions(self):
        socketserver_fast.unpatch()
        os.kill(os.getpid(), signal.SIGTERM)

server = Server(("127.0.0.1", 0), None)
number = socketserver_fast.serve_until_signal(server, drain_timeout=20)
print(signal.Signals(number).name, server.fileno(), hasattr(server, "_stop_accepting"))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is sent to the process itself")
def test_serve_until_signal_goes_on_after_unpatch():
    done = subprocess.run([sys.executable, "-c", UNPATCHING], capture_output=True, text=True,
                          timeout=60)
    assert (done.stdout, done.stderr) == ("SIGTERM -1 False\n", "")


@pytest.mark.parametrize("function", ["drain", "serve_until_signal"])
def test_without_patch_the_error_says_what_to_do(function):
    wanted = pytest.raises(RuntimeError, match=r"call socketserver_fast\.patch\(\) before")
    with http.server.HTTPServer(("127.0.0.1", 0), Slow) as server, wanted:
        getattr(socketserver_fast, function)(server)


def test_servers_of_the_package_are_taken_too(background, connect, make_server_of_package):
    server = make_server_of_package(drained := [])
    running = background(server.serve_forever)
    assert connect(server, b"x").recv(1) == b"x"
    assert socketserver_fast.drain(server, 20) is True
    assert drained == [20]  # by its own method, which a subclass may extend
    running.result(20)


@pytest.fixture
def make_server_of_package():
    """A server of the package that notes how drain() was called."""

    def make(noted):
        class Server(socketserver_fast.ThreadingTCPServer):
            def drain(self, timeout=None):
                noted.append(timeout)
                return super().drain(timeout)

        class Echo(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.read(1))

        return Server(("127.0.0.1", 0), Echo)

    return make


def test_a_class_of_the_program_may_call_the_function_in_a_method_of_that_name():
    class Server(http.server.HTTPServer):
        def drain(self, timeout=None):
            return socketserver_fast.drain(self, timeout)

    socketserver_fast.patch()
    try:
        assert Server(("127.0.0.1", 0), Slow).drain(10) is True
    finally:
        socketserver_fast.unpatch()


def test_drain_in_the_serving_thread_is_refused():
    errors = []

    class Ends(stdlib.BaseRequestHandler):
        def handle(self):
            try:
                socketserver_fast.drain(self.server)
            except RuntimeError as error:
                errors.append(str(error))

    socketserver_fast.patch()
    try:
        server = stdlib.TCPServer(("127.0.0.1", 0), Ends)
        with server, socket.create_connection(server.server_address, 10):
            server.handle_request()
    finally:
        socketserver_fast.unpatch()
    assert len(errors) == 1
    assert "was called by a request" in errors[0]


def test_patch_again_keeps_the_pool():
    socketserver_fast.patch(threads="pool", max_workers=3)
    try:
        before = dict(vars(stdlib.ThreadingMixIn))
        socketserver_fast.patch()
        assert dict(vars(stdlib.ThreadingMixIn)) == before
    finally:
        socketserver_fast.unpatch()


@pytest.mark.parametrize("threads", [None, "pool", "greenlet"])
def test_unpatch_takes_everything_away(threads):
    classes = [value for value in vars(stdlib).values() if isinstance(value, type)]
    before = [dict(vars(cls)) for cls in classes]
    socketserver_fast.patch(threads=threads)
    assert [dict(vars(cls)) for cls in classes] != before
    socketserver_fast.unpatch()
    assert [dict(vars(cls)) for cls in classes] == before
