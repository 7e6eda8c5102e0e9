"""Workers that serve by greenlets."""

import contextlib
import os
import signal
import time

import pytest

pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


class Talk:
    """A kept connection on which expressions are sent, and their values come back."""

    def __init__(self, client):
        self.client = client
        self.answers = client.makefile("rb")

    def ask(self, expression):
        self.client.sendall(expression.encode() + b"\n")
        return eval(self.answers.readline().decode())

    def ended(self):
        with contextlib.suppress(ConnectionResetError):
            return self.answers.readline() == b""
        return True


@pytest.fixture
def talk():
    """`talk(server)` opens a Talk."""
    with contextlib.ExitStack() as stack:

        def start(server):
            talk = Talk(stack.enter_context(server.connect()))
            stack.callback(talk.answers.close)
            return talk

        yield start


@pytest.fixture(params=["TCP", "UnixStream"])
def server(request, program):
    """Two workers that hold some connections each."""
    return program(f"socketserver_fast.Greenlet{request.param}Server")


def test_each_worker_holds_many_connections(server, talk):
    pids = set(server.started())
    talks = []
    deadline = time.monotonic() + 30
    while len(talks) < 20 or {one.pid for one in talks} != pids:
        assert time.monotonic() < deadline, "one worker takes everything"
        talks.append(talk(server))
        talks[-1].pid = talks[-1].ask("os.getpid()")
    for one in reversed(talks):
        assert one.ask("os.getpid()") == one.pid
    for one in talks:
        one.client.close()
        one.answers.close()
    assert server.end() == 0


def test_requests_in_progress_are_finished(server, talk):
    server.started()
    busy = [talk(server) for _ in range(6)]
    for one in busy:
        assert one.ask("1") == 1
        one.client.sendall(b"say('begun') or socketserver_fast.green.sleep(0.5) or 'done'\n")
    server.expect("begun", 6)
    server.send_signal(signal.SIGTERM)
    for one in busy:
        assert one.answers.readline() == b"'done'\n"
        one.client.close()
        one.answers.close()
    assert server.wait() == 0
    assert len(server.said("stopping")) == 2
    assert server.said("returned") == [""]


def test_death_of_a_worker_ends_its_own_connections_only(server, talk):
    first, second = server.started()
    talks = []
    deadline = time.monotonic() + 30
    while {one.pid for one in talks} != {first, second}:
        assert time.monotonic() < deadline, "one worker takes everything"
        talks.append(talk(server))
        talks[-1].pid = talks[-1].ask("os.getpid()")
    os.kill(first, signal.SIGKILL)
    third = server.started(3)[2]
    for one in talks:
        if one.pid == first:
            assert one.ended()
        else:
            assert one.ask("os.getpid()") == second
    assert server.ask_until("os.getpid()", lambda pid: pid == third) == third
    for one in talks:
        one.client.close()
        one.answers.close()
    assert server.end() == 0
