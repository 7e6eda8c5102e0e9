"""first_byte_timeout: a connection of a pool needs no thread before its client speaks."""

import contextlib
import os
import pathlib
import selectors
import socket
import ssl
import threading

import pytest

import socketserver_fast
from socketserver_fast._pool import silence
from socketserver_fast._sockets import wait
from socketserver_fast.limits import LimitsMixIn
from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
from socketserver_fast.statistics import StatisticsMixIn
from socketserver_fast.tls import TLSMixIn

pytestmark = pytest.mark.skipif(
    not (wait.native and silence.AVAILABLE), reason="where silent connections have threads")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = 20


def echo(handler):
    for line in handler.rfile:
        handler.wfile.write(line)


def ask(client, line=b"line\n"):
    client.sendall(line)
    return client.recv(99)


def get(client):
    client.sendall(GET)
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        part = client.recv(9999)
        assert part, answer
        answer += part


def workers(server):
    return [t for t in threading.enumerate() if getattr(t, "_server", None) is server]


@pytest.fixture
def socketserver():
    return socketserver_fast


@pytest.fixture
def keeping(make_server):
    """`keeping(max_workers=2)`: a server that echoes lines and keeps silent connections."""

    def make(*mixins, **attributes):
        return make_server(*mixins, socketserver_fast.ThreadPoolMixIn, "TCPServer", **{
            "handler": echo, "max_workers": 2, "first_byte_timeout": LONG, "daemon_threads": True,
            "request_queue_size": 1024, **attributes})

    return make


def count_descriptors():
    return len(list(pathlib.Path("/dev/fd").iterdir()))


@pytest.fixture
def silent(connect, eventually):
    """`silent(server, 3)`: connections that the server has accepted and that say nothing."""

    def open_clients(server, count):
        before = server.requests_in_progress
        clients = [connect(server) for _ in range(count)]
        eventually(lambda: server.requests_in_progress == before + count)
        return clients

    return open_clients


def test_500_silent_connections_need_no_thread(many_descriptors, keeping, silent, connect, serving):
    with serving(server := keeping()):
        clients = silent(server, 500)
        for _ in range(20):
            with connect(server) as visitor:
                assert ask(visitor) == b"line\n"
        assert len(workers(server)) <= 4
        for client in clients:
            client.sendall(b"line\n")
        for client in clients:
            assert client.recv(99) == b"line\n"
            assert ask(client) == b"line\n"


def test_500_silent_browsers(many_descriptors, pages, connect, serving):
    server = pages(max_workers=2, first_byte_timeout=LONG)
    with serving(server):
        clients = [connect(server) for _ in range(500)]
        with connect(server) as visitor:
            get(visitor)
        assert len(workers(server)) <= 4
        for client in clients[::50]:
            get(client)
            get(client)


def test_time_until_the_first_byte(keeping, silent, connect, serving):
    """Then the connection is closed, and no handler has seen it."""

    def handle(self):
        seen.append(self.client_address)
        echo(self)

    seen = []
    with serving(server := keeping(handler=handle, first_byte_timeout=0.1)):
        spoken, *clients = silent(server, 5)
        assert ask(spoken) == b"line\n"
        assert [client.recv(9) for client in clients] == [b""] * 4
        assert seen == [spoken.getsockname()]
        assert ask(spoken) == b"line\n"
        assert ask(connect(server)) == b"line\n"
        assert server.requests_in_progress == 2


def test_clients_that_leave_without_a_word(keeping, silent, connect, serving, eventually):
    with serving(server := keeping()):
        with connect(server) as visitor:
            assert ask(visitor) == b"line\n"
        eventually(lambda: server.requests_in_progress == 0)
        before = count_descriptors()
        for client in silent(server, 20):
            client.close()
        eventually(lambda: server.requests_in_progress == 0)
        eventually(lambda: count_descriptors() <= before)


def test_first_byte_while_all_workers_run(keeping, silent, connect, serving, eventually):
    """A client that was silent goes before those that have come later."""

    def handle(self):
        line = self.rfile.readline()
        order.append(line)
        if line == b"hold\n":
            assert leave.wait(LONG)
        self.wfile.write(line)

    order, leave = [], threading.Event()
    with serving(server := keeping(handler=handle, max_workers=1, stall_seconds=None)):
        [client] = silent(server, 1)
        holder = connect(server, b"hold\n")
        eventually(lambda: order)
        late = [connect(server, b"late\n") for _ in range(3)]
        client.sendall(b"silent\n")
        leave.set()
        answers = [one.recv(9) for one in [client, holder, *late]]
    assert answers == [b"silent\n", b"hold\n"] + [b"late\n"] * 3
    assert order == [b"hold\n", b"silent\n"] + [b"late\n"] * 3


