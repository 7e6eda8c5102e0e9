"""Servers bind to both IP versions, to Unix paths, which are removed, and to abstract names."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import socketserver_fast

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
dual = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no dual-stack sockets")
MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]


class Echo(socketserver_fast.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Sender(socketserver_fast.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(repr(self.client_address[0]).encode())


def make(name, address, handler=Echo, **attributes):
    """A server of a subclass with these attributes."""
    return type("Server", (getattr(socketserver_fast, name),), attributes)(address, handler)


def ask(family, address, line=b"hello\n"):
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(line)
        return client.makefile("rb").readline()


# Both IP versions.


@dual
@pytest.mark.parametrize("host", ["", "::"])
@pytest.mark.parametrize("name", MODELS)
def test_dual_stack_serves_both(name, host, serving):
    with serving(make(name, (host, 0), dual_stack=True)) as address:
        assert ask(socket.AF_INET, ("127.0.0.1", address[1])) == b"hello\n"
        assert ask(socket.AF_INET6, ("::1", address[1])) == b"hello\n"


@dual
@pytest.mark.parametrize("reply", [False, True])
def test_dual_stack_datagrams(reply, serving):
    server = make("UDPServer", ("", 0), Sender, dual_stack=True, reply_from_destination=reply)
    with serving(server) as address:
        for family, host, seen in [
            (socket.AF_INET, "127.0.0.2", "::ffff:127.0.0.1"), (socket.AF_INET6, "::1", "::1"),
        ]:
            if host == "127.0.0.2" and sys.platform != "linux":
                host = "127.0.0.1"
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
                client.sendto(b"x", (host, address[1]))
                packet, sender = client.recvfrom(100)
                assert packet == repr(seen).encode()
                assert sender[0] == host or not reply


@dual
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
def test_dual_stack_takes_all_addresses_or_none(host):
    with pytest.raises(ValueError, match="all addresses"):
        make("TCPServer", (host, 0), dual_stack=True)


def test_dual_stack_without_ipv6(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with pytest.raises(OSError, match="set dual_stack to False"):
        make("TCPServer", ("", 0), dual_stack=True)


@unix
def test_dual_stack_of_a_unix_server(unix_path):
    with pytest.raises(ValueError, match="dual_stack is for IP servers"):
        make("UnixStreamServer", unix_path(), dual_stack=True)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
@dual
def test_dual_stack_with_a_socket_for_each_worker():
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    from socketserver_fast._prefork.slots import further

    server = make("PreforkTCPServer", ("", 0), dual_stack=True, reuse_port=True)
    with server, further(server) as second:
        assert second.getsockname()[1] == server.server_address[1]
        assert second.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


# The permissions of a Unix socket's file.


@unix
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
@pytest.mark.parametrize("name", ["UnixStreamServer", "UnixDatagramServer"])
def test_mode_is_exact(name, mode, unix_path):
    path = unix_path()
    with make(name, path, unix_mode=mode):
        assert stat.S_IMODE(os.lstat(path).st_mode) == mode


@unix
@pytest.mark.parametrize("by_umask", [False, True])
@pytest.mark.parametrize("name", ["UnixStreamServer", "UnixDatagramServer"])
def test_mode_is_there_from_the_first_moment(name, by_umask, unix_path, monkeypatch):
    """Seen from between bind() and chmod()."""
    path, seen = unix_path(), []
    if by_umask:
        monkeypatch.setattr(os, "fchmod", refuse)
    chmod = os.chmod
    monkeypatch.setattr(os, "chmod", lambda path, mode: (
        seen.append(stat.S_IMODE(os.lstat(path).st_mode)), chmod(path, mode)))
    umask = os.umask(0)
    try:
        with make(name, path, unix_mode=0o600):
            assert seen == [0o600]
            assert os.umask(0) == 0
    finally:
        os.umask(umask)


def refuse(*arguments):
    raise OSError(errno.EINVAL, "not here")


@unix
@pytest.mark.parametrize("mode", ["660", -1, 0o1777, 6.0])
def test_mode_that_is_none(mode, unix_path):
    path = unix_path()
    with pytest.raises(ValueError, match="0o660"):
        make("UnixStreamServer", path, unix_mode=mode)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("attributes", [{"unix_mode": 0o600}, {"owns_unix_path": True}])
def test_attributes_of_unix_servers_on_ip(attributes):
    with pytest.raises(ValueError, match="for servers of AF_UNIX"):
        make("TCPServer", ("127.0.0.1", 0), **attributes)


# The file of a Unix socket: who replaces it and who removes it.

OWN = [("UnixStreamServer", socket.SOCK_STREAM), ("UnixDatagramServer", socket.SOCK_DGRAM)]


def leave_behind(path, kind):
    """Leave the file of a server that was killed."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)


@unix
@pytest.mark.parametrize(("name", "kind"), OWN)
def test_stale_file_is_replaced(name, kind, unix_path):
    path = unix_path()
    leave_behind(path, kind)
    with make(name, path, owns_unix_path=True, unix_mode=0o600):
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(path)
    assert not os.path.lexists(path)


@unix
@pytest.mark.parametrize(("name", "kind"), OWN)
def test_stale_file_stays_as_with_the_stdlib_by_default(name, kind, unix_path, socketserver):
    path = unix_path()
    leave_behind(path, kind)
    with pytest.raises(OSError, match="in use"):
        getattr(socketserver, name)(path, Echo)
    os.unlink(path)
    getattr(socketserver, name)(path, Echo).server_close()
    assert os.path.lexists(path)


