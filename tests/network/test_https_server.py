"""http.server's HTTPSServer, which after patch() shakes hands in the thread of the request."""

import contextlib
import http.server
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest

import socketserver_fast

if not hasattr(http.server, "HTTPSServer"):
    pytest.skip("no HTTPSServer before Python 3.14", allow_module_level=True)

from socketserver_fast._sockets.reader import SocketReader
from socketserver_fast._sockets.writer import SocketWriter


@pytest.fixture
def make(certificate, hello_handler):
    """`make("HTTPSServer")`: a server of this class with a certificate for localhost, which notes
    the types of a request's files and its thread in `seen`."""

    class Handler(hello_handler):
        def do_GET(self):
            self.server.seen.append((type(self.rfile), type(self.wfile), threading.get_ident()))
            super().do_GET()

    with contextlib.ExitStack() as stack:

        def build(name, **attributes):
            kind = type(name, (getattr(http.server, name),), {"seen": [], **attributes})
            files = dict(zip(("certfile", "keyfile"), map(str, certificate), strict=True))
            server = kind(("127.0.0.1", 0), Handler, **files)
            stack.callback(server.server_close)
            return server

        yield build


@pytest.fixture
def ask(certificate):
    """`ask(address)`: the body that a client gets which trusts the certificate. It insists on
    TLS's end of the stream, unless it is lenient."""
    context = ssl.create_default_context(cafile=str(certificate[0]))

    def get(address, lenient=False):
        with (
            socket.create_connection(address, 10) as client,
            context.wrap_socket(
                client, server_hostname="localhost", suppress_ragged_eofs=lenient) as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with secure.makefile("rb") as answer:
                return answer.read().partition(b"\r\n\r\n")[2]

    return get


@pytest.fixture
def patched():
    """`patched(threads="pool")` calls patch(), which is undone after the test."""
    yield socketserver_fast.patch
    socketserver_fast.unpatch()


KINDS = ["HTTPSServer", "ThreadingHTTPSServer"]


def test_unpatched_the_end_is_not_announced(make, serving, ask):
    with serving(make("ThreadingHTTPSServer")) as address:
        assert ask(address, lenient=True) == b"hello"
        with pytest.raises(ssl.SSLEOFError):
            ask(address)


@pytest.mark.parametrize("name", KINDS)
def test_patched(name, make, serving, ask, patched):
    patched()
    server = make(name)
    with serving(server) as address:
        assert [ask(address), ask(address)] == [b"hello"] * 2
    assert {seen[:2] for seen in server.seen} == {(SocketReader, SocketWriter)}


def test_patched_after_it_was_made(make, serving, ask, patched):
    server = make("ThreadingHTTPSServer")
    patched()
    with serving(server) as address:
        assert ask(address) == b"hello"


@pytest.mark.parametrize("threads", [None, "pool", "greenlet"])
def test_silent_clients_hold_up_nobody(threads, make, serving, ask, patched):
    if threads == "greenlet":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    patched(threads=threads)
    server = make("ThreadingHTTPSServer", request_queue_size=64)
    with serving(server) as address, contextlib.ExitStack() as stack:
        for hello in (b"", b"\x16\x03\x01\x02\x00\x01"):
            stack.enter_context(socket.create_connection(address, 10)).sendall(hello)
        for _ in range(3):
            assert ask(address) == b"hello"
        stack.close()


@pytest.mark.parametrize("name", KINDS)
def test_handshake_that_takes_too_long_is_ended(name, make, serving, ask, patched):
    patched()
    with serving(make(name, handshake_timeout=0.05)) as address:
        with socket.create_connection(address, 10) as silent:
            assert silent.recv(1) == b""
        assert ask(address) == b"hello"


@pytest.mark.parametrize("name", KINDS)
def test_failed_handshake_prints_nothing(name, make, serving, ask, patched, capsys):
    patched()
    with serving(make(name)) as address:
        with socket.create_connection(address, 10) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while wrong.recv(100):
                    pass
        assert ask(address) == b"hello"
    assert capsys.readouterr().err == ""


def test_get_request_of_the_program_may_shake_hands(make, serving, ask, patched):
    patched()
    server = make("ThreadingHTTPSServer", get_request=lambda self: self.socket.accept())
    with serving(server) as address:
        assert ask(address, lenient=True) == b"hello"


@pytest.mark.parametrize("name", KINDS)
def test_drain_closes_connections_after_its_deadline(name, make, background, patched):
    patched()
    server = make(name, block_on_close=False)
    background(server.serve_forever)
    with socket.create_connection(server.server_address, 10) as silent:
        finished = background(socketserver_fast.drain, server, 0.05)
        assert silent.recv(1) == b""
        assert not finished.result(10)


def test_unpatched_again(make, serving, ask, patched):
    patched()
    socketserver_fast.unpatch()
    names = {"get_request", "_close_requests", "handshake_timeout"}
    assert not names & set(vars(http.server.HTTPSServer))


@pytest.mark.skipif(sys.platform == "win32", reason="is ended by SIGINT")
@pytest.mark.parametrize("threads", [(), ("--threads", "pool"), ("--threads", "greenlet")], ids=str)
def test_http_server_as_the_program(threads, certificate, ask, tmp_path):
    if "greenlet" in threads:
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    cert, key = map(str, certificate)
    (tmp_path / "index.html").write_bytes(b"the page")
    command = [sys.executable, "-u", "-m", "socketserver_fast", *threads, "-m", "http.server", "0",
               "--bind", "127.0.0.1", "--tls-cert", cert, "--tls-key", key]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=tmp_path) as child:
        try:
            port = int(re.search(r" port (\d+)", child.stdout.readline())[1])
            with socket.create_connection(("127.0.0.1", port), 10):
                for _ in range(3):
                    assert ask(("127.0.0.1", port)) == b"the page"
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=30)
        finally:
            child.kill()
    assert errors.count('"GET / HTTP/1.1" 200') == 3
    assert "Traceback" not in errors
