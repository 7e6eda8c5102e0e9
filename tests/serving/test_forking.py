"""ForkingMixIn: children and their exit codes, who reaps them and when, forks among threads.

The children inherit the clients' sockets of a test, so that closing one here ends nothing: a
client says goodbye by `end(client)`."""

import contextlib
import errno
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    # 3.12 and later warn of what some of these tests are about: a fork in a threaded process.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@pytest.fixture
def forking(make_server):
    """`forking(handle, max_children=2)`: a forking TCP server."""
    return functools.partial(make_server, "ForkingMixIn", "TCPServer")


@pytest.fixture
def request_of(connect):
    """`request_of(server)`: a client whose request a child of the server has taken."""

    def make(server, data=b""):
        client = connect(server, data)
        server.handle_request()
        return client

    return make


def until_end_of_line(self):
    """A handler that answers with its process id and stays until the client says so."""
    self.wfile.write(b"%d\n" % os.getpid())
    self.rfile.readline()


def end(client):
    client.sendall(b"end\n")


def is_zombie_or_gone(pid):
    """Return whether the child has ended, without reaping it."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def is_gone(pid):
    """Return whether the child has ended and was reaped."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return False
    return True


def test_defaults(socketserver):
    mixin = socketserver.ForkingMixIn
    assert (mixin.timeout, mixin.active_children, mixin.max_children) == (300, None, 40)
    assert mixin.block_on_close is True


def test_request_handled_by_a_child(forking, request_of):
    server = forking(handler=until_end_of_line)
    client = request_of(server)
    pid = int(client.recv(9))
    assert pid != os.getpid()
    assert server.active_children == {pid}
    end(client)
    server.server_close()
    assert server.active_children == set()
    assert is_gone(pid)


def test_parent_closes_its_request_without_shutting_it_down(forking, request_of):
    """The child goes on talking; the parent has no descriptor of it left."""
    seen = []
    server = forking(
        handler=until_end_of_line, close_request=lambda self, request: seen.append(request)
    )
    client = request_of(server)
    assert int(client.recv(9)) in server.active_children
    with seen[0] as request:
        assert request.getpeername() == client.getsockname()
    end(client)
    assert client.recv(9) == b""


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 0), (ValueError(), 1), (SystemExit(5), 1), (KeyboardInterrupt(), 1)],
)
def test_exit_status_of_the_child(forking, request_of, capfd, error, status):
    def handle(self):
        if error:
            raise error

    server = forking(handler=handle, max_children=99)
    request_of(server)
    [pid] = server.active_children
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def test_exit_status_when_the_hooks_fail(forking, request_of, capfd):
    def fail(self, *args):
        raise ValueError

    for name in ["handle_error", "shutdown_request"]:
        server = forking(handler={"handle": fail}, **{name: fail})
        request_of(server)
        [pid] = server.active_children
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_child_skips_exit_handlers(python):
    """It leaves by os._exit(): the parent's atexit functions and buffers are not its own."""
    child = python("""
        import atexit, socket, socketserver, sys
        atexit.register(print, "at exit")
        sys.stdout.write("buffered, ")
        class Server(socketserver.ForkingMixIn, socketserver.TCPServer): pass
        with Server(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
            with socket.create_connection(server.server_address) as client:
                server.handle_request()
                assert client.recv(9) == b""
    """)
    assert child.communicate(timeout=20) == ("buffered, at exit\n", "")


def test_service_actions_reap_the_finished(forking, request_of, eventually):
    server = forking(handler=until_end_of_line)
    stays, goes = request_of(server), request_of(server)
    staying, going = int(stays.recv(9)), int(goes.recv(9))
    server.service_actions()
    assert server.active_children == {staying, going}
    end(goes)
    eventually(lambda: is_zombie_or_gone(going))
    server.service_actions()
    assert server.active_children == {staying}
    assert is_gone(going)
    end(stays)


