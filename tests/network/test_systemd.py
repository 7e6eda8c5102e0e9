"""Sockets from systemd-socket-activate, and what servers tell a socket that plays systemd."""

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast import systemd
from socketserver_fast._sockets import wait

if os.name != "posix" or not hasattr(socket, "AF_UNIX"):
    pytest.skip("systemd", allow_module_level=True)

# It passes on little of the environment.
ACTIVATE = ["systemd-socket-activate", *(f"--setenv={name}" for name in ("PYTHONPATH",)
                                         if name in os.environ)]

HEAD = """
import http.server, os, socket, sys
import socketserver_fast
from socketserver_fast import systemd
from socketserver_fast import *

class Echo(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
"""


class Systemd:
    """The socket that services notify, and what they have said."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(20)

    def hear(self):
        """Return the next message, as a list of its lines."""
        return self.socket.recv(4096).decode().split("\n")

    def hear_until(self, line):
        """Return the messages that come before one with this line."""
        heard = []
        while line not in (message := self.hear()):
            heard.append(message)
        return heard


@pytest.fixture
def played(unix_path, monkeypatch):
    """A Systemd that this process notifies."""
    path = unix_path()
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    one = Systemd(path)
    with one.socket:
        yield one


@pytest.fixture
def start(tmp_path):
    """`start(program, *prefix, **environment)`: its Popen, ended after the test."""
    with contextlib.ExitStack() as stack:

        def run(program, *prefix, **environment):
            path = tmp_path / f"program{time.monotonic_ns()}.py"
            path.write_text(HEAD + textwrap.dedent(program))
            child = subprocess.Popen([*prefix, sys.executable, path], stdout=-1, stderr=-1,
                                     env={**os.environ, **environment}, text=True)
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield run


@pytest.fixture
def passed(monkeypatch):
    """`passed(*sockets, names=None)`: have systemd pass copies of these to this process.

    It happens in a forked child in life; here the descriptors are made to look so.
    """

    def given(*sockets, names=()):
        copies = [socket.socket(fileno=os.dup(sock.fileno())) for sock in sockets]
        monkeypatch.setattr(systemd, "_passed", list(zip(names, copies, strict=True)))
        monkeypatch.setattr(systemd, "_names", list(names))
        return copies

    copies = []
    yield lambda *sockets, names: copies.extend(given(*sockets, names=names))
    for copy in copies:
        copy.close()


def ask(address, family=socket.AF_INET, line=b"hello\n"):
    """Return the answer of an echo server."""
    with socket.socket(family) as client:
        client.settimeout(20)
        client.connect(address)
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").readline()


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock


# Sockets.

ONE_REQUEST = """
with systemd.open_server({}, None, Echo) as server:
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    assert not server.socket.get_inheritable()
    print(type(server.socket).__name__, server.server_address, flush=True)
    server.serve_until_signal()
