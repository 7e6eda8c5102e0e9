"""The options of UDPServer: its buffer, counts of lost packets, the source of replies."""

import contextlib
import logging
import select
import socket
import sys
import threading

import pytest

import socketserver_fast
from socketserver_fast._sockets import options

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
# macOS has just 127.0.0.1 until another address is configured.
HOSTS = ["127.0.0.1", *(pytest.param(host, marks=linux) for host in ("127.0.0.2", "127.1.2.3"))]
ipv4 = pytest.mark.parametrize("host", HOSTS)
MIXINS = [(), ("ThreadingMixIn",), pytest.param(("ForkingMixIn",), marks=linux)]


@pytest.fixture
def implementation():
    """Only the package has these attributes."""
    return "fast"


def echo(self):
    self.wfile.write(self.packet)


@pytest.fixture
def base_handler():
    return lambda function: type("H", (socketserver_fast.BaseRequestHandler,), {"handle": function})


@pytest.fixture
def warnings(caplog):
    """`warnings()`: what the package has logged so far."""
    caplog.set_level(logging.WARNING, "socketserver_fast")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "socketserver_fast"]


@pytest.fixture
def client_to():
    """`client_to(server, host)`: a client that takes replies from this address only."""
    with contextlib.ExitStack() as stack:

        def open_client(server, host):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            client.settimeout(10)
            client.connect((host, server.server_address[1]))
            return client

        yield open_client


@pytest.fixture
def wildcard_server():
    """`wildcard_server(...)`: make_server, but bound to every address."""
    with contextlib.ExitStack() as stack:

        def make(*mixins, handler, **attributes):
            if not isinstance(handler, type):
                handler = type(
                    "H", (socketserver_fast.DatagramRequestHandler,), {"handle": handler}
                )
            bases = tuple(getattr(socketserver_fast, name) for name in mixins)
            server_class = type("Server", (*bases, socketserver_fast.UDPServer), attributes)
            server = server_class(("", 0), handler)
            stack.callback(server.server_close)
            return server

        yield make


# reply_from_destination.


@ipv4
@pytest.mark.parametrize("mixins", MIXINS)
def test_reply_leaves_from_the_destination(wildcard_server, serving, client_to, mixins, host):
    server = wildcard_server(*mixins, handler=echo, reply_from_destination=True)
    with serving(server):
        client = client_to(server, host)
        for packet in [b"one", b"", b"three"]:
            client.send(packet)
            assert client.recv(99) == packet


@ipv4
@pytest.mark.parametrize("arguments", [(), (0,)], ids=["sendto", "sendto-flags"])
def test_reply_by_sendto(wildcard_server, base_handler, serving, client_to, host, arguments):
    def handle(self):
        packet, sock = self.request
        assert sock.sendto(packet, *arguments, self.client_address) == len(packet)

    server = wildcard_server(handler=base_handler(handle), reply_from_destination=True)
    with serving(server):
        client = client_to(server, host)
        client.send(b"hello")
        assert client.recv(99) == b"hello"


