"""A fork, no more descriptors, and no more threads, in each state that a pool may be in."""

import logging
import os
import socket
import threading

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not wait.native, reason="where waits do not show")


@pytest.fixture
def socketserver():
    return socketserver_fast


@pytest.fixture
def leave():
    """An Event for which the handlers of "hold" wait."""
    leave = threading.Event()
    yield leave
    leave.set()


@pytest.fixture
def server(make_server, way, leave):
    """A server that echoes lines, with two workers that may run."""

    def handle(self):
        for line in self.rfile:
            if line == b"hold\n":
                assert leave.wait(20)
            self.wfile.write(line)

    return make_server(socketserver_fast.ThreadPoolMixIn, "TCPServer", handler=handle, **way,
                       max_workers=2, stall_seconds=None, daemon_threads=True,
                       request_queue_size=64, handle_error=lambda *_: None)


def ask(client, line=b"line\n"):
    client.sendall(line)
    return client.recv(9)


def leading(server, connect):
    """One worker waits for the listener."""
    with connect(server) as client:
        assert ask(client) == b"line\n"
    return []


def idle(server, connect):
    """Others sleep beside it."""
    clients = [connect(server) for _ in range(2)]
    for client in clients:
        assert ask(client) == b"line\n"
    for client in clients:
        client.close()
    return []


def waiting(server, connect):
    """More handlers than may run wait for their clients."""
    clients = [connect(server) for _ in range(10)]
    for client in clients:
        assert ask(client) == b"line\n"
    return clients


def full(server, connect):
    """All that may run do, and a connection is queued."""
    clients = [connect(server) for _ in range(3)]
    for client in clients[:2]:
        assert ask(client) == b"line\n"
        client.sendall(b"hold\n")
    clients[2].sendall(b"queued\n")
    return clients


@pytest.fixture(params=[leading, idle, waiting, full], ids=lambda state: state.__name__)
def state(request):
    """`state(server, connect)` brings a server into a state; returns the connections."""
    return request.param


def all_answered(clients, leave):
    """Each gets what it waits for, and the answer to another line."""
    leave.set()
    for client in clients:
        if client.gettimeout():
            client.sendall(b"last\n")
            answer = b""
            while not answer.endswith(b"last\n"):
                answer += client.recv(99)
                assert answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(server, state, connect, serving, leave, eventually):
    """The child has no workers, and may serve by itself; the parent goes on."""
    with serving(server):
        clients = state(server, connect)
        if (pid := os.fork()) == 0:
            try:
                os._exit(served_in_the_child(server))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        all_answered([*clients, connect(server)], leave)
        eventually(lambda: server.requests_in_progress == len(clients) + 1)


def served_in_the_child(server):
    """Return 7 if a listener of the child's own is served."""
    if threading.active_count() != 1:
        return 2
    server.socket = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for _ in range(3):
        with socket.create_connection(server.socket.getsockname(), 10) as client:
            if ask(client) != b"line\n":
                return 3
    server.shutdown()
    thread.join(10)
    return 4 if thread.is_alive() else 7


def test_no_more_descriptors(server, state, connect, serving, leave, eventually, caplog):
    """Those that are there go on; who could not be accepted is served afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(server):
        clients = state(server, connect)
        late = socket.socket()
        late.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, limits[1]))
        try:
            late.connect(server.server_address)
            if state is not full:  # where nobody accepts
                eventually(lambda: "cannot accept connections" in caplog.text)
            for client in clients if state is waiting else []:
                assert ask(client) == b"line\n"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with late:
            all_answered([*clients, late], leave)


def test_no_more_threads(server, state, connect, serving, leave, monkeypatch, caplog):
    """Those that are there go on; when threads can be started again all are served."""

    def start_or_not(self):
        if "-worker-" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    caplog.set_level(logging.CRITICAL)
    start = threading.Thread.start
    with serving(server):
        clients = state(server, connect)
        with monkeypatch.context() as patching:
            patching.setattr(threading.Thread, "start", start_or_not)
            for client in clients if state is waiting else []:
                assert ask(client) == b"line\n"
            late = [connect(server) for _ in range(3)]
            for client in clients if state is waiting else []:
                assert ask(client) == b"line\n"
        all_answered(clients, leave)
        for client in late:  # the serving thread may have told some that there was no thread
            client.close()
        all_answered([connect(server)], leave)