def test_zombies_reaped_while_serving(forking, connect, serving, eventually):
    with serving(server := forking(handler=until_end_of_line), 0.01):
        client = connect(server)
        pid = int(client.recv(9))
        end(client)
        eventually(lambda: is_gone(pid))
        eventually(lambda: server.active_children == set())


def test_handle_timeout_reaps_the_finished(forking, request_of, eventually):
    server = forking(handler=None, timeout=0.01)
    request_of(server)
    [pid] = server.active_children
    eventually(lambda: is_zombie_or_gone(pid))
    server.handle_request()
    assert server.active_children == set()


def test_collect_children_before_any(forking):
    server = forking()
    assert server.collect_children() is None
    assert server.active_children is None


def test_collect_children_takes_blocking_by_name_only(forking, request_of):
    server = forking(handler=lambda self: time.sleep(0.05))
    request_of(server)
    with pytest.raises(TypeError):
        server.collect_children(True)
    assert len(server.active_children) == 1
    server.collect_children(blocking=True)
    assert server.active_children == set()


def test_collect_children_reaped_by_another(forking, request_of):
    server = forking(handler=None)
    request_of(server)
    [pid] = server.active_children
    os.waitpid(pid, 0)
    server.collect_children()
    assert server.active_children == set()


def test_max_children_waits_for_one(forking, request_of, background):
    server = forking(handler=until_end_of_line, max_children=2)
    clients = [request_of(server), request_of(server)]
    pids = [int(client.recv(9)) for client in clients]
    collecting = background(server.collect_children)
    with pytest.raises(TimeoutError):
        collecting.result(0.05)
    end(clients[1])
    collecting.result(10)
    assert server.active_children == {pids[0]}
    end(clients[0])


def test_max_children_beside_foreign_ones(forking, request_of, implementation):
    """An ended child that is not the server's does not count; socketserver even reaps it."""
    server = forking(handler=None, max_children=1)
    foreign = os.fork()
    if foreign == 0:
        os._exit(7)
    os.waitid(os.P_PID, foreign, os.WEXITED | os.WNOWAIT)
    request_of(server)
    server.collect_children()
    assert server.active_children == set()
    if implementation == "stdlib":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(foreign, 0)
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(foreign, 0)[1]) == 7


def not_supported(*arguments):
    raise OSError(errno.ENOSYS, "as on an older kernel")


@pytest.mark.parametrize("pidfd", [True, False])
def test_max_children_waits_beside_a_foreign_one_that_runs(
    forking, request_of, background, monkeypatch, pidfd
):
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", not_supported, raising=False)
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as foreign:
        server = forking(handler=until_end_of_line, max_children=1)
        client = request_of(server)
        client.recv(9)
        collecting = background(server.collect_children)
        with pytest.raises(TimeoutError):
            collecting.result(0.05)
        end(client)
        collecting.result(10)
        assert server.active_children == set()
        assert foreign.poll() is None
        foreign.communicate(b"\n", 10)
        assert foreign.returncode == 0


@pytest.mark.parametrize("pidfd", [True, False])
def test_max_children_while_somebody_else_reaps(
    forking, request_of, background, monkeypatch, pidfd
):
    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", not_supported, raising=False)
    server = forking(handler=until_end_of_line, max_children=1)
    client = request_of(server)
    pid = int(client.recv(9))
    reaping = background(os.waitpid, pid, 0)
    collecting = background(server.collect_children)
    end(client)
    assert isinstance(reaping.exception(10), ChildProcessError | None)  # who was first?
    collecting.result(10)
    assert server.active_children == set()


def test_max_children_of_vanished_ones(forking):
    server = forking(handler=None, max_children=1)
    server.active_children = {2**22 + 1}
    server.collect_children()
    assert server.active_children == set()


@pytest.mark.parametrize("block_on_close", [True, False])
def test_block_on_close(forking, request_of, background, block_on_close):
    server = forking(handler=until_end_of_line, block_on_close=block_on_close)
    client = request_of(server)
    pid = int(client.recv(9))
    closing = background(server.server_close)
    if block_on_close:
        with pytest.raises(TimeoutError):
            closing.result(0.05)
    else:
        closing.result(10)
        assert server.active_children == {pid}
    end(client)
    closing.result(10)
    server.collect_children(blocking=True)
    assert is_gone(pid)


