"""Who waits for its client over TLS does not count among a pool's max_workers, and ends in time."""

import contextlib
import http.server
import socket
import ssl
import threading

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait
from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
from socketserver_fast.tls import TLSMixIn

pytestmark = pytest.mark.skipif(not wait.native, reason="where waits do not show")

MANY = 50
HELLO = b"\x16\x03\x01\x02\x00\x01\x00"  # the first bytes of a handshake


def echo(handler):
    for line in handler.rfile:
        handler.wfile.write(line)


@pytest.fixture
def socketserver():
    return socketserver_fast


@pytest.fixture
def make(make_server, context):
    """`make(handler=handle, bases=(TLSMixIn,))`: a server with a pool of two workers, which gets no
    more when all are stuck."""

    def build(handler=echo, bases=(TLSMixIn,), **attributes):
        attributes = {
            "ssl_context": context, "max_workers": 2, "stall_seconds": None,
            "daemon_threads": True, "request_queue_size": 128, **attributes}
        return make_server(*bases, "ThreadPoolMixIn", "TCPServer", handler=handler, **attributes)

    return build


@pytest.fixture
def secure(certificate):
    """`secure(client)`: the client's connection after its handshake."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with contextlib.ExitStack() as stack:
        yield lambda client: stack.enter_context(
            context.wrap_socket(client, server_hostname="localhost"))


def ask(client, line=b"line\n", end=b"\n"):
    client.sendall(line)
    answer = b""
    while not answer.endswith(end):
        part = client.recv(100)
        assert part, "the connection has ended"
        answer += part
    return answer


@pytest.mark.parametrize("said", [b"", HELLO])
def test_clients_that_do_not_shake_hands(said, make, serving, connect, secure):
    with serving(server := make()):
        silent = [connect(server, said) for _ in range(MANY)]
        for _ in range(3):
            assert ask(secure(connect(server))) == b"line\n"
        if not said:
            assert ask(secure(silent[0])) == b"line\n"
        for client in silent:
            client.close()


def test_clients_that_shake_hands_and_say_nothing(make, serving, connect, secure):
    with serving(server := make()):
        silent = [secure(connect(server)) for _ in range(MANY)]
        for _ in range(3):
            assert ask(secure(connect(server))) == b"line\n"
        for client in silent:
            assert ask(client) == b"line\n"
            client.close()


def test_clients_that_do_not_read(make, serving, connect, secure):
    text = b"x" * (1 << 23) + b"\n"

    def send_much(handler):
        line = handler.rfile.readline()
        handler.wfile.write(text if line == b"much\n" else line)

    with serving(server := make(send_much)):
        clients = [secure(connect(server)) for _ in range(6)]
        for client in clients:
            client.sendall(b"much\n")
        for _ in range(3):
            assert ask(secure(connect(server))) == b"line\n"
        received = b"".join(iter(lambda: clients[0].recv(1 << 16), b""))
        assert received == text
        for client in clients:
            client.close()


def test_clients_that_send_a_line_in_parts(make, serving, connect, secure):
    with serving(server := make(max_workers=1)):
        slow = [secure(connect(server)) for _ in range(20)]
        for byte in b"line":
            for client in slow:
                client.sendall(bytes([byte]))
            assert ask(secure(connect(server))) == b"line\n"
        for client in slow:
            assert ask(client, b"\n") == b"line\n"
            client.close()


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0"])
def test_proxies_that_send_no_header(said, make, serving, connect, secure):
    server = make(bases=(ProxyProtocolMixIn, TLSMixIn), proxy_protocol_from=("127.0.0.1",))
    with serving(server):
        silent = [connect(server, said) for _ in range(MANY)]
        visitor = connect(server, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        assert ask(secure(visitor)) == b"line\n"
        for client in silent:
            client.close()


def test_work_after_a_wait_counts(make, serving, connect, secure, eventually):
    """Of two that shake hands late no more than max_workers handle their request at a time."""
    inside, leave = threading.Semaphore(0), threading.Event()
    running = []

    def handle(handler):
        running.append(handler)
        inside.release()
        leave.wait(10)

    with serving(server := make(handle, max_workers=1)):
        clients = [connect(server) for _ in range(2)]
        eventually(lambda: server.requests_in_progress == 2)
        for client in clients:
            secure(client)
        assert inside.acquire(timeout=10)
        assert not inside.acquire(timeout=0.05)
        leave.set()
        assert inside.acquire(timeout=10)


def test_wait_within_a_long_wait(make, serving, connect, secure, context, eventually):
    """Where a read shakes hands, and the callback of the context waits, too."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def get_request(server):
        sock, address = server.socket.accept()
        return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    def handle(handler):
        line = handler.rfile.readline()
        if line == b"work\n":
            inside.release()
            leave.wait(10)
        handler.wfile.write(line)

    ready, other = socket.socketpair()
    other.sendall(b".")
    context.sni_callback = lambda *unused: wait.wait_for_data(ready, 10) and None
    server = make(handle, bases=(), max_workers=1, get_request=get_request)
    with ready, other, serving(server):
        silent = [connect(server) for _ in range(3)]
        assert ask(secure(connect(server))) == b"line\n"  # so the others' turns are lent
        for client in silent:
            assert ask(secure(client)) == b"line\n"
        eventually(lambda: server.requests_in_progress == 0)
        for client in [secure(connect(server)) for _ in range(2)]:
            client.sendall(b"work\n")
        assert inside.acquire(timeout=10)
        assert not inside.acquire(timeout=0.1)
        leave.set()
        assert inside.acquire(timeout=10)


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


@pytest.fixture
def pages(request, certificate, context):
    """A patched server of http.server that serves TLS on a pool of two workers."""
    kind = getattr(http.server, request.param, None)
    if kind is None:
        pytest.skip("no HTTPSServer before Python 3.14")
    settings = {"max_workers": 2, "stall_seconds": None, "request_queue_size": 128,
                "ssl_context": context}
    socketserver_fast.patch(threads="pool")
    try:
        if request.param == "ThreadingHTTPSServer":
            files = dict(zip(("certfile", "keyfile"), map(str, certificate), strict=True))
            server = type("Server", (kind,), settings)(("127.0.0.1", 0), Page, **files)
        else:
            server = type("Server", (TLSMixIn, kind), settings)(("127.0.0.1", 0), Page)
        with server:
            yield server
    finally:
        socketserver_fast.unpatch()


@pytest.mark.parametrize("pages", ["ThreadingHTTPServer", "ThreadingHTTPSServer"], indirect=True)
@pytest.mark.parametrize("shake_hands", [False, True])
def test_patched_http_server(pages, shake_hands, serving, connect, secure):
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(pages):
        silent = [connect(pages) for _ in range(MANY)]
        if shake_hands:
            silent = list(map(secure, silent))
        visitor = secure(connect(pages))
        for _ in range(3):
            assert ask(visitor, get, b"ok").startswith(b"HTTP/1.1 200")
        if shake_hands:
            assert ask(silent[-1], get, b"ok").startswith(b"HTTP/1.1 200")
        for client in silent:
            client.close()