"""


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="without systemd")
@pytest.mark.parametrize("server", [
    "TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "ForkingTCPServer",
    "GreenletTCPServer", "PreforkTCPServer",
])
def test_real_activation_of_each_model(server, start, eventually):
    with listening() as free:
        address = free.getsockname()
    child = start(ONE_REQUEST.format(f"socketserver_fast.{server}"),
                  *ACTIVATE, "-l", f"127.0.0.1:{address[1]}")
    assert "Listening on" in child.stderr.readline()
    assert ask(address) == b"hello\n"
    assert child.stdout.readline() == f"socket {address}\n"
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert (out, "Traceback" in err, child.returncode) == ("", False, 0)


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="without systemd")
def test_real_activation_with_names_and_a_unix_socket(start, unix_path):
    path = unix_path()
    with listening() as free:
        port = free.getsockname()[1]
    child = start("""
        web = systemd.open_server(ThreadingTCPServer, None, Echo, name="web")
        local = systemd.open_server(UnixStreamServer, None, Echo, name="local")
        print(web.server_address, local.server_address, flush=True)
        import threading
        threading.Thread(target=local.serve_forever, daemon=True).start()
        web.serve_until_signal()
        local.drain()
    """, *ACTIVATE, "-l", path, "-l", f"127.0.0.1:{port}",
        "--fdname=local:web")
    for _ in range(2):
        assert "Listening on" in child.stderr.readline()
    assert ask(("127.0.0.1", port)) == b"hello\n"
    assert ask(path, socket.AF_UNIX) == b"hello\n"
    assert child.stdout.readline() == f"('127.0.0.1', {port}) {path}\n"
    child.terminate()
    assert child.wait(30) == 0


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""


def test_sockets_are_only_taken_by_the_process_that_they_are_for(start):
    """A child of it inherits the environment at most."""
    child = start("assert systemd.take_socket() is None", LISTEN_PID=str(os.getpid()),
                  LISTEN_FDS="1")
    assert child.communicate(timeout=30)[1] == ""


def test_without_systemd_the_address_is_bound(start):
    child = start("""
        with systemd.open_server(TCPServer, ("127.0.0.1", 0), Echo) as server:
            assert server.server_address[1]
    """)
    assert child.communicate(timeout=30)[1] == ""


def test_files_that_are_passed_are_left_alone(tmp_path):
    program = "from socketserver_fast import systemd; print(systemd.take_socket())"
    with (tmp_path / "file").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", AS_SYSTEMD, str(file.fileno()), program],
            pass_fds=[file.fileno()], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_queue_is_that_of_the_socket_unit(passed):
    with listening() as sock:
        passed(sock, names=["one"])
        sock.listen(7)
        with systemd.open_server(socketserver_fast.TCPServer, None, None) as server:
            assert type(server.socket) is socket.socket
            if hasattr(socket, "TCP_INFO") and sys.platform == "linux":
                info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
                assert int.from_bytes(info[28:32], sys.byteorder) == 7  # of a listener its backlog


def test_an_http_server_gets_its_name_and_port(passed):
    with listening(socket.AF_INET6, ("::1", 0)) as sock:
        passed(sock, names=["one"])
        handler = http.server.BaseHTTPRequestHandler
        with systemd.open_server(http.server.ThreadingHTTPServer, None, handler) as server:
            assert server.server_port == sock.getsockname()[1]
            assert server.address_family == socket.AF_INET6


def test_prefork_shares_the_socket(passed):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        passed(sock, names=["one"])
        with systemd.open_server(socketserver_fast.PreforkUDPServer, None, None) as server:
            assert server.reuse_port is False


def test_path_of_a_unix_socket_is_left_to_systemd(passed, unix_path):
    path = unix_path()
    with listening(socket.AF_UNIX, path) as sock:
        passed(sock, names=["one"])
        cls = type("Server", (socketserver_fast.UnixStreamServer,),
                   {"owns_unix_path": True, "unix_mode": 0o600})
        systemd.open_server(cls, None, None).server_close()
        assert os.path.lexists(path)


@pytest.mark.parametrize(("name", "message"), [
    ("UDPServer", "ListenDatagram"), ("UnixStreamServer", "AF_UNIX"),
])
def test_socket_of_another_kind_is_refused(name, message, passed):
    with listening() as sock:
        passed(sock, names=["one"])
        with pytest.raises(ValueError, match=message):
            systemd.open_server(getattr(socketserver_fast, name), None, None)


def test_connection_is_refused(passed):
    with listening() as sock, socket.create_connection(sock.getsockname()) as connection:
        passed(connection, names=["one"])
        with pytest.raises(ValueError, match="Accept=no"):
            systemd.open_server(socketserver_fast.TCPServer, None, None)


def test_name_that_is_not_passed_is_an_error(passed):
    with listening() as sock:
        passed(sock, names=["web"])
        with pytest.raises(LookupError, match=r"'admin' is left .*: web"):
            systemd.open_server(socketserver_fast.TCPServer, None, None, name="admin")
        systemd.take_socket("web").close()
        with pytest.raises(LookupError, match="no socket is left"):
            systemd.take_socket()


# Notifications.

MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]


@pytest.fixture
def notifying():
    """`notifying(name, **attributes)`: an echo server of this class with a NotifyMixIn."""

    class Echo(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    def make(name, **attributes):
        if name.startswith("Greenlet"):
            pytest.importorskip("greenlet")
        base = getattr(socketserver_fast, name)
        cls = type("Server", (systemd.NotifyMixIn, base), attributes)
        return cls(("127.0.0.1", 0), Echo)

    return make


@pytest.mark.parametrize("name", MODELS)
def test_server_says_that_it_is_ready_and_stops(name, notifying, serving, played):
    server = notifying(name)
    with serving(server) as address:
        assert played.hear() == ["READY=1"]
        assert ask(address) == b"hello\n"
    assert played.hear() == ["STOPPING=1"]
    played.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        played.hear()


@pytest.mark.parametrize("name", MODELS)
def test_watchdog_is_fed_while_the_loop_turns(name, notifying, serving, played, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    with serving(notifying(name), poll_interval=None):
        assert played.hear() == ["READY=1"]
        assert [played.hear() for _ in range(3)] == [["WATCHDOG=1"]] * 3


def test_watchdog_of_another_process_is_not_fed(notifying, serving, played, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    with serving(notifying("TCPServer")) as address:
        assert ask(address) == b"hello\n"
    assert [played.hear(), played.hear()] == [["READY=1"], ["STOPPING=1"]]


def test_watchdog_is_not_fed_while_the_loop_stands(notifying, background, played, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    held, go_on = threading.Event(), threading.Event()

    def hold(self):
        held.set()
        go_on.wait(10)

    server = notifying("TCPServer", verify_request=lambda self, *args: hold(self))
    with server:
        done = background(server.serve_forever)
        played.hear_until("WATCHDOG=1")
        with socket.create_connection(server.server_address):
            assert held.wait(10)
            played.socket.settimeout(0.2)
            with contextlib.suppress(BlockingIOError, TimeoutError):
                played.hear_until("never")  # what was said before it stood
            with pytest.raises(TimeoutError):
                played.hear()
            go_on.set()
        played.socket.settimeout(20)
        played.hear_until("WATCHDOG=1")
        server.shutdown()
        done.result(10)


def test_drain_says_that_it_stops_before_it_waits(notifying, background, played):
    held = threading.Event()
    server = notifying("ThreadingTCPServer", finish_request=lambda *args: held.wait(10))
    with server:
        serving = background(server.serve_forever)
        assert played.hear() == ["READY=1"]
        with socket.create_connection(server.server_address):
            draining = background(server.drain, 10)
            assert played.hear() == ["STOPPING=1"]
            held.set()
        assert draining.result(10)
        serving.result(10)


@pytest.mark.skipif(not wait.native, reason="the workers of a portable build do not")
def test_pool_still_accepts_by_itself(notifying, serving):
    from socketserver_fast.pool import pool_of

    server = notifying("ThreadPoolTCPServer")
    with serving(server) as address:
        assert ask(address) == b"hello\n"
        assert pool_of(server).accepting


def test_pool_calls_service_actions_of_a_class_behind(notifying, serving, eventually):
    calls = []
    base = type("Base", (socketserver_fast.ThreadPoolTCPServer,),
                {"service_actions": lambda self: calls.append(threading.get_ident())})
    server = type("Server", (systemd.NotifyMixIn, base), {})(("127.0.0.1", 0), lambda *args: None)
    with serving(server, poll_interval=None) as address:
        socket.create_connection(address).close()
        eventually(lambda: calls)


PREFORK = """
class Server(systemd.NotifyMixIn, PreforkMixIn, ThreadingTCPServer):
    workers = 2
    def worker_started(self):
        print("worker", flush=True)