def test_killed_child_is_only_reaped(forking, request_of, eventually):
    server = forking(handler=until_end_of_line)
    client = request_of(server)
    pid = int(client.recv(9))
    os.kill(pid, signal.SIGKILL)
    assert client.recv(9) == b""
    eventually(lambda: is_zombie_or_gone(pid))
    server.service_actions()
    assert server.active_children == set()


@pytest.mark.parametrize("kind", ["ForkingUDPServer", "UnixDatagramServer", "UnixStreamServer"])
def test_other_kinds(make_server, request_of, kind):
    kinds = [kind] if kind.startswith("Forking") else ["ForkingMixIn", kind]
    server = make_server(*kinds, handler=lambda self: self.wfile.write(b"%d" % os.getpid()))
    assert int(request_of(server, b"hello").recv(9)) in server.active_children


def test_ready_made_unix_classes(socketserver):
    """They came with 3.12; the package has them everywhere."""
    if sys.version_info < (3, 12) and not hasattr(socketserver, "ForkingUnixStreamServer"):
        pytest.skip("this Python's stdlib has no ForkingUnix* classes")
    for name in ["UnixStreamServer", "UnixDatagramServer"]:
        bases = getattr(socketserver, f"Forking{name}").__bases__
        assert bases == (socketserver.ForkingMixIn, getattr(socketserver, name))


def test_fork_in_a_threaded_process(forking, connect, serving, background):
    """Threads that hold locks and read from sockets do not stop the children's work."""
    with serving(server := forking(handler=until_end_of_line)):
        stop = threading.Event()
        others = [background(busy, stop) for _ in range(3)]
        for _ in range(5):
            client = connect(server)
            assert int(client.recv(9)) != os.getpid()
            end(client)
        stop.set()
    assert all(other.result(10) is None for other in others)


def busy(stop):
    near, far = socket.socketpair()
    with near, far, near.makefile("rwb", buffering=0) as file:
        while not stop.is_set():
            file.write(b"line\n")
            far.recv(9)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the warning came with 3.12")
def test_fork_in_a_threaded_process_warns(forking, connect, background):
    leave = threading.Event()
    background(leave.wait, 10)
    server = forking(handler=None)
    connect(server)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        server.handle_request()
    leave.set()
    assert [warning.category for warning in caught] == [DeprecationWarning]


def test_child_that_shuts_down_stops_itself_only(forking, request_of):
    """The flag is stored in the child's copy of the server; the parent serves on."""

    def handle(self):
        self.server._BaseServer__shutdown_request = True
        self.wfile.write(b"stored")

    server = forking(handler=handle)
    assert request_of(server).makefile("rb").read() == b"stored"
    assert server._BaseServer__shutdown_request is False


def test_shutdown_by_a_forked_child_does_not_wake_the_parent(make_server, connect, background):
    """A wake-up descriptor shared with a child must not end the parent's loop."""

    def handle(self):
        if (child := os.fork()) == 0:
            self.server._BaseServer__is_shut_down.set()  # or shutdown() waits for itself
            self.server.shutdown()
            os._exit(0)
        os.waitpid(child, 0)
        self.wfile.write(b"ok")

    server = make_server("TCPServer", handler=handle)
    loop = background(server.serve_forever, 0.02)
    for _ in range(3):
        assert connect(server).makefile("rb").read() == b"ok"
    assert not loop.done()
    server.shutdown()
    loop.result(10)


def test_serve_forever_in_a_forked_child(make_server, connect):
    """Pre-forking by hand: two processes serve one listener; the parent's loop is its own."""
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"%d" % os.getpid()))
    if (child := os.fork()) == 0:
        try:
            server.serve_forever(0.05)
        finally:
            os._exit(0)
    assert int(connect(server).makefile("rb").read()) == child
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    client = connect(server)
    server.handle_request()
    assert int(client.makefile("rb").read()) == os.getpid()
