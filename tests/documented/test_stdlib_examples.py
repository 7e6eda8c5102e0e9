"""The ways of working that the documentation of socketserver describes, each with its client."""

import os
import socket
import sys
import threading

import pytest

unix = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets on Windows")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def upper_by_recv(self):
    self.data = self.request.recv(1024).strip()
    self.request.sendall(self.data.upper())


def upper_by_streams(self):
    self.data = self.rfile.readline(10000).rstrip()
    self.wfile.write(self.data.upper())


def upper_by_packet(self):
    data, sock = self.request
    sock.sendto(data.strip().upper(), self.client_address)


def name_of_thread(self):
    data = str(self.request.recv(1024), "ascii")
    self.request.sendall(bytes(f"{threading.current_thread().name}: {data}", "ascii"))


@pytest.fixture
def handler_class(socketserver):
    """A BaseRequestHandler with this handle(), as the documentation writes its first ones."""

    def make(handle):
        return type("MyHandler", (socketserver.BaseRequestHandler,), {"handle": handle})

    return make


def ask(address, text):
    """The documentation's TCP client."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(bytes(text + "\n", "utf-8"))
        return str(sock.recv(1024), "utf-8")


def test_tcp_by_recv(make_server, handler_class, serving):
    server = make_server("TCPServer", handler=handler_class(upper_by_recv))
    with serving(server) as address:
        assert ask(address, "hello world with TCP") == "HELLO WORLD WITH TCP"
        assert ask(address, "python is nice") == "PYTHON IS NICE"


def test_tcp_by_streams(make_server, serving):
    with serving(make_server("TCPServer", handler=upper_by_streams)) as address:
        assert ask(address, "hello world with TCP") == "HELLO WORLD WITH TCP"
        assert ask(address, "") == ""


def test_udp(make_server, handler_class, serving):
    server = make_server("UDPServer", handler=handler_class(upper_by_packet))
    with serving(server) as address, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"hello world with UDP\n", address)
        assert client.recv(1024) == b"HELLO WORLD WITH UDP"


def test_udp_by_streams(make_server, serving):
    """One class for both: upper_by_streams under DatagramRequestHandler."""
    server = make_server("UDPServer", handler=upper_by_streams)
    with serving(server) as address, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"line of a packet\nrest", address)
        assert client.recv(1024) == b"LINE OF A PACKET"


def test_threaded_mixin_with_three_clients(socketserver, handler_class):
    class ThreadedTCPServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
        pass

    server = ThreadedTCPServer(("localhost", 0), handler_class(name_of_thread))
    with server:
        server_thread = threading.Thread(target=server.serve_forever)
        server_thread.daemon = True
        server_thread.start()
        for number in range(3):
            name, text = ask(server.server_address, f"Hello World {number}").split(": ")
            assert text == f"Hello World {number}\n"
            assert name not in (server_thread.name, threading.current_thread().name)
        server.shutdown()
    server_thread.join(10)


@unix
def test_unix_stream(make_server, connect, serving):
    server = make_server("UnixStreamServer", handler=upper_by_streams)
    with serving(server):
        assert connect(server, b"hello\n").recv(9) == b"HELLO"


@unix
def test_unix_datagram(make_server, connect, serving):
    server = make_server("UnixDatagramServer", handler=upper_by_packet)
    with serving(server):
        assert connect(server, b"hello\n").recv(9) == b"HELLO"


def answer_or_fork(self):
    """Quick requests here; slow ones are finished by a child forked explicitly."""
    if self.rfile.readline() == b"quick\n":
        self.wfile.write(b"by the server itself")
        return
    self.server.child = os.fork()
    if self.server.child == 0:
        try:
            self.wfile.write(b"by %d" % os.getpid())
        finally:
            os._exit(0)


def shutdown_request(self, request):
    """What a child works on is closed here but not shut down."""
    if self.child:
        self.close_request(request)
    else:
        super(type(self), self).shutdown_request(request)


@forking
def test_fork_explicitly_in_handle(make_server, connect):
    server = make_server(
        "TCPServer", handler=answer_or_fork, shutdown_request=shutdown_request, child=None
    )
    client = connect(server, b"quick\n")
    server.handle_request()
    assert client.makefile("rb").read() == b"by the server itself"
    client = connect(server, b"slow\n")
    server.handle_request()
    assert os.waitpid(server.child, 0)[1] == 0
    assert client.makefile("rb").read() == b"by %d" % server.child


def test_verify_request(make_server, connect, serving):
    """Only what verify_request() lets through is answered; the others see their end at once."""
    server = make_server(
        "TCPServer",
        handler=lambda self: self.wfile.write(b"welcome"),
        verify_request=lambda self, request, address: request.recv(5) == b"hello",
    )
    with serving(server):
        assert connect(server, b"hello").makefile("rb").read() == b"welcome"
        assert connect(server, b"other").makefile("rb").read() == b""


@pytest.mark.parametrize("mixin", ["ThreadingMixIn", pytest.param("ForkingMixIn", marks=forking)])
def test_mixin_overrides_process_request(socketserver, mixin):
    """The mix-in class comes first, since it overrides a method defined in UDPServer."""
    mixin = getattr(socketserver, mixin)
    combined = type("Server", (mixin, socketserver.UDPServer), {})
    assert combined.process_request is mixin.process_request


def test_handle_request_with_timeout(make_server):
    """A server that gives up after a while without a request."""
    late = []
    server = make_server("TCPServer", timeout=0.02, handle_timeout=lambda self: late.append(1))
    server.handle_request()
    assert late == [1]


def test_service_actions_in_a_subclass(make_server, connect, serving, eventually):
    """To perform actions specific to a given service, such as cleanup."""
    cleaned = []
    server = make_server("TCPServer", service_actions=lambda self: cleaned.append(1))
    with serving(server, 0.005):
        eventually(lambda: len(cleaned) > 2)
