"""The parent counts and logs the datagrams that all workers have lost."""

import contextlib
import os
import re
import signal
import socket
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of dropped packets")
both = pytest.mark.parametrize("reuse_port", [False, pytest.param(True, marks=linux)])

SETUP = """
import socketserver_fast._sockets.options as options

class Server(StatisticsMixIn, Server):
    reuse_port = {reuse_port}
    recv_buffer_size = 20_000
    max_packet_size = 9

class Handler(DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"%d" % self.server.worker_index)

def answer():
    for line in sys.stdin:
        say("answer", eval(line))
"""
MAIN = """
threading.Thread(target=answer, daemon=True).start()
server.serve_forever()
say("afterwards", server.datagrams_dropped, server.datagrams_truncated)
"""


class Lossy:
    """A program with two workers, and clients enough to reach both by their hash."""

    def __init__(self, program, base, reuse_port, setup=""):
        head = "from socketserver_fast.statistics import StatisticsMixIn\n"
        self.server = program(base, head + SETUP.format(reuse_port=reuse_port) + setup, main=MAIN)
        self.workers = self.server.started()
        self.clients = [self.server.connect() for _ in range(16)]
        for client in self.clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sent = self.answered = 0

    def ask(self, expression):
        """Return what the parent answers."""
        count = len(self.server.said("answer"))
        self.server.process.stdin.write(expression + "\n")
        self.server.process.stdin.flush()
        return int(self.server.expect("answer", count + 1)[-1])

    def ask_until(self, expression, answer):
        """Ask again and again until that is what the parent answers."""
        deadline = time.monotonic() + 30
        while (found := self.ask(expression)) != answer:
            assert time.monotonic() < deadline, (found, answer)

    def read(self):
        """Read the answers that are there."""
        for client in self.clients:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while client.recv(9):
                    self.answered += 1
            client.settimeout(30)

    def flood(self, *standing):
        """Send more than fits while these processes stand still; how many of all were lost.

        The others are answered: in the end each packet is one or the other.
        """
        for pid in standing:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(100):
            for client in self.clients:
                client.send(b"hello")
        for pid in standing:
            os.kill(pid, signal.SIGCONT)
        self.sent += 100 * len(self.clients)
        deadline = time.monotonic() + 30
        while True:
            dropped = self.ask("server.datagrams_dropped")
            self.read()
            if self.answered + dropped >= self.sent:
                return dropped
            assert time.monotonic() < deadline, (self.sent, self.answered, dropped)

    def said(self):
        """The numbers of dropped packets that were logged."""
        return [int(number) for number in
                re.findall(r"(\d+) packets were dropped", self.server.errors())]

    def end(self):
        """End the server: the number of dropped and of cut packets."""
        assert self.server.end() == 0
        answered = self.answered
        self.read()
        assert self.answered == answered
        return tuple(map(int, self.server.said("afterwards")[0].split()))


@pytest.fixture
def start(program):
    """`start(base, reuse_port)` starts a Lossy."""
    with contextlib.ExitStack() as stack:

        def run(*arguments, **options):
            lossy = Lossy(program, *arguments, **options)
            for client in lossy.clients:
                stack.enter_context(client)
            return lossy

        yield run


@linux
@both
@pytest.mark.parametrize("base", ["UDPServer", "ThreadPoolUDPServer"])
def test_drops_are_logged_once_with_the_sum_over_all_workers(start, base, reuse_port):
    lossy = start(base, reuse_port)
    dropped = lossy.flood(lossy.server.pid, *lossy.workers)
    assert dropped > 0
    assert lossy.ask("server.statistics()['datagrams_dropped']") == dropped
    assert lossy.end() == (dropped, 0)
    assert lossy.said() == [dropped]


@linux
@both
def test_drops_are_logged_again_later_and_at_the_end(start, reuse_port):
    lossy = start("UDPServer", reuse_port, setup="options.REPORT_SECONDS = 1.5")
    dropped = lossy.flood(*lossy.workers)
    deadline = time.monotonic() + 20
    while lossy.said()[-1:] != [dropped]:
        assert time.monotonic() < deadline, f"{lossy.said()}"
        time.sleep(0.01)
    lossy.ask("setattr(options, 'REPORT_SECONDS', 1000) or 0")
    said = len(lossy.said())
    dropped = lossy.flood(*lossy.workers)
    assert lossy.end() == (dropped, 0)
    assert lossy.said()[-1] == dropped
    assert said < len(lossy.said()) <= said + 2
    assert sorted(set(lossy.said())) == lossy.said()


@linux
def test_drops_of_a_worker_that_was_taken_away_still_count(start):
    lossy = start("UDPServer", True)
    dropped = lossy.flood(*lossy.workers)
    lossy.server.send_signal(signal.SIGTTOU)
    lossy.server.expect("stopping", 1)
    assert lossy.ask("server.datagrams_dropped") == dropped
    assert lossy.end() == (dropped, 0)


@both
@pytest.mark.parametrize("base", ["UDPServer", "ThreadingUDPServer"])
def test_cut_packets_are_summed_up_also_of_workers_that_have_ended(start, base, reuse_port):
    lossy = start(base, reuse_port)
    seen = set()
    cut = 0
    while seen != {b"0", b"1"}:
        assert cut < 1000
        for client in lossy.clients:
            client.send(b"more than nine bytes")
            seen.add(client.recv(9))
            cut += 1
    lossy.ask_until("server.datagrams_truncated", cut)
    os.kill(lossy.workers[0], signal.SIGTERM)
    lossy.server.started(3)
    lossy.ask_until("server.datagrams_truncated", cut)
    os.kill(lossy.workers[1], signal.SIGKILL)
    lossy.server.started(4)
    lossy.ask_until("server.datagrams_truncated", cut)
    lossy.clients[0].send(b"more than nine bytes")
    lossy.clients[0].recv(9)
    lossy.ask_until("server.datagrams_truncated", cut + 1)
    assert lossy.end() == (0, cut + 1)