@unix
@pytest.mark.parametrize("other", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("name", "kind"), OWN)
def test_file_of_a_server_that_is_there_is_kept(name, kind, other, unix_path):
    path = unix_path()
    with socket.socket(socket.AF_UNIX, other) as alive:
        alive.bind(path)
        if other == socket.SOCK_STREAM:
            alive.listen(0)
            with socket.socket(socket.AF_UNIX) as first:  # which fills its queue
                first.connect(path)
                with pytest.raises(OSError, match="in use"):
                    make(name, path, owns_unix_path=True)
        with pytest.raises(OSError, match="in use"):
            make(name, path, owns_unix_path=True)
        assert os.path.lexists(path)


@unix
def test_files_that_are_no_sockets_are_kept(unix_path):
    path = unix_path()
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="in use"):
        make("UnixStreamServer", path, owns_unix_path=True)
    assert Path(path).read_text() == "precious"


@unix
def test_successor_that_has_replaced_the_file_keeps_it(unix_path):
    """The first one has closed its listener, as in a drain, and closes itself later."""
    path = unix_path()
    first = make("UnixStreamServer", path, owns_unix_path=True)
    first.socket.close()
    with make("UnixStreamServer", path, owns_unix_path=True):
        first.server_close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    assert not os.path.lexists(path)


@unix
def test_path_is_removed_after_a_change_of_the_folder(unix_path, monkeypatch):
    path = unix_path()
    monkeypatch.chdir(os.path.dirname(path))
    server = make("UnixStreamServer", os.path.basename(path), owns_unix_path=True)
    monkeypatch.chdir("/")
    server.server_close()
    assert not os.path.lexists(path)


@unix
def test_path_that_is_bytes(unix_path):
    path = os.fsencode(unix_path())
    leave_behind(path, socket.SOCK_STREAM)
    with make("UnixStreamServer", path, owns_unix_path=True):
        pass
    assert not os.path.lexists(path)


@unix
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_child_process_does_not_remove_the_file(unix_path):
    path = unix_path()
    with make("UnixStreamServer", path, owns_unix_path=True) as server:
        pid = os.fork()
        if not pid:
            try:
                server.server_close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.path.lexists(path)
    assert not os.path.lexists(path)


@unix
def test_one_of_many_that_start_at_once_gets_the_path(unix_path):
    path, servers, refused = unix_path(), [], []
    leave_behind(path, socket.SOCK_STREAM)
    together = threading.Barrier(8)

    def start():
        together.wait(10)
        try:
            servers.append(make("UnixStreamServer", path, owns_unix_path=True,
                                request_queue_size=16))  # each of the others leaves a connection
        except OSError as error:
            refused.append(error.errno)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert refused == [errno.EADDRINUSE] * 7
    with servers[0], socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@unix
def test_failed_bind_leaves_no_descriptor_and_no_file(unix_path, monkeypatch):
    path = unix_path()
    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(OSError, match="not here"):
        make("UnixStreamServer", path, owns_unix_path=True, unix_mode=0o600)
    assert not os.path.lexists(path)


# Abstract names.


@unix
@linux
def test_abstract_name(socketserver, serving):
    """Bound as a string; getsockname() tells bytes."""
    name = f"\0socketserver-fast-{os.getpid()}"
    handler = type("Handler", (socketserver.StreamRequestHandler,), {"handle": Echo.handle})
    with serving(socketserver.UnixStreamServer(name, handler)) as address:
        assert address == name.encode()
        assert ask(socket.AF_UNIX, name) == b"hello\n"


@unix
@linux
def test_abstract_name_needs_nobody_to_remove_it(unix_path):
    name = f"\0socketserver-fast-{os.getpid()}-own"
    for _ in range(2):
        with make("UnixStreamServer", name, owns_unix_path=True):
            pass


@unix
@linux
def test_abstract_name_has_no_mode():
    with pytest.raises(ValueError, match="no permissions"):
        make("UnixStreamServer", "\0anything", unix_mode=0o600)


# Two processes that share a port in turn.

SHARING = """
import sys
from socketserver_fast import *

class Name(StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(sys.argv[2].encode())

class Server(ThreadPoolTCPServer):
    allow_reuse_port = True
    request_queue_size = 128

with Server(("127.0.0.1", int(sys.argv[1])), Name) as server:
    print(server.server_address[1], flush=True)
    server.serve_until_signal()
"""


@linux
def test_processes_with_reuse_port_take_over_from_each_other():
    def start(port, name):
        child = subprocess.Popen([sys.executable, "-c", SHARING, str(port), name], stdout=-1)
        return child, int(child.stdout.readline())

    current, port = start(0, "0")
    children = [current]
    try:
        for name in "12":
            successor, _ = start(port, name)
            children.append(successor)
            current.send_signal(signal.SIGTERM)
            seen = ""
            while current.poll() is None or seen != name:
                seen = ask(socket.AF_INET, ("127.0.0.1", port)).decode()
                assert seen, "a request was lost"
            assert current.returncode == 0
            current = successor
    finally:
        for child in children:
            child.kill()
            child.communicate()
