"""Real programs of the stdlib, each on the stdlib as it is, on the stdlib patched, and imported
anew with `import socketserver` giving the package."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import http.server
import importlib
import io
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import shutil
import socket
import struct
import subprocess
import sys
import threading
import wsgiref.simple_server  # noqa: F401  (load() imports it anew)
import xmlrpc.client
import xmlrpc.server
from wsgiref.validate import validator

import pytest

PROGRAMS = ["http.server", "xmlrpc.server", "wsgiref.simple_server", "logging.config"]


@pytest.fixture
def load(socketserver, monkeypatch):
    """Imports a program whose `import socketserver` gives the module under test."""

    def load(name):
        package, _, module = name.rpartition(".")
        program = importlib.import_module(name)
        monkeypatch.setattr(sys.modules[package], module, program)  # to be put back afterwards
        return program

    monkeypatch.setitem(sys.modules, "socketserver", socketserver)
    for name in PROGRAMS:
        monkeypatch.delitem(sys.modules, name)
    return load


@pytest.fixture
def loaded_http(load, socketserver):
    """http.server on the module under test."""
    module = load("http.server")
    assert issubclass(module.ThreadingHTTPServer, socketserver.ThreadingMixIn)
    return module


LARGE = bytes(range(256)) * (8 << 12)  # 8 MiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to be served."""
    path = tmp_path_factory.mktemp("served")
    (path / "page.html").write_text("<p>the page</p>")
    (path / "large.bin").write_bytes(LARGE)
    return path


