"""serve_until_signal() with kept connections of HTTP."""

import contextlib
import os
import signal
import socket
import sys

import pytest

from socketserver_fast._sockets import wait

pytestmark = pytest.mark.parametrize("implementation", ["fast"], indirect=True)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")


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
    """Return what it printed, when it has ended much sooner than drain_timeout."""
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
    """A request that came together with it is answered, too."""
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
    """Its first request may be on its way."""
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