@linux
def test_each_packet_has_its_own_destination(wildcard_server, serving, client_to):
    """Replies that come late, in threads, and out of order."""

    def handle(self):
        barrier.wait(10)
        echo(self)

    barrier = threading.Barrier(3)
    server = wildcard_server("ThreadingMixIn", handler=handle, reply_from_destination=True)
    with serving(server):
        clients = [client_to(server, f"127.0.0.{number}") for number in (1, 2, 3)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        assert [client.recv(9) for client in clients] == [b"0", b"1", b"2"]


@linux
def test_without_it_the_reply_does_not_reach(wildcard_server, serving, client_to, eventually):
    """The clients of these tests can tell the difference."""
    replied = []
    server = wildcard_server(handler=lambda self: replied.append(self.wfile.write(self.packet)))
    with serving(server):
        client = client_to(server, "127.0.0.2")
        client.send(b"hello")
        eventually(lambda: replied)
        probe = client_to(server, "127.0.0.1")
        probe.send(b"hello")
        assert probe.recv(9) == b"hello"
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(9)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", *HOSTS])
def test_reply_from_destination_of_ipv6_server(wildcard_server, serving, client_to, host):
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver_fast.UDPServer.server_bind(self)

    server = wildcard_server(
        handler=echo,
        reply_from_destination=True,
        address_family=socket.AF_INET6,
        server_bind=server_bind,
    )
    with serving(server):
        client = client_to(server, host)
        client.send(b"hello")
        assert client.recv(99) == b"hello"


def test_the_handlers_socket_is_otherwise_the_servers(wildcard_server, serving, client_to):
    def handle(self):
        assert self.socket.fileno() == self.server.fileno()
        assert self.socket.getsockname() == self.server.server_address
        with pytest.raises(TypeError):
            self.socket.sendto(b"without an address")
        with pytest.raises(AttributeError):
            self.socket.no_such_method()
        self.socket.sendmsg([self.client_address[0].encode(), b"!"], [], 0, self.client_address)
        self.wfile.write(b"done")

    server = wildcard_server(handler=handle, reply_from_destination=True)
    with serving(server):
        client = client_to(server, "127.0.0.1")
        client.send(b"hello")
        assert [client.recv(99), client.recv(99)] == [b"127.0.0.1!", b"done"]


def test_packets_cut_are_counted_with_destinations_too(wildcard_server, serving, client_to):
    server = wildcard_server(handler=echo, reply_from_destination=True, max_packet_size=4)
    with serving(server):
        client = client_to(server, "127.0.0.1")
        client.send(b"hello")
        assert client.recv(99) == b"hell"
    assert server.datagrams_truncated == 1


@linux
def test_drops_are_logged_with_destinations_too(wildcard_server, serving, client_to, warnings):
    server = wildcard_server(handler=echo, reply_from_destination=True, recv_buffer_size=4096)
    client = client_to(server, "127.0.0.2")
    for _ in range(500):
        client.send(b"hello")
    answered = 500 - server.datagrams_dropped
    with serving(server):
        assert [client.recv(9) for _ in range(answered)] == [b"hello"] * answered
        client.send(b"after the gap")
        assert client.recv(99) == b"after the gap"
        assert len(warnings()) == 1
    assert "dropped" in warnings()[0]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_server_has_no_destination(make_server):
    with pytest.raises(ValueError, match="AF_INET6"):
        make_server("UnixDatagramServer", handler=echo, reply_from_destination=True)


def test_system_that_tells_no_destination(make_server, monkeypatch):
    monkeypatch.setattr(
        options, "_destination_options", {socket.AF_INET: (0, None)}
    )
    with pytest.raises(OSError, match="run a server for each address"):
        make_server("UDPServer", handler=echo, reply_from_destination=True)


# recv_buffer_size.


def granted(sock):
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return size // 2 if sys.platform == "linux" else size


def test_recv_buffer_size_is_set(make_server, warnings):
    server = make_server("UDPServer", handler=echo, recv_buffer_size=40_000)
    assert granted(server.socket) == 40_000
    assert warnings() == []


def test_recv_buffer_size_left_alone(make_server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as usual:
        server = make_server("UDPServer", handler=echo)
        assert granted(server.socket) == granted(usual)


def test_recv_buffer_size_of_a_socket_that_came_bound(make_server):
    """Socket activation: the server's own socket is replaced before server_activate()."""
    server = make_server("UDPServer", handler=echo, activate=False, recv_buffer_size=40_000)
    server.socket.close()
    server.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.socket.bind(("127.0.0.1", 0))
    server.server_activate()
    assert granted(server.socket) == 40_000


@pytest.mark.parametrize("size", [2**31 - 1, 2**40])
def test_recv_buffer_size_not_granted_is_logged_once(make_server, warnings, size):
    server = make_server("UDPServer", handler=echo, recv_buffer_size=size)
    server.server_activate()
    assert len(warnings()) == 1
    assert f"buffer of {granted(server.socket)} bytes" in warnings()[0]
    assert str(size) in warnings()[0]


@pytest.mark.parametrize("size", [0, -1, "4096", 1.5])
def test_recv_buffer_size_that_is_none(make_server, size):
    with pytest.raises(ValueError, match="recv_buffer_size must be"):
        make_server("UDPServer", handler=echo, recv_buffer_size=size)


# datagrams_dropped.


@linux
def test_drops_are_logged_once_when_the_next_packet_comes(make_server, connect, serving, warnings):
    server = make_server("UDPServer", handler=echo, recv_buffer_size=4096)
    client = connect(server)
    with serving(server):
        client.send(b"hello")
        assert client.recv(9) == b"hello"
    assert warnings() == []
    server = make_server("UDPServer", handler=echo, recv_buffer_size=4096)
    client = connect(server)
    for _ in range(2):
        before = server.datagrams_dropped
        for _ in range(500):
            client.send(b"hello")
        for _ in range(500 - (server.datagrams_dropped - before)):
            server.handle_request()
            assert client.recv(9) == b"hello"
        client.send(b"after the gap")
        server.handle_request()
        assert client.recv(99) == b"after the gap"
        assert len(warnings()) == 1
    assert "datagrams_dropped" in warnings()[0]


@linux
def test_drops_are_logged_again_with_their_number(make_server, connect, warnings, monkeypatch):
    monkeypatch.setattr(options, "REPORT_SECONDS", 0)  # a minute is over at once
    server = make_server("UDPServer", handler=echo, recv_buffer_size=4096)
    client = connect(server)
    said = []
    for _ in range(3):
        for _ in range(500):
            client.send(b"hello")
        server.handle_request()
        while select.select([server], [], [], 0)[0]:
            server.handle_request()
        client.send(b"after the gap")
        server.handle_request()
        said.append(server.datagrams_dropped)
    for _ in range(3):  # no more were dropped
        client.send(b"hello")
        server.handle_request()
    server.server_close()
    assert sorted(set(said)) == said
    assert [f" {count} packets were dropped" in line
            for count, line in zip(said, warnings(), strict=True)] == [True] * 3


@linux
def test_last_number_of_drops_is_logged_at_the_end(make_server, connect, warnings):
    server = make_server("UDPServer", handler=echo, recv_buffer_size=4096)
    client = connect(server)
    for _ in range(2):
        for _ in range(500):
            client.send(b"hello")
        while select.select([server], [], [], 0)[0]:
            server.handle_request()
        client.send(b"after the gap")
        server.handle_request()
    assert len(warnings()) == 1
    dropped = server.datagrams_dropped
    server.server_close()
    server.server_close()
    assert len(warnings()) == 2
    assert f" {dropped} packets were dropped" in warnings()[1]


@linux
def test_drops_that_no_packet_followed_are_logged_at_the_end(make_server, connect, warnings):
    server = make_server("UDPServer", handler=echo, recv_buffer_size=4096)
    client = connect(server)
    for _ in range(500):
        client.send(b"hello")
    dropped = server.datagrams_dropped
    assert dropped > 0
    assert warnings() == []
    server.server_close()
    assert server.datagrams_dropped == dropped
    assert len(warnings()) == 1
    assert f"{dropped} packets were dropped" in warnings()[0]


@linux
@pytest.mark.parametrize("kind", ["UDPServer", "UnixDatagramServer"])
def test_nothing_dropped(make_server, connect, serving, kind):
    server = make_server(kind, handler=echo)
    with serving(server):
        assert connect(server, b"hello").recv(9) == b"hello"
        assert (server.datagrams_dropped, server.datagrams_truncated) == (0, 0)
    assert (server.datagrams_dropped, server.datagrams_truncated) == (0, 0)


@pytest.mark.parametrize("missing", ["option of the build", "option of the kernel"])
def test_drops_that_the_system_does_not_tell(make_server, connect, monkeypatch, missing):
    option = None if missing == "option of the build" else 0x7FFFFFFF
    monkeypatch.setattr(options, "SO_MEMINFO", option)
    monkeypatch.setattr(options, "SO_RXQ_OVFL", option)
    server = make_server("UDPServer", handler=echo)
    client = connect(server, b"hello")
    server.handle_request()
    assert client.recv(9) == b"hello"
    assert server.datagrams_dropped is None
    server.server_close()
    assert server.datagrams_dropped is None


# datagrams_truncated.


@pytest.mark.skipif(not hasattr(socket.socket, "recvmsg"), reason="no recvmsg here")
@pytest.mark.parametrize("kind", ["UDPServer", "UnixDatagramServer"])
def test_packets_cut_are_counted_to_the_end(make_server, connect, serving, kind):
    server = make_server(kind, handler=echo, max_packet_size=4)
    with serving(server):
        client = connect(server)
        client.send(b"12345")
        assert client.recv(9) == b"1234"
    assert server.datagrams_truncated == 1


@pytest.mark.skipif(not hasattr(socket.socket, "recvmsg"), reason="no recvmsg here")
@pytest.mark.parametrize("size", [4, 10_000])
@pytest.mark.parametrize("wait", [False, True])
def test_packets_cut_are_counted_one_by_one(make_server, connect, background, size, wait):
    """handle_request(), also with packets above the compiled path's limit and after waiting."""
    server = make_server("UDPServer", handler=echo, max_packet_size=size)
    client = connect(server)
    packet = b"x" * (size + 1)
    for number in (1, 2):
        done = background(server._handle_request_noblock) if wait else None
        client.send(packet)
        done.result(10) if wait else server.handle_request()
        assert client.recv(99_999) == packet[:size]
        assert server.datagrams_truncated == number


def test_patched_stdlib_server_counts_nothing(connect):
    import socketserver

    socketserver_fast.patch()
    try:
        handler = type("H", (socketserver.DatagramRequestHandler,), {"handle": echo})
        server_class = type("S", (socketserver.UDPServer,), {"max_packet_size": 4})
        with server_class(("127.0.0.1", 0), handler) as server:
            client = connect(server, b"hello")
            server.handle_request()
            assert client.recv(9) == b"hell"
            assert not hasattr(server, "datagrams_truncated")
    finally:
        socketserver_fast.unpatch()
