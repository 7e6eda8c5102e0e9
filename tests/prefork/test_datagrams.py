"""Datagrams in several processes: each worker does what a single server does."""

import os
import signal
import socket
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

BASES = ["UDPServer", "ThreadingUDPServer", "ThreadPoolUDPServer"]
both = pytest.mark.parametrize("reuse_port", [False, True])
linux = pytest.mark.skipif(sys.platform != "linux", reason="IP_RECVERR, SO_REUSEPORT for packets")
ECHO = """
Server.reuse_port = {}
class Handler(DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.packet)
"""


@linux
@both
@pytest.mark.parametrize("base", BASES)
def test_replies_refused_lose_no_other_packet(program, base, reuse_port):
    server = program(base, ECHO.format(reuse_port))
    server.started()
    clients = [server.connect() for _ in range(20)]  # before the others' ports are free again
    for number, client in enumerate(clients):
        server.connect().close()
        with server.connect() as gone:
            gone.send(b"to nobody")
        client.send(b"%d" % number)
    assert [client.recv(9) for client in clients] == [b"%d" % number for number in range(20)]
    for client in clients:
        client.close()
    assert server.end() == 0
    assert server.errors() == ""


@both
@pytest.mark.parametrize("base", BASES)
def test_empty_reply_is_sent(program, base, reuse_port):
    server = program(base, f"""
        Server.reuse_port = {reuse_port}
        class Handler(DatagramRequestHandler):
            def handle(self):
                pass
    """)
    with server.connect() as client:
        for packet in [b"hello", b""]:
            client.send(packet)
            assert client.recv(9) == b""


@both
@pytest.mark.parametrize("base", BASES)
def test_no_reply_is_invented(program, base, reuse_port):
    server = program(base, f"""
        Server.reuse_port = {reuse_port}
        class Handler(BaseRequestHandler):
            def handle(self):
                if self.request[0] == b"answer":
                    self.request[1].sendto(b"answered", self.client_address)
    """)
    with server.connect() as client:
        for packet in [b"hello", b"", b"answer"]:
            client.send(packet)
        assert client.recv(99) == b"answered"


@both
@pytest.mark.parametrize("base", BASES)
def test_packets_cut_are_counted_and_logged_once_by_each_worker(program, base, reuse_port):
    server = program(base, f"""
        class Server(Server):
            workers = 1
            reuse_port = {reuse_port}
            max_packet_size = 4
            def worker_stopping(self):
                say("truncated", self.datagrams_truncated)
        class Handler(DatagramRequestHandler):
            def handle(self):
                self.wfile.write(self.packet)
    """)
    with server.connect() as client:
        for packet in [b"1234", b"12345", b"x" * 1000]:
            client.send(packet)
            assert client.recv(9999) == packet[:4]
    assert server.end() == 0
    assert server.said("truncated") == ["2"]
    assert server.errors().count("max_packet_size, 4 bytes") == 1


@linux
@both
@pytest.mark.parametrize("base", BASES)
def test_burst_answered_and_dropped_make_what_was_sent(program, base, reuse_port):
    """Sent while no worker is there, so that how much fits is the kernel's decision alone."""
    server = program(base, ECHO.format(reuse_port) + "Server.recv_buffer_size = 50_000\n"
                     "Server.workers = 1", main="""
        sys.stdin.readline()
        say("dropped", server.datagrams_dropped)
        server.serve_forever()
        say("dropped", server.datagrams_dropped)
    """)
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for number in range(1000):
            client.send(b"%d" % number)
        server.go_on()
        dropped = int(server.expect("dropped")[0])
        assert 0 < dropped < 1000
        assert len({client.recv(9) for _ in range(1000 - dropped)}) == 1000 - dropped
    assert server.end() == 0
    assert server.said("dropped") == [str(dropped)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts on long packet queues")
def test_worker_that_leaves_answers_the_rest_of_its_batch(program):
    server = program("UDPServer", """
        Server.workers = 1
        class Handler(DatagramRequestHandler):
            def handle(self):
                if self.packet == b"leave":
                    raise SystemExit
                self.wfile.write(self.packet)
    """)
    [worker] = server.started(1)
    with server.connect() as client:
        os.kill(worker, signal.SIGSTOP)
        packets = [b"%d" % number for number in range(12)]
        for packet in [*packets[:3], b"leave", *packets[3:]]:  # batches of 1, 2 and 4
            client.send(packet)
        os.kill(worker, signal.SIGCONT)
        answers = [client.recv(9) for _ in range(13)]
    assert sorted(answers) == sorted([*packets, b""])
    assert server.end() == 0