def test_max_connections_counts_the_silent(keeping, silent, connect, serving, eventually, caplog):
    with serving(server := keeping(max_connections=10)):
        clients = silent(server, 10)
        queued = [connect(server, b"line\n") for _ in range(5)]
        eventually(lambda: "max_connections (10) are open" in caplog.text)
        assert server.requests_in_progress == 10
        assert ask(clients[0]) == b"line\n"
        assert server.requests_in_progress == 10
        for client in clients[:5]:
            client.close()
        assert [client.recv(9) for client in queued] == [b"line\n"] * 5
        for client in clients[5:]:
            assert ask(client) == b"line\n"


def test_limit_for_each_client_counts_the_silent(keeping, silent, connect, serving, eventually):
    server = keeping(LimitsMixIn, max_connections_per_client=3)
    with serving(server):
        clients = silent(server, 3)
        assert connect(server).recv(9) == b""
        assert server.limited["max_connections_per_client"] == 1
        assert ask(clients[0]) == b"line\n"
        assert connect(server).recv(9) == b""
        clients[1].close()
        eventually(lambda: server.requests_in_progress == 2)
        assert ask(connect(server)) == b"line\n"
    assert server.limited["max_connections_per_client"] == 2


def test_limit_for_each_client_counts_who_has_just_spoken(keeping, silent, connect, serving):
    """Nobody else gets the place between the first byte and the handler."""

    def process_request_thread(self, request, client_address):
        if client_address == first.getsockname():
            inside.set()
            assert leave.wait(LONG)
        socketserver_fast.ThreadPoolMixIn.process_request_thread(self, request, client_address)

    inside, leave = threading.Event(), threading.Event()
    server = keeping(LimitsMixIn, max_connections_per_client=1,
                     process_request_thread=process_request_thread)
    with serving(server):
        [first] = silent(server, 1)
        first.sendall(b"line\n")
        assert inside.wait(10)
        second = connect(server)
        second.settimeout(1)
        with contextlib.suppress(TimeoutError):
            assert second.recv(9) == b""
        leave.set()
        assert first.recv(9) == b"line\n"
        assert second.recv(9) == b""


@pytest.mark.parametrize("end", ["unseen", "refused"])
def test_limit_for_each_client_forgets_whom_no_handler_has_seen(
        keeping, silent, connect, serving, eventually, end):
    def finish_request(self, request, client_address):
        if client_address in refused:
            return
        LimitsMixIn.finish_request(self, request, client_address)

    refused = []
    server = keeping(LimitsMixIn, max_connections_per_client=1, finish_request=finish_request,
                     first_byte_timeout=0.1 if end == "unseen" else LONG)
    with serving(server):
        [client] = silent(server, 1)
        refused.append(client.getsockname())
        if end == "refused":
            client.sendall(b"line\n")
        assert client.recv(9) == b""
        eventually(lambda: server.requests_in_progress == 0)
        assert ask(connect(server)) == b"line\n"


def test_request_timeout_begins_with_the_first_byte(keeping, silent, serving):
    server = keeping(LimitsMixIn, request_timeout=0.2, handle_error=lambda *_: None)
    with serving(server):
        spoken, client = silent(server, 2)
        spoken.sendall(b"half a line")
        assert spoken.recv(20) == b""
        assert ask(client) == b"line\n"
        assert server.limited["request_timeout"] == 1


def test_statistics_count_the_silent(keeping, silent, serving):
    with serving(server := keeping(StatisticsMixIn)):
        clients = silent(server, 3)
        assert ask(clients[0]) == b"line\n"
        assert server.statistics()["in_progress"] == server.statistics()["accepted"] == 3


