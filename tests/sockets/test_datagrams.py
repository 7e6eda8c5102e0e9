"""Datagram servers and DatagramRequestHandler: one packet, many at once, and none lost."""

import contextlib
import functools
import os
import select
import signal
import socket
import sys
import threading

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

unix = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets on Windows")
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's long packet queues")
KINDS = ["UDPServer", pytest.param("UnixDatagramServer", marks=unix)]


def echo(self):
    self.wfile.write(self.packet)


@pytest.fixture
def base_handler(socketserver):
    """`base_handler(function)`: a BaseRequestHandler with this handle()."""
    return lambda function: type("H", (socketserver.BaseRequestHandler,), {"handle": function})


@pytest.mark.parametrize("kind", KINDS)
def test_request_is_packet_and_socket(make_server, connect, base_handler, kind):
    def handle(self):
        seen.append((*self.request, self.client_address, type(self.request)))

    seen = []
    server = make_server(kind, handler=base_handler(handle))
    client = connect(server, b"hello")
    server.handle_request()
    assert seen == [(b"hello", server.socket, client.getsockname(), tuple)]
    assert type(seen[0][0]) is bytes


@pytest.mark.parametrize("kind", KINDS)
def test_handler_attributes(make_server, connect, kind):
    def handle(self):
        assert self.packet == b"one\ntwo\nthree"
        assert self.socket is self.server.socket
        assert self.rfile.readline() == b"one\n"
        assert [*self.rfile] == [b"two\n", b"three"]
        self.rfile.seek(4)
        assert self.rfile.read(3) == b"two"
        self.wfile.write(b"answer")
        self.wfile.writelines([b" in", b" parts"])
        assert self.wfile.getvalue() == b"answer in parts"

    server = make_server(kind, handler=handle)
    client = connect(server, b"one\ntwo\nthree")
    server.handle_request()
    assert client.recv(99) == b"answer in parts"


@pytest.mark.parametrize("kind", KINDS)
def test_packet_truncated_at_max_packet_size(make_server, connect, serving, kind):
    with serving(server := make_server(kind, handler=echo, max_packet_size=10)):
        for packet in [b"123456789", b"0123456789", b"0123456789 lost", b"short"]:
            assert connect(server, packet).recv(99) == packet[:10]


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193])
@pytest.mark.parametrize("kind", KINDS)
def test_packet_of_size(make_server, connect, serving, kind, size):
    with serving(server := make_server(kind, handler=echo)):
        client = connect(server)
        client.send(b"x" * size)
        assert client.recv(10_000) == b"x" * min(size, 8192)


@pytest.mark.parametrize("max_packet_size", [65_507, 200_000])
def test_packet_as_large_as_udp_has(make_server, connect, serving, max_packet_size):
    payload = os.urandom(65_507 if sys.platform == "linux" else 9000)
    server = make_server("UDPServer", handler=echo, max_packet_size=max_packet_size)
    with serving(server):
        assert connect(server, payload).recv(1 << 16) == payload


@pytest.mark.parametrize("kind", KINDS)
def test_empty_reply_is_sent(make_server, connect, serving, kind):
    with serving(server := make_server(kind, handler=lambda self: None)):
        for _ in range(3):
            assert connect(server, b"hello").recv(99) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_packets_in_order(make_server, connect, background, eventually, kind):
    handled = []
    server = make_server(kind, handler=lambda self: handled.append(self.packet), max_packet_size=8)
    clients = [connect(server), connect(server)]
    for number in range(8):
        clients[number % 2].send(b"%d" % number)
    background(server.serve_forever, 0.02)
    eventually(lambda: len(handled) == 8)
    server.shutdown()
    assert handled == [b"%d" % number for number in range(8)]


@linux
def test_burst_all_answered(make_server, connect, serving):
    """The senders' addresses must stay with their packets, whatever their length."""
    server = make_server("UDPServer", handler=lambda self: self.wfile.write(self.packet * 2))
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    clients = [connect(server) for _ in range(10)]
    packets = [[b"%d.%d," % (who, n) * (n % 7) for n in range(100)] for who in range(10)]
    for packet_of_each in zip(*packets, strict=True):
        for client, packet in zip(clients, packet_of_each, strict=True):
            client.send(packet)
    with serving(server):
        for client, sent in zip(clients, packets, strict=True):
            assert [client.recv(9999) for _ in sent] == [packet * 2 for packet in sent]


@pytest.fixture
def burst(make_server, connect):
    """`burst(handle, kind)`: a server with packets 0 to 7 waiting, and a list of those handled."""

    def make(handle, kind, *mixins, **attributes):
        def noting_handle(self):
            handled.append(self.packet)
            handle(self)

        handled = []
        server = make_server(*mixins, kind, handler=noting_handle, **attributes)
        client = connect(server)
        for number in range(8):
            client.send(b"%d" % number)
        return server, handled

    return make


