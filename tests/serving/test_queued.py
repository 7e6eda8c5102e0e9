"""drain(): what the kernel has queued is served, and nothing else is taken."""

import contextlib
import os
import socket
import threading

import pytest

from socketserver_fast._serving.serving import give_up_drain, request_drain

pytestmark = [
    pytest.mark.parametrize("implementation", ["fast"], indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
KINDS = [("TCPServer",), ("ThreadingMixIn", "TCPServer"), ("ThreadPoolMixIn", "TCPServer")]
if hasattr(os, "fork"):
    KINDS.append(("ForkingMixIn", "TCPServer"))
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])


def test_drain_serves_what_is_queued(
        make_server, echo_lines, client_of, connect, started, background):
    server = make_server("TCPServer", handler=echo_lines)
    serving = started(server)
    client = client_of(server)
    queued = [connect(server, b"line\n") for _ in range(4)]
    draining = background(server.drain)
    for waiting in queued:
        waiting.shutdown(socket.SHUT_WR)
    assert client.finish() == b"last\n"
    for waiting in queued:
        assert waiting.makefile("rb").read() == b"hello\nline\n"
    assert draining.result(10) is True
    serving.result(10)


def test_drain_closes_the_listener_before_it_handles_the_queue(
        make_server, echo_lines, client_of, connect, started, background):
    server = make_server("TCPServer", handler=echo_lines)
    started(server)
    client, queued = client_of(server), connect(server)
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert queued.recv(9) == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    assert server.requests_in_progress == 1
    queued.shutdown(socket.SHUT_WR)
    assert draining.result(10) is True


def test_drain_before_serve_forever_closes_what_is_queued(make_server, connect):
    """server_close() does the same: nobody has accepted it, and no handler may run yet."""
    handled = []
    server = make_server("TCPServer", handler=lambda *arguments: handled.append(arguments))
    client = connect(server)
    assert server.drain() is True
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    server.serve_forever()
    assert handled == []


def test_drain_of_datagrams_handles_what_is_queued(make_server, connect, started, background):
    entered, leave = threading.Event(), threading.Event()

    def handle(self):
        entered.set()
        leave.wait(10)
        self.wfile.write(self.rfile.read())

    server = make_server("UDPServer", handler=handle)
    started(server)
    first = connect(server, b"first")
    entered.wait(10)
    clients = [connect(server, b"queued %d" % number) for number in range(20)]
    draining = background(server.drain)
    leave.set()
    assert first.recv(99) == b"first"
    assert [client.recv(99) for client in clients] == [b"queued %d" % n for n in range(20)]
    assert draining.result(10) is True


def test_drain_calls_the_hooks_of_what_is_queued(
        make_server, echo_lines, client_of, connect, started, background):
    """They are called where the program accepts by itself, too, as Odoo does."""
    calls = []

    def _handle_request_noblock(self):
        calls.append("accept")
        super(type(self), self)._handle_request_noblock()

    def service_actions(self):
        calls.append("service")

    server = make_server("TCPServer", handler=echo_lines, service_actions=service_actions,
                         _handle_request_noblock=_handle_request_noblock)
    started(server)
    client = client_of(server)
    queued = connect(server)
    queued.shutdown(socket.SHUT_WR)
    calls.clear()
    draining = background(server.drain)
    client.finish()
    assert queued.makefile("rb").read() == b"hello\n"
    assert draining.result(10) is True
    assert calls[-2:] == ["accept", "service"]


def test_drain_at_its_deadline_takes_no_more_of_what_is_queued(
        make_server, connect, started, background):
    """The program accepts by itself here, and so handles one request before it takes the next."""
    handled = []

    def _handle_request_noblock(self):
        super(type(self), self)._handle_request_noblock()

    def handle(self):
        handled.append(self.request)
        if len(handled) == 2:
            give_up_drain(server)  # as drain() and serve_until_signal() do at the deadline
        self.wfile.write(b"x")

    def service_actions(self):
        if len(handled) == 1:
            request_drain(self)

    server = make_server("TCPServer", handler=handle, service_actions=service_actions,
                         _handle_request_noblock=_handle_request_noblock)
    clients = [connect(server) for _ in range(4)]
    background(server.serve_forever).result(10)
    assert len(handled) == 2
    server.server_close()
    with contextlib.suppress(ConnectionError):
        assert clients[3].recv(1) == b""


@every_kind
def test_drain_leaves_a_shared_listener_open(
        make_server, echo_lines, client_of, started, background, kind):
    """A sibling process that has the listener goes on accepting from it."""
    server = make_server(*kind, handler=echo_lines)
    sibling = make_server("TCPServer", activate=False, handler=echo_lines)
    sibling.server_close()
    sibling.socket, sibling.server_address = server.socket.dup(), server.server_address
    started(server)
    client = client_of(server)
    draining = background(server.drain)
    assert client.finish() == b"last\n"
    assert draining.result(10) is True
    serving = started(sibling)
    client = client_of(sibling)
    assert client.finish() == b"last\n"
    sibling.shutdown()
    serving.result(10)


def test_error_while_the_queue_is_taken(
        make_server, echo_lines, client_of, connect, started, background):
    """The requests that came before the error are served."""

    def get_request(self):
        accepted.append(1)
        if len(accepted) == 3:
            raise ValueError("the third")
        return super(type(self), self).get_request()

    accepted = []
    server = make_server("TCPServer", handler=echo_lines, get_request=get_request)
    serving = started(server)
    first = client_of(server)
    queued = [connect(server, b"line\n") for _ in range(2)]
    draining = background(server.drain)
    queued[0].shutdown(socket.SHUT_WR)
    first.finish()
    first.file.close()  # the traceback below would keep it
    with queued[0].makefile("rb") as file:
        assert file.read() == b"hello\nline\n"
    with pytest.raises(ValueError, match="the third"):
        serving.result(10)
    assert draining.result(10) is True


@pytest.mark.parametrize(("error", "lines", "expected"), [
    (SystemExit, [b"raise\n", b"line\n", b"raise\n", b"line\n"], [b"", b"served", b"", b"served"]),
    (KeyboardInterrupt, [b"line\n", b"raise\n", b"line\n"], [b"served", b"", b""]),
], ids=["SystemExit", "KeyboardInterrupt"])
def test_handler_that_raises_in_the_queue(
        make_server, connect, started, background, error, lines, expected):
    """The others are served, but not after KeyboardInterrupt."""

    def handle(self):
        if self.rfile.readline() == b"raise\n":
            raise error
        self.wfile.write(b"served")

    server = make_server("TCPServer", handler=handle)
    serving = started(server)
    first = connect(server)
    clients = [connect(server, line) for line in lines]
    draining = background(server.drain)
    first.sendall(b"line\n")
    replies = [client.makefile("rb").read() for client in [first, *clients]]
    assert replies == [b"served", *expected]
    assert draining.result(10) is True
    with pytest.raises(error):
        serving.result(10)