def test_tls_begins_with_the_first_byte(keeping, silent, serving, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with serving(server := keeping(TLSMixIn, ssl_context=context)):
        clients = silent(server, 20)
        assert len(workers(server)) <= 3
        with trusting.wrap_socket(clients[7], server_hostname="localhost") as client:
            assert ask(client) == b"line\n"


def test_connections_of_a_proxy_have_a_thread(keeping, silent, serving):
    """Whom the limit for each client is about shows only in the header."""
    server = keeping(ProxyProtocolMixIn, LimitsMixIn, proxy_protocol_from=("127.0.0.1",),
                     max_connections_per_client=1)
    with serving(server):
        clients = silent(server, 5)
        for number, client in enumerate(clients):
            header = b"PROXY TCP4 10.0.0.%d 10.0.0.9 1 1\r\nline\n" % number
            assert ask(client, header) == b"line\n"


@pytest.mark.parametrize("end", ["drain", "shutdown"])
def test_end_of_the_server(keeping, silent, background, eventually, end):
    """The silent are closed at once; who has spoken is answered."""

    def handle(self):
        line = self.rfile.readline()
        inside.set()
        assert leave.wait(LONG)
        self.wfile.write(line)

    inside, leave = threading.Event(), threading.Event()
    server = keeping(handler=handle, max_workers=1, stall_seconds=None)
    server.daemon_threads = False
    before = count_descriptors()
    running = background(server.serve_forever)
    clients = silent(server, 50)
    clients[0].sendall(b"first\n")
    assert inside.wait(10)
    clients[1].sendall(b"second\n")
    ending = background(getattr(server, end), LONG)
    assert [client.recv(9) for client in clients[2:]] == [b""] * 48
    leave.set()
    assert [client.recv(9) for client in clients[:2]] == [b"first\n", b"second\n"]
    assert ending.result(10)
    running.result(10)
    server.server_close()
    assert workers(server) == []
    assert server.requests_in_progress == 0
    for client in clients:
        client.close()
    eventually(lambda: count_descriptors() <= before - 1)


def test_hook_replaced_while_clients_are_silent(keeping, silent, connect, serving):
    """From then on they have workers, as in any server whose serving thread accepts."""
    with serving(server := keeping()):
        clients = silent(server, 10)
        server.verify_request = lambda request, client_address: True
        assert ask(connect(server)) == b"line\n"
        for client in clients:
            assert ask(client) == b"line\n"


def test_served_again(keeping, silent, background):
    server = keeping()
    for _ in range(3):
        running = background(server.serve_forever)
        clients = silent(server, 5)
        assert ask(clients[0]) == b"line\n"
        clients[0].close()
        server.shutdown()
        running.result(10)
        assert clients[1].recv(9) == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_clients_are_silent(keeping, silent, serving):
    """The child has none of their connections, and the parent has all."""

    def handle(self):
        for _ in self.rfile:
            if (pid := os.fork()) == 0:
                os._exit(open_connections())
            self.wfile.write(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def open_connections():
        count = 0
        for path in list(pathlib.Path("/dev/fd").iterdir()):
            try:
                with socket.socket(fileno=os.dup(int(path.name))) as sock:
                    count += sock.getsockname()[1] == port and sock.getpeername() is not None
            except (OSError, TypeError, IndexError):
                pass
        return count

    server = keeping(handler=handle)
    port = server.server_address[1]
    with serving(server):
        clients = silent(server, 10)
        assert ask(clients[0]) == b"1"
        assert ask(clients[1]) == b"2"  # the first one has a worker now
        assert [ask(client)[:1] != b"" for client in clients] == [True] * 10


def test_no_thread_for_one_more(keeping, silent, serving, monkeypatch):
    """The worker that there is serves one after the other."""

    def start_or_not(self):
        if "-worker-" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    start = threading.Thread.start
    server = keeping(handler=lambda self: self.wfile.write(self.rfile.readline()))
    with serving(server):
        clients = silent(server, 10)
        monkeypatch.setattr(threading.Thread, "start", start_or_not)
        for client in clients:
            client.sendall(b"line\n")
        assert [client.recv(9) for client in clients] == [b"line\n"] * 10


def test_200_that_speak_at_once_are_looked_for_once(
        many_descriptors, keeping, silent, connect, serving, monkeypatch):
    """Not once for each, which would cost 200 times 200 keys."""

    class Selector(selectors.DefaultSelector):
        def select(self, timeout=None):
            keys = super().select(timeout)
            found.append(len(keys))
            return keys

    def handle(self):
        if self.rfile.readline() == b"hold\n":
            inside.set()
            assert leave.wait(LONG)
        self.wfile.write(b"done\n")

    found, inside, leave = [], threading.Event(), threading.Event()
    monkeypatch.setattr(selectors, "DefaultSelector", Selector)
    with serving(server := keeping(handler=handle, max_workers=1, stall_seconds=None)):
        clients = silent(server, 200)
        holder = connect(server, b"hold\n")
        assert inside.wait(10)
        for client in clients:
            client.sendall(b"line\n")
        leave.set()
        assert [client.recv(9) for client in [holder, *clients]] == [b"done\n"] * 201
    assert 200 <= sum(found) <= 400


@pytest.mark.parametrize("wrong", [-1, "1", float("nan")])
def test_setting_that_makes_no_sense(pages, wrong):
    with pytest.raises((ValueError, TypeError)):
        pages(first_byte_timeout=wrong).serve_forever()