with Server(("127.0.0.1", 0), Echo) as server:
    server.serve_until_signal()
"""


def test_prefork_parent_speaks_for_its_workers(start, played):
    child = start(PREFORK, NOTIFY_SOCKET=played.socket.getsockname(), WATCHDOG_USEC="100000")
    assert set(map(tuple, played.hear_until("READY=1"))) <= {("WATCHDOG=1",)}
    assert [child.stdout.readline() for _ in range(2)] == ["worker\n"] * 2
    child.send_signal(signal.SIGHUP)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    while (message := played.hear())[0] != "RELOADING=1":
        assert message == ["WATCHDOG=1"]
    assert message[1].startswith("MONOTONIC_USEC=")
    assert abs(int(message[1].partition("=")[2]) - before) < 20_000_000
    assert [child.stdout.readline() for _ in range(2)] == ["worker\n"] * 2
    assert set(map(tuple, played.hear_until("READY=1"))) <= {("WATCHDOG=1",)}
    child.terminate()
    assert set(map(tuple, played.hear_until("STOPPING=1"))) <= {("WATCHDOG=1",)}
    assert child.wait(30) == 0


def test_prefork_is_not_ready_before_its_workers(start, played):
    child = start(PREFORK.replace('print("worker", flush=True)', "raise ValueError"),
                  NOTIFY_SOCKET=played.socket.getsockname())
    assert played.hear_until("STOPPING=1") == []
    assert child.wait(30) == 1


def test_abstract_socket_is_notified(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("abstract sockets are Linux")
    name = f"socketserver-fast-{os.getpid()}"
    one = Systemd("\0" + name)
    with one.socket:
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert systemd.notify("STATUS=warming up", "READY=1")
        assert one.hear() == ["STATUS=warming up", "READY=1"]


def test_nobody_to_notify(monkeypatch, unix_path, caplog):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False
    assert caplog.text == ""
    monkeypatch.setenv("NOTIFY_SOCKET", unix_path())
    assert systemd.notify("READY=1") is False
    assert "cannot send READY=1 to systemd" in caplog.text


@pytest.mark.parametrize("name", ["PreforkMixIn", "ThreadPoolMixIn", "TCPServer"])
def test_mixin_behind_the_model_is_refused(name):
    base = getattr(socketserver_fast, name)
    rest = () if name == "TCPServer" else (socketserver_fast.TCPServer,)
    with pytest.raises(TypeError, match="NotifyMixIn has to stand before"):
        type("Server", (base, systemd.NotifyMixIn, *rest), {})


def test_mixin_before_a_stdlib_server(played, serving):
    class Server(systemd.NotifyMixIn, http.server.ThreadingHTTPServer):
        pass

    with serving(Server(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)):
        assert played.hear() == ["READY=1"]
    assert played.hear() == ["STOPPING=1"]
