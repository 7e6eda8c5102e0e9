"""SocketReader has the surface of the file that it replaces, sock.makefile("rb"): its methods in
every state, what they take and refuse, its attributes. open_reader() chooses between the two."""

import array
import io
import selectors
import socket
import ssl
import weakref

import pytest

from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader
from socketserver_fast._sockets.reader import open_reader as open_file

if not wait.native:
    pytest.skip("a portable build has no reader of its own", allow_module_level=True)

KINDS = [lambda sock: sock.makefile("rb", -1), SocketReader]


def outcome(call, *args):
    """Return the result of a call, or the type of its error."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


def outcomes(scenario, data=b"", timeout=None):
    """Return what the scenario yields for each file, which finds `data`, then the end."""
    seen = []
    for opened in KINDS:
        ours, peer = socket.socketpair()
        with ours, peer:
            ours.settimeout(timeout)
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            reader = opened(ours)
            seen.append(list(scenario(reader)))
            outcome(reader.close)
    return seen


DATA = b"one\ntwo\nthree"
ARGUMENTS = [(), (None,), (3,), (4,), (0,), (-1,), (-2,), (True,), (1.5,), ("3",), (b"3",), (1, 2)]
SIZED = ["read", "read1", "readline", "readlines", "peek", "truncate"]
PLAIN = [
    "fileno", "readable", "writable", "seekable", "isatty", "flush", "tell", "detach", "close",
    "__iter__", "__next__", "__enter__",
]  # fmt: skip
INTO = ["readinto", "readinto1"]
BUFFERS = [b"read-only", "text", None, 5, array.array("i", [0]), memoryview(bytearray(9))[::2]]


@pytest.mark.parametrize("args", ARGUMENTS, ids=repr)
@pytest.mark.parametrize("name", SIZED)
def test_size_arguments_are_taken_or_refused(name, args):
    def scenario(reader):
        yield outcome(getattr(reader, name), *args)
        yield reader.read()

    theirs, ours = outcomes(scenario, DATA)
    assert ours == theirs


@pytest.mark.parametrize("name", INTO)
@pytest.mark.parametrize("buffer", BUFFERS, ids=lambda buffer: type(buffer).__name__)
def test_readinto_takes_and_refuses_the_same_buffers(name, buffer):
    def scenario(reader):
        yield outcome(getattr(reader, name), buffer)
        yield reader.read()

    theirs, ours = outcomes(scenario, DATA)
    assert ours == theirs


@pytest.mark.parametrize("state", ["open", "closed", "detached"])
@pytest.mark.parametrize("name", SIZED + INTO + PLAIN + ["seek", "write", "writelines", "closed"])
def test_every_method_in_every_state(name, state):
    arguments = {"seek": (0,), "write": (b"x",), "writelines": ([b"x"],)}
    arguments |= {method: (bytearray(2),) for method in INTO}

    def scenario(reader):
        raw = reader.detach() if state == "detached" else reader
        if state == "closed":
            reader.close()
        result = outcome(getattr, reader, name)
        if callable(result) and not isinstance(result, type):
            result = outcome(result, *arguments.get(name, ()))
        yield type(result) if name in ("detach", "fileno") else result is reader or result
        outcome(raw.close)

    theirs, ours = outcomes(scenario, DATA)
    assert ours == theirs


def test_attributes_say_what_they_say_of_a_socket_file(open_reader, pair):
    reader = open_reader(pair[0])
    assert reader.fileno() == reader.name == pair[0].fileno()
    assert reader.mode == "rb"
    assert reader.closed is False
    assert isinstance(reader, io.BufferedIOBase)
    reader.close()
    reader.close()
    assert reader.closed is True
    assert reader.name == -1


def test_with_closes_and_refuses_a_closed_file(open_reader, pair):
    with open_reader(pair[0]) as reader:
        assert not reader.closed
    assert reader.closed
    with pytest.raises(ValueError, match="closed"), reader:
        pass


def test_takes_attributes_and_weak_references(open_reader, pair):
    with open_reader(pair[0]) as reader:
        reader.anything = 1
        assert reader.anything == 1
        assert weakref.ref(reader)() is reader


def test_iteration_gives_lines(open_reader, pair):
    pair[1].sendall(DATA)
    pair[1].close()
    with open_reader(pair[0]) as reader:
        assert iter(reader) is reader
        assert list(reader) == [b"one\n", b"two\n", b"three"]
        assert next(reader, None) is None


def test_text_wrapper_reads_it(open_reader, pair):
    pair[1].sendall("grün\nzwei\n".encode() * 5000)
    pair[1].close()
    with io.TextIOWrapper(open_reader(pair[0]), encoding="utf-8") as text:
        assert text.readline() == "grün\n"
        assert text.read().count("\n") == 9999
    assert text.buffer.closed


def test_selectors_take_it(open_reader, pair):
    with open_reader(pair[0]) as reader, selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        assert selector.select(0) == []
        pair[1].sendall(b"x")
        assert len(selector.select(5)) == 1


def test_raw_is_the_socket_file_below(open_reader, pair):
    pair[1].sendall(b"buffered\nmore")
    with open_reader(pair[0]) as reader:
        assert reader.readline() == b"buffered\n"
        raw = reader.raw
        assert isinstance(raw, socket.SocketIO)
        assert raw is reader.raw
        assert raw._sock is pair[0]
        assert raw.fileno() == reader.fileno()
        assert reader.peek()[:1] == b"m"
        pair[1].sendall(b"!")
        assert reader.read(5) == b"more!"


def test_a_raw_file_that_was_replaced_by_attribute_is_asked(open_reader, pair):
    pair[1].sendall(b"never read")
    with open_reader(pair[0]) as reader:
        reader.raw.readinto = lambda buffer: 0
        assert reader.read() == b""


def test_closing_the_raw_file_closes_the_reader(open_reader, pair):
    reader = open_reader(pair[0])
    reader.raw.close()
    assert reader.closed
    assert outcome(reader.readline) is ValueError


def test_detach_gives_the_raw_file_that_goes_on_reading(open_reader, pair):
    reader = open_reader(pair[0])
    with reader.detach() as raw:
        assert isinstance(raw, socket.SocketIO)
        pair[1].sendall(b"later")
        assert raw.read(5) == b"later"
        assert outcome(reader.read) is ValueError
    del reader
    assert pair[0].fileno() >= 0


# The class, and open_file().


def test_class_is_final_and_takes_a_plain_socket_only(pair):
    with pytest.raises(TypeError):
        type("Reader", (SocketReader,), {})
    for args in [(), (None,), (3,), (pair[0], pair[1]), (socket.SocketIO,)]:
        with pytest.raises(TypeError):
            SocketReader(*args)


@pytest.mark.parametrize("size", [-1, -2])
def test_open_reader_compiled_for_a_plain_socket(pair, size):
    with open_file(pair[0], size) as reader:
        assert type(reader) is SocketReader


@pytest.mark.parametrize(
    ("size", "expected"), [(0, socket.SocketIO), (1, io.BufferedReader), (4096, io.BufferedReader)]
)
def test_open_reader_makes_the_stdlibs_file_for_other_sizes(pair, size, expected):
    with open_file(pair[0], size) as reader:
        assert type(reader) is expected


class Subclass(socket.socket):
    """A socket class that somebody may have changed in any way."""


def subclassed(sock):
    return Subclass(fileno=sock.detach())


def secured(sock):
    """By a subclass of SSLSocket; one itself is in test_tls.py."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.sslsocket_class = type("Subclass", (ssl.SSLSocket,), {})
    return context.wrap_socket(sock, do_handshake_on_connect=False)


@pytest.mark.parametrize("wrap", [subclassed, secured])
def test_open_reader_leaves_other_sockets_their_own_file(pair, wrap):
    with wrap(pair[0]) as sock, open_file(sock, -1) as reader:
        assert type(reader) is io.BufferedReader
        assert outcome(SocketReader, sock) is TypeError


def test_open_reader_when_socket_socket_was_replaced(pair, monkeypatch):
    with subclassed(pair[0]) as sock:
        monkeypatch.setattr(socket, "socket", Subclass)
        with open_file(sock, -1) as reader:
            assert type(reader) is io.BufferedReader


@pytest.mark.parametrize("size", [-1, 0, 4096])
def test_open_reader_asks_a_stub_for_its_file(size):
    class Stub:
        def makefile(self, *args):
            return args

    assert open_file(Stub(), size) == ("rb", size)