def left_in(sock):
    """Return the packets that are still readable."""
    sock.setblocking(False)
    packets = []
    while select.select([sock], [], [], 0)[0]:
        packets.append(sock.recv(99))
    return packets


PACKETS = [b"%d" % number for number in range(8)]


@pytest.mark.parametrize("kind", KINDS)
def test_handler_raising_within_a_burst(burst, background, eventually, kind):
    def handle(self):
        if self.packet in (b"0", b"3", b"4"):
            raise ValueError(self.packet)

    errors = []
    server, handled = burst(
        handle, kind, handle_error=lambda self, request, address: errors.append(request[0])
    )
    background(server.serve_forever, 0.02)
    eventually(lambda: len(handled) == 8)
    server.shutdown()
    assert handled == PACKETS
    assert errors == [b"0", b"3", b"4"]


@pytest.mark.parametrize("at", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_shutdown_within_a_burst_loses_nothing(burst, kind, at):
    def handle(self):
        if self.packet == b"%d" % at:
            self.server._BaseServer__shutdown_request = True

    server, handled = burst(handle, kind)
    server.serve_forever(10)
    assert handled[: at + 1] == PACKETS[: at + 1]
    assert handled + left_in(server.socket) == PACKETS


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("at", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_exception_within_a_burst_loses_nothing(burst, kind, at, error):
    def handle(self):
        if self.packet == b"%d" % at:
            raise error

    server, handled = burst(handle, kind)
    with pytest.raises(error):
        server.serve_forever(10)
    assert handled == PACKETS[: at + 1]
    for _ in PACKETS[at + 1 :]:
        server.handle_request()
    assert handled == PACKETS


@pytest.mark.parametrize("kind", KINDS)
def test_exception_within_a_burst_leaves_the_rest_to_the_next_serve_forever(burst, kind):
    def handle(self):
        if self.packet in (b"1", b"2", b"5"):
            raise KeyboardInterrupt

    def service_actions(self):
        self._BaseServer__shutdown_request = len(handled) == 8

    server, handled = burst(handle, kind, service_actions=service_actions)
    for number in (1, 2, 5):
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever(10)
        assert handled == PACKETS[: number + 1]
    server.serve_forever(10)
    assert handled == PACKETS


@pytest.mark.parametrize("again", [False, True])
def test_exception_within_a_burst_leaves_the_rest_to_drain(burst, again):
    def handle(self):
        if self.packet == b"4":
            raise KeyboardInterrupt

    server, handled = burst(handle, "UDPServer")
    if not hasattr(server, "drain"):
        pytest.skip("socketserver has no drain()")
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever(10)
    received = PACKETS[: 7 if wait.native else 5]  # in batches of 1, 2 and 4
    assert handled == received[:5]
    if again:
        server._BaseServer__shutdown_request = True
        server.serve_forever(10)
        assert handled == received[:5]
    assert server.drain(10)
    assert handled == received


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals here")
def test_one_signal_leaves_a_burst(burst):
    server, handled = burst(lambda self: signal.raise_signal(signal.SIGINT), "UDPServer")
    for number in range(8):
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever(10)
        assert handled == PACKETS[: number + 1]


@pytest.mark.parametrize("hook", ["verify_request", "process_request", "service_actions"])
def test_hook_leaving_within_a_burst_loses_nothing(burst, hook):
    """pynetdicom and others raise in hooks to stop the loop."""

    class Stopping:
        calls = 0

        def leave(self, *args):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return getattr(super(), hook)(*args)

    setattr(Stopping, hook, Stopping.leave)
    server, handled = burst(lambda self: None, "UDPServer", Stopping)
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever(10)
    taken = 4 if hook == "service_actions" else 3
    assert handled == PACKETS[:taken]
    for _ in PACKETS[4:]:  # the fourth is lost if the hook refused to process it
        server.handle_request()
    assert handled == PACKETS[:taken] + PACKETS[4:]


@pytest.mark.parametrize("kind", KINDS)
def test_service_actions_called_per_packet_of_a_burst(burst, kind):
    def service_actions(self):
        counts.append(len(handled))
        if len(handled) == 8:
            raise KeyboardInterrupt

    counts = []
    server, handled = burst(lambda self: None, kind, service_actions=service_actions)
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever(10)
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_get_request_overridden_sees_each_packet(burst, connect, background, eventually, kind):
    """dnslib's and syslog servers' way: what get_request() returns is what is handled."""

    class Upper:
        def get_request(self):
            (packet, sock), address = super().get_request()
            return (b"<" + packet + b">", sock), address

    server, handled = burst(lambda self: None, kind, Upper)
    background(server.serve_forever, 0.02)
    eventually(lambda: len(handled) == 8)
    server.shutdown()
    assert handled == [b"<" + packet + b">" for packet in PACKETS]


def test_socket_replaced_within_a_burst(burst, connect, background, implementation):
    """Packets that were received before are still answered through the old one."""
    if implementation == "stdlib" or not wait.native:
        pytest.skip("it waits for the old socket and receives from the new one")

    def handle(self):
        if self.packet == b"2":
            self.server.socket = other
        echo(self)

    server, handled = burst(handle, "UDPServer")
    with server.socket as old, socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        background(server.serve_forever, 0.02)
        server.server_address = other.getsockname()
        client = connect(server, b"new")
        assert client.recv(9) == b"new"
        server.shutdown()
        assert handled[:3] == PACKETS[:3]
        assert [p for p in handled if p != b"new"] + left_in(old) == PACKETS


def test_handle_request_takes_one_packet(burst):
    server, handled = burst(lambda self: None, "UDPServer")
    server.handle_request()
    assert handled == PACKETS[:1]
    server._handle_request_noblock()
    assert handled == PACKETS[:2]
    assert left_in(server.socket) == PACKETS[2:]


def test_handle_request_sees_what_serve_forever_left(burst):
    def handle(self):
        self.server._BaseServer__shutdown_request = True

    server, handled = burst(handle, "UDPServer")
    server.serve_forever(10)
    while len(handled) < 8:
        assert select.select([server], [], [], 0)[0]
        server.handle_request()
    assert handled == PACKETS


@pytest.mark.parametrize("kind", ["ThreadingUDPServer", "ThreadingUnixDatagramServer"])
def test_packets_handled_at_once_in_threads(make_server, connect, serving, kind):
    barrier = threading.Barrier(3)

    def handle(self):
        barrier.wait(10)
        echo(self)

    if kind == "ThreadingUnixDatagramServer" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    with serving(server := make_server(kind, handler=handle)):
        clients = [connect(server, b"%d" % number) for number in range(3)]
        assert [client.recv(9) for client in clients] == [b"0", b"1", b"2"]


@unix
def test_unbound_unix_client(make_server, serving, eventually):
    """It has no address; what the stdlib says of it (None or '') cannot be answered."""
    seen, errors = [], []

    def handle(self):
        seen.append((self.packet, self.client_address))

    def handle_error(self, request, client_address):
        errors.append(client_address)

    server = make_server("UnixDatagramServer", handler=handle, handle_error=handle_error)
    with serving(server), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(server.server_address)
        client.send(b"one")
        client.send(b"two")
        eventually(lambda: len(errors) == 2)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.send(b"x")
        unbound = near.recvfrom(1)[1]
    assert seen == [(b"one", unbound), (b"two", unbound)]
    assert errors == [unbound, unbound]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6(make_server, connect, serving):
    seen = []

    def handle(self):
        seen.append(self.client_address)
        echo(self)

    server = make_server("UDPServer", handler=handle, address_family=socket.AF_INET6)
    with serving(server):
        clients = [connect(server, b"%d" % number) for number in range(3)]
        assert [client.recv(9) for client in clients] == [b"0", b"1", b"2"]
    assert seen == [client.getsockname() for client in clients]


def test_reply_refused_does_not_stop_the_loop(make_server, connect, serving):
    """The ICMP answer to a reply nobody takes comes back as ECONNREFUSED at a later receive."""
    server = make_server("UDPServer", handler=echo)
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    with serving(server):
        for _ in range(3):
            server.socket.sendto(b"to nobody", address)
            assert connect(server, b"hello").recv(9) == b"hello"


RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}


@linux
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_replies_refused_lose_no_other_packet(
    make_server, connect, base_handler, serving, eventually, implementation, family, by_hand
):
    """With IP_RECVERR (IPV6_RECVERR) the ICMP answer to one reply makes the next call fail."""
    if implementation == "stdlib" or not wait.native:
        pytest.skip("with errors left in the queue it may wait in recvfrom() for ever")

    def reply_by_hand(self):
        self.request[1].sendto(self.request[0], self.client_address)

    def server_bind(self):
        self.socket.setsockopt(*RECVERR[family], 1)
        super(type(self), self).server_bind()

    handler = base_handler(reply_by_hand) if by_hand else echo
    server = make_server(
        "UDPServer", handler=handler, address_family=family, server_bind=server_bind
    )
    gone, clients = [], []
    for number in range(20):
        gone.append(connect(server, b"to nobody"))
        clients.append(connect(server, b"%d" % number))
    for client in gone:  # not before, or another client may get the same port
        client.close()
    with serving(server):
        assert [client.recv(9) for client in clients] == [b"%d" % number for number in range(20)]
        assert connect(server, b"hello").recv(9) == b"hello"
        eventually(lambda: not select.select([server.socket], [], [], 0)[0])


class OwnGetRequest:
    def get_request(self):
        return super().get_request()


class FromDestination:
    reply_from_destination = True


def quiet_server(model, size, mixins=()):
    """Return a server that echoes and ignores the errors of its replies."""
    if not wait.native:
        pytest.skip("with errors left in the queue it may wait in recvfrom() for ever")
    handler = type("H", (socketserver_fast.DatagramRequestHandler,), {"handle": echo})
    attributes = {"max_packet_size": size, "handle_error": lambda *unused: None}
    bases = *mixins, getattr(socketserver_fast, model)
    return type("S", bases, attributes)(("127.0.0.1", 0), handler)


@linux
@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("size", [1000, 9000, 70000])
@pytest.mark.parametrize("mixins", [(), (OwnGetRequest,), (FromDestination,)])
@pytest.mark.parametrize("model", [
    "UDPServer", "ThreadingUDPServer", "ThreadPoolUDPServer", "GreenletUDPServer"])
def test_errors_in_the_queue_do_not_hold_up_the_loop(
    connect, serving, eventually, model, mixins, size, timeout
):
    """poll(2) finds the socket ready for them, and recvmsg(2) waits for a packet."""
    server = quiet_server(model, size, mixins)
    server.socket.settimeout(timeout)
    with serving(server):
        for _ in range(3):
            gone = [connect(server) for _ in range(4)]
            server.socket.setsockopt(*RECVERR[socket.AF_INET], 1)  # the loop runs already
            for client in gone:
                client.send(b"to nobody")
                client.close()
            client = connect(server)
            client.settimeout(0.2)
            eventually(functools.partial(answered, client))
        eventually(lambda: not select.select([server.socket], [], [], 0)[0])


@linux
@pytest.mark.parametrize("size", [1000, 70000])
@pytest.mark.parametrize("model", ["UDPServer", "ThreadPoolUDPServer", "GreenletUDPServer"])
def test_a_loop_with_nothing_but_errors_in_the_queue_ends(
    connect, serving, eventually, model, size
):
    server = quiet_server(model, size)
    server.socket.setsockopt(*RECVERR[socket.AF_INET], 1)
    with serving(server):
        client = connect(server)
        client.send(b"to nobody")
        client.close()
        eventually(lambda: not select.select([server.socket], [], [], 0)[0])
        assert server.shutdown(timeout=5)


def answered(client):
    """Return whether a reply came; in threads an error of another one may have made it fail."""
    client.send(b"hello")
    with contextlib.suppress(TimeoutError):
        return client.recv(9) == b"hello"


def test_client_gone_before_its_reply(make_server, connect, serving):
    server = make_server("UDPServer", handler=echo)
    gone = [connect(server, b"to nobody") for _ in range(3)]
    client = connect(server, b"hello")
    for other in gone:
        other.close()
    with serving(server):
        assert client.recv(9) == b"hello"


@pytest.mark.parametrize("kind", KINDS)
def test_no_reply_is_invented(make_server, connect, base_handler, serving, kind):
    def handle(self):
        if self.request[0] == b"answer":
            self.request[1].sendto(b"answered", self.client_address)

    with serving(server := make_server(kind, handler=base_handler(handle))):
        client = connect(server, b"")
        for packet in [b"hello", b"", b"answer"]:
            client.send(packet)
        assert client.recv(99) == b"answered"


def test_reply_larger_than_a_packet_is_an_error(make_server, connect, serving, eventually):
    errors = []

    def handle_error(self, request, client_address):
        errors.append(sys.exc_info()[1])

    server = make_server(
        "UDPServer",
        handler=lambda self: self.wfile.write(bytes(int(self.packet))),
        handle_error=handle_error,
    )
    with serving(server):
        connect(server, b"70000")
        eventually(lambda: errors)
        assert connect(server, b"5").recv(9) == bytes(5)
    assert isinstance(errors[0], OSError)


def test_server_without_a_bound_handler_class(socketserver, connect):
    """Any callable: here a partial that replies by itself."""

    def reply(text, request, client_address, server):
        request[1].sendto(text, client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), functools.partial(reply, b"text")) as server:
        client = connect(server, b"hello")
        server.handle_request()
        assert client.recv(9) == b"text"