@pytest.fixture(params=["HTTPServer", "ThreadingHTTPServer"])
def site(request, loaded_http, folder, serving):
    """The address of http.server, synchronous or threaded, on the folder."""

    class Handler(loaded_http.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with serving(getattr(loaded_http, request.param)(("127.0.0.1", 0), Handler)) as address:
        yield address


@contextlib.contextmanager
def connected(address):
    """A client's connection."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        yield connection


def get(connection, path, method="GET"):
    """The status, the length that was announced and the body."""
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.getheader("Content-Length"), response.read()


# http.server


def test_http_get_head_and_404_on_one_kept_connection(site):
    with connected(site) as connection:
        assert get(connection, "/page.html") == (200, "15", b"<p>the page</p>")
        sock = connection.sock
        assert get(connection, "/page.html", "HEAD") == (200, "15", b"")
        assert get(connection, "/page.html") == (200, "15", b"<p>the page</p>")
        assert b"page.html" in get(connection, "/")[2]
        assert connection.sock is sock
        status, length, body = get(connection, "/nothing")
        assert (status, length) == (404, str(len(body)))


def test_http_refuses_what_it_does_not_know(site):
    with connected(site) as connection:
        assert get(connection, "/page.html", "POST")[0] == 501
    assert raw(site, b"nonsense\r\n\r\n").startswith((b"<!DOCTYPE", b"HTTP/1.1 400 "))
    assert raw(site, b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 70000)).startswith(b"HTTP/1.1 414 ")
    assert raw(site, b"GET / HTTP/1.1\r\nA: %s\r\n\r\n" % (b"x" * 70000)).startswith(
        b"HTTP/1.1 431 "
    )


def raw(address, request):
    """The whole answer to these bytes."""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file, contextlib.suppress(ConnectionResetError):
            return file.read(100)
    return b""


def test_http_large_file_arrives_whole(site):
    with connected(site) as connection:
        status, length, body = get(connection, "/large.bin")
    assert (status, length) == (200, str(len(LARGE)))
    assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_http_request_in_pieces(site, size):
    request = b"GET /page.html HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"y" * 90
    request += b"\r\nConnection: close\r\n\r\n"
    with socket.create_connection(site, timeout=30) as client, client.makefile("rb") as file:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), size):
            client.sendall(request[start : start + size])
        answer = file.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n<p>the page</p>")


def test_http_requests_sent_ahead_are_all_answered(site):
    request = b"GET /page.html HTTP/1.1\r\nHost: localhost\r\n"
    requests = (request + b"\r\n") * 20 + request + b"Connection: close\r\n\r\n"
    with socket.create_connection(site, timeout=30) as client, client.makefile("rb") as file:
        client.sendall(requests)
        assert file.read().count(b"<p>the page</p>") == 21


def test_http_curl(site, tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    base = "http://{}:{}".format(*site)
    target = tmp_path / "large.bin"
    subprocess.run(
        [curl, "--noproxy", "*", "--fail", "-sS", "-m", "60", "-o", target, f"{base}/large.bin"],
        check=True,
    )
    assert target.read_bytes() == LARGE


def test_http_fifty_clients_at_once(loaded_http, serving):
    everybody = threading.Barrier(50, timeout=60)

    class Handler(loaded_http.BaseHTTPRequestHandler):
        def do_GET(self):
            everybody.wait()  # all fifty are being served
            body = self.path.encode() * 1000
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    class Server(loaded_http.ThreadingHTTPServer):
        request_queue_size = 50

    def client(number):
        with connected(address) as connection:
            return get(connection, f"/{number}")[2]

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server) as address, concurrent.futures.ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(client, range(50)))
    assert answers == [f"/{number}".encode() * 1000 for number in range(50)]


# xmlrpc, wsgiref


def test_xmlrpc_calls(load, socketserver, serving):
    module = load("xmlrpc.server")
    assert issubclass(module.SimpleXMLRPCServer, socketserver.TCPServer)
    server = module.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_introspection_functions()
    server.register_multicall_functions()
    server.register_function(lambda a, b: a + b, "add")
    server.register_function(lambda a, b: a // b, "divide")
    server.register_function(lambda data: data.data[::-1], "reverse")
    with serving(server) as address:
        url = "http://{}:{}".format(*address)
        with xmlrpc.client.ServerProxy(url) as proxy:
            call_everything(proxy)


def call_everything(proxy):
    assert proxy.add(2, 3) == 5
    assert proxy.add(["list"], [{"a": 1.5}]) == ["list", {"a": 1.5}]
    assert "add" in proxy.system.listMethods()
    with pytest.raises(xmlrpc.client.Fault, match="ZeroDivisionError"):
        proxy.divide(1, 0)
    data = os.urandom(300_000)
    assert proxy.reverse(xmlrpc.client.Binary(data)).data == data[::-1]
    calls = xmlrpc.client.MultiCall(proxy)
    calls.add(1, 1)
    calls.add("a", "b")
    assert list(calls()) == [2, "ab"]


def wsgi_app(environ, start_response):
    """Answers with the request's method, path and body."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    answer = json.dumps([environ["REQUEST_METHOD"], environ["PATH_INFO"], len(body)]).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]


@pytest.mark.parametrize("threaded", [False, True])
def test_wsgiref_serves_a_validated_application(load, socketserver, serving, threaded):
    module = load("wsgiref.simple_server")

    class Handler(module.WSGIRequestHandler):
        def log_message(self, *args):
            pass

        def get_stderr(self):
            return errors

    errors = io.StringIO()
    bases = (socketserver.ThreadingMixIn, module.WSGIServer)[not threaded :]
    server_class = type("Server", bases, {})
    app = validator(wsgi_app)
    with serving(module.make_server("127.0.0.1", 0, app, server_class, Handler)) as address:
        for _ in range(3):
            with connected(address) as connection:
                connection.request("POST", "/path", body=b"x" * 200_000)
                answer = json.load(connection.getresponse())
            assert answer == ["POST", "/path", 200_000]
    assert errors.getvalue() == ""


# logging


def test_logging_listens_for_configurations(load):
    config = load("logging.config")
    logger = logging.getLogger("socketserver_fast.test_programs")
    data = json.dumps(
        {
            "version": 1,
            "incremental": True,
            "loggers": {logger.name: {"level": "ERROR"}},
        }
    ).encode()
    received = queue.Queue()
    listener = config.listen(0, verify=lambda data: received.put(data) or data)
    listener.start()
    assert listener.ready.wait(10)
    try:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as client:
            client.sendall(struct.pack(">L", len(data)))
            for start in range(0, len(data), 10):
                client.sendall(data[start : start + 10])
            assert client.recv(1) == b""
        assert received.get(timeout=10) == data
    finally:
        config.stopListening()
        listener.join(10)
    assert not listener.is_alive()
    assert logger.level == logging.ERROR


def test_syslog_messages_arrive_one_by_one(socketserver, serving):
    class Syslog(socketserver.DatagramRequestHandler):
        def handle(self):
            received.put(self.rfile.read())

    received = queue.Queue()
    with socketserver.UDPServer(("127.0.0.1", 0), Syslog) as server, serving(server) as address:
        handler = logging.handlers.SysLogHandler(address)
        with contextlib.closing(handler):
            for number in range(50):
                message = f"message {number} " + "ü" * number
                handler.handle(logging.makeLogRecord({"msg": message, "levelname": "INFO"}))
                assert received.get(timeout=10) == f"<14>{message}\0".encode()
