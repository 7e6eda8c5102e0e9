"""SocketWriter has the surface of what it stands for, socketserver._SocketWriter."""

import contextlib
import gc
import importlib
import io
import socket
import socketserver as stdlib
import subprocess
import sys
import textwrap
import weakref
from unittest import mock

import pytest

from socketserver_fast import handlers
from socketserver_fast._sockets import plain, wait
from socketserver_fast._sockets.writer import SocketWriter

KINDS = {
    "stdlib": stdlib._SocketWriter, "_SocketWriter": handlers._SocketWriter,
    "SocketWriter": SocketWriter,
}  # fmt: skip
NAMES = [name for name in dir(io.BufferedIOBase) if not name.startswith("_")]
SPECIAL = ["__enter__", "__exit__", "__iter__", "__next__"]
ARGUMENTS = {
    "seek": (0,), "write": (b"x",), "writelines": ([b"x", b"yz"],), "readinto": (bytearray(1),),
    "readinto1": (bytearray(1),), "__exit__": (None, None, None),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def opened(request, pair):
    """A writer of each kind."""
    return KINDS[request.param](pair[0])


def outcome(kind, state, name):
    """Return what a member of a new writer gives, what was sent, and the writer's state then."""
    ours, peer = socket.socketpair()
    with ours, peer:
        writer = kind(ours)
        if state == "closed":
            writer.close()
        try:
            result = getattr(writer, name)
            if callable(result):
                result = result(*ARGUMENTS.get(name, ()))
        except Exception as error:
            result = type(error), str(error)
        if name == "fileno":
            result -= ours.fileno()
        ours.shutdown(socket.SHUT_WR)
        return result is writer or result, peer.recv(9), writer.closed


@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("name", NAMES + SPECIAL)
def test_every_member_in_every_state(name, state):
    theirs, *ours = [outcome(kind, state, name) for kind in KINDS.values()]
    assert ours == [theirs, theirs]


@pytest.mark.parametrize("data", ["text", None, 5, memoryview(b"every other")[::2]], ids=repr)
def test_writes_nothing_but_contiguous_bytes(opened, data):
    with pytest.raises((TypeError, BufferError)):
        opened.write(data)


def test_writes_by_name_and_counts_bytes(opened, pair):
    import array

    assert opened.write(b=array.array("i", [1, 2])) == 8
    assert opened.write(bytearray(b"more")) == 4
    assert opened.write(b"") == 0
    assert len(pair[1].recv(99)) == 12


def test_takes_attributes_and_weak_references(opened):
    wrote = []
    opened.anything = 1
    assert vars(opened)["anything"] == 1
    opened.write = wrote.append  # as some tests do, and programs that count
    opened.writelines([b"seen"])
    assert wrote == [b"seen"]
    reference = weakref.ref(opened)
    assert reference() is opened


def test_is_what_it_stands_for(opened):
    assert isinstance(opened, io.BufferedIOBase)
    assert isinstance(opened, io.IOBase)
    assert isinstance(opened, type(opened))


def test_counts_as_both_classes(pair):
    importlib.import_module("socketserver_fast.patching")
    writer = SocketWriter(pair[0])
    assert isinstance(writer, handlers._SocketWriter)
    assert isinstance(writer, stdlib._SocketWriter)


@pytest.mark.parametrize("name", ["__init__", "close", "fileno", "flush", "writable", "write"])
def test_member_replaced_on_the_class_is_used(pair, name):
    class Handler(handlers.StreamRequestHandler):
        def handle(self):
            self.wfile.writable()
            self.wfile.fileno()
            self.wfile.write(b"x")

    for _ in range(3):
        with mock.patch.object(handlers._SocketWriter, name, autospec=True) as replaced:
            replaced.return_value = None
            with contextlib.suppress(AttributeError):  # without __init__ there is no _sock
                Handler(pair[0], None, None)
        assert replaced.called
        Handler(pair[0], None, None)


def test_close_flushes_as_a_file_does(opened):
    flushed = []
    opened.flush = lambda: flushed.append(opened.closed)
    opened.close()
    opened.close()
    assert flushed == [False]
    assert opened.closed


WRITER_BEFORE = """
    import socket, socketserver

    class Counting(socketserver._SocketWriter):
        pass

    socketserver._SocketWriter = {}

    import socketserver_fast
    socketserver_fast.patch()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            print(type(self.wfile).__name__)
            self.wfile.write(b"sent")

    ours, peer = socket.socketpair()
    Handler(ours, None, None)
    print(peer.recv(9))
"""


@pytest.mark.parametrize("writer", ["Counting", "lambda sock: Counting(sock)"])
def test_writer_put_there_before_the_import(writer):
    script = textwrap.dedent(WRITER_BEFORE).format(writer)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Counting\nb'sent'\n", "")


METHOD_BEFORE = """
    import socket
    original = socket.socket.{0}

    def replaced(self, *args, **kwargs):
        print("{0}")
        return original(self, *args, **kwargs)

    socket.socket.{0} = replaced

    import socketserver_fast

    with socketserver_fast.TCPServer(("127.0.0.1", 0), None) as server, \
            socket.create_connection(server.server_address):
        print("accept it")
        connection, _ = server.get_request()
        connection.makefile("rb").close()
        print("close it")
        server.close_request(connection)
        print("end")
"""


@pytest.mark.parametrize(("name", "where"), [("__init__", 0), ("accept", 0), ("close", 1)])
def test_method_of_all_sockets_replaced_before_the_import(name, where):
    script = textwrap.dedent(METHOD_BEFORE).format(name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    parts = done.stdout.split("accept it\n")[1].split("close it\n")
    assert name in parts[where].split(), done.stderr


@pytest.mark.skipif(not wait.native, reason="a portable build goes by the socket's methods")
def test_writer_of_a_handler(pair):
    kinds = []

    class Handler(handlers.StreamRequestHandler):
        def handle(self):
            kinds.append(type(self.wfile))

    class Other(socket.socket):
        pass

    Handler(pair[0], None, None)
    with Other(fileno=socket.dup(pair[0].fileno())) as other:
        Handler(other, None, None)
    assert kinds == [SocketWriter, handlers._SocketWriter]


@pytest.mark.skipif(not wait.native, reason="a portable build goes by the socket's methods")
@pytest.mark.parametrize("name", ["sendall", "recv_into", "close", "_real_close"])
def test_methods_of_all_sockets_replaced_and_restored(pair, monkeypatch, name):
    kinds = []
    original = getattr(socket.socket, name)

    class Handler(handlers.StreamRequestHandler):
        def handle(self):
            kinds.append(type(self.wfile) is SocketWriter)

    for _ in range(3):
        for _ in range(3):
            Handler(pair[0], None, None)
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, name, lambda *args: original(*args))
            Handler(pair[0], None, None)
    assert kinds == [True, True, True, False] * 3


def test_replaced_close_of_all_sockets_is_called(pair, monkeypatch):
    closed = []
    real_close = socket.socket._real_close
    plain.close(socket.socket())
    monkeypatch.setattr(socket.socket, "_real_close",
                        lambda sock: closed.append(sock) or real_close(sock))
    with pair[0].dup() as sock:
        Handler = type("Handler", (handlers.StreamRequestHandler,), {})
        Handler.handle = lambda self: plain.close(self.request)
        Handler(sock, None, None)
        assert closed == [sock]
        assert sock.fileno() == -1


def test_does_not_keep_the_socket_open_nor_in_a_circle(pair):
    with pair[0].dup() as sock:
        writer = SocketWriter(sock)
        sock.close()
        assert sock.fileno() == -1
        with pytest.raises(OSError, match="descriptor"):
            writer.write(b"x")
    writer.circle = writer
    reference = weakref.ref(writer)
    del writer
    gc.collect()
    assert reference() is None
