"""One datagram handler in every model: errors of earlier replies, empty replies, what is lost."""

import logging
import select
import socket
import sys

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

try:
    from socketserver_fast import green
except ImportError:
    green = None

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
MODELS = [
    "UDPServer",
    "ThreadingUDPServer",
    "ThreadPoolUDPServer",
    pytest.param("GreenletUDPServer", marks=pytest.mark.skipif(
        green is None, reason="no greenlets here")),
]
pytestmark = pytest.mark.parametrize("model", MODELS)


@pytest.fixture
def implementation():
    """Most of these are only in the package."""
    return "fast"


@pytest.fixture
def start(make_server, model):
    """`start(handle, **attributes)`: a server of the model."""
    return lambda handle=echo, **attributes: make_server(
        getattr(socketserver_fast, model), handler=handle, **attributes)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "socketserver_fast")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "socketserver_fast"]


def echo(self):
    self.wfile.write(self.packet)


@pytest.mark.parametrize("recverr", [False, pytest.param(True, marks=linux)])
def test_replies_refused_lose_no_other_packet(start, connect, serving, eventually, recverr):
    """Neither what was received nor the loop; with IP_RECVERR each refusal makes a call fail."""
    if recverr and not wait.native:
        pytest.skip("with errors left in the queue it may wait in recvfrom() for ever")

    def server_bind(self):
        if recverr:
            self.socket.setsockopt(socket.IPPROTO_IP, 11, 1)
        super(type(self), self).server_bind()

    server = start(server_bind=server_bind)
    gone, clients = [], []
    for number in range(20):
        gone.append(connect(server, b"to nobody"))
        clients.append(connect(server, b"%d" % number))
    for client in gone:
        client.close()
    with serving(server):
        assert [client.recv(9) for client in clients] == [b"%d" % number for number in range(20)]
        for _ in range(3):
            assert connect(server, b"hello").recv(9) == b"hello"
        eventually(lambda: not select.select([server.socket], [], [], 0)[0])


def test_empty_reply_is_sent(start, connect, serving):
    with serving(server := start(lambda self: None)):
        client = connect(server)
        for packet in [b"hello", b""]:
            client.send(packet)
            assert client.recv(9) == b""


def test_no_reply_is_invented(start, connect, serving):
    class Handler(socketserver_fast.BaseRequestHandler):
        def handle(self):
            if self.request[0] == b"answer":
                self.request[1].sendto(b"answered", self.client_address)

    with serving(server := start(Handler)):
        client = connect(server)
        for packet in [b"hello", b"", b"answer"]:
            client.send(packet)
        assert client.recv(99) == b"answered"


@linux
def test_burst_answered_and_dropped_make_what_was_sent(start, connect, serving, warnings):
    """Sent before the loop runs, so that how much fits is the kernel's decision alone."""
    server = start(recv_buffer_size=50_000)
    client = connect(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for number in range(1000):
        client.send(b"%d" % number)
    dropped = server.datagrams_dropped
    assert 0 < dropped < 1000
    with serving(server):
        answers = {client.recv(9) for _ in range(1000 - dropped)}
        assert len(answers) == 1000 - dropped
        client.send(b"last")
        assert client.recv(9) == b"last"
        assert server.datagrams_dropped == dropped
    said = [line for line in warnings() if "datagrams_dropped" in line]
    assert len(said) == 1


@pytest.mark.skipif(not hasattr(socket.socket, "recvmsg"), reason="no recvmsg here")
def test_packets_cut_are_counted_and_logged_once(start, connect, serving, warnings, model):
    if model == "GreenletUDPServer" and not wait.native:
        pytest.skip("its socket has a recvfrom() of its own, and a portable build calls that")
    server = start(max_packet_size=4)
    with serving(server):
        client = connect(server)
        for packet in [b"1234", b"12345", b"", b"x" * 1000, b"12"]:
            client.send(packet)
            assert client.recv(9999) == packet[:4]
        assert server.datagrams_truncated == 2
    assert len(warnings()) == 1
    assert "max_packet_size, 4 bytes" in warnings()[0]
