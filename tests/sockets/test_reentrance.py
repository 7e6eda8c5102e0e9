"""Foreign code that runs inside a call: __index__(), __buffer__(), a replaced raw.readinto(), or
another thread's close(). Where possible, a test also runs on the file that ours replaces."""

import copy
import io
import pickle
import select
import socket
import sys
import threading
from contextlib import suppress

import pytest

from socketserver_fast._sockets import datagram, wait
from socketserver_fast._sockets.datagram import PacketBuffer
from socketserver_fast._sockets.reader import SocketReader
from socketserver_fast._sockets.writer import SocketWriter

READERS = {"makefile": lambda sock: sock.makefile("rb", -1), "SocketReader": SocketReader}
if not wait.native:
    del READERS["SocketReader"]
PACKETS = {"BytesIO": io.BytesIO, "PacketBuffer": PacketBuffer}
ours_only = pytest.mark.skipif(not wait.native, reason="a portable build has no reader of its own")


@pytest.fixture(params=PACKETS)
def packet_class(request):
    return PACKETS[request.param]


class Index:
    """An integer that calls something when it is asked for."""

    def __init__(self, value, call):
        self.value, self.call = value, call

    def __index__(self):
        self.call()
        return self.value


# Packet files.

@pytest.mark.parametrize("method", ["read", "readline", "read1"])
@pytest.mark.parametrize("meanwhile", [
    lambda file: file.read(200),
    lambda file: file.seek(90),
    lambda file: file.truncate(5),
    lambda file: (file.seek(0), file.write(b"z" * 300), file.seek(10)),
], ids=["read", "seek", "truncate", "write"])
def test_size_that_uses_the_packet(packet_class, method, meanwhile):
    file, model = packet_class(b"x" * 100), io.BytesIO(b"x" * 100)
    meanwhile(model)
    result = getattr(file, method)(Index(299, lambda: meanwhile(file)))
    assert result == getattr(model, method)(299)
    assert file.tell() == model.tell()


def test_size_that_closes_the_packet(packet_class):
    file = packet_class(b"x" * 100)
    with pytest.raises(ValueError, match="closed"):
        file.read(Index(10, file.close))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__() is younger")
def test_bytes_that_write_to_the_packet(packet_class):
    class Writing:
        def __buffer__(self, flags):
            file.write(b"first")
            return memoryview(b"second")

    file = packet_class()
    assert file.write(Writing()) == 6
    assert file.getvalue() == b"firstsecond"


def test_packet_that_was_not_initialized(packet_class):
    file = packet_class.__new__(packet_class)
    assert (file.read(), file.readline(), file.getvalue(), file.write(b"abc")) == (b"", b"", b"", 3)
    assert file.getvalue() == b"abc"


@pytest.mark.parametrize("duplicate", [
    copy.copy, copy.deepcopy, lambda file: pickle.loads(pickle.dumps(file))])
def test_copy_of_a_packet(packet_class, duplicate):
    file = packet_class(b"one\ntwo\n")
    file.readline()
    second = duplicate(file)
    file.write(b"222")
    assert isinstance(second, io.BytesIO)
    assert second.read() == b"two\n"
    assert file.getvalue() == b"one\n222\n"


def test_copy_of_a_closed_packet(packet_class):
    file = packet_class(b"one")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        copy.copy(file)


@ours_only
@pytest.mark.parametrize("file_class", [*READERS.values(), SocketWriter])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_files_of_sockets_have_no_copies(pair, file_class, duplicate):
    with file_class(pair[0]) as file, pytest.raises(TypeError):
        duplicate(file)


# Readers.

@pytest.mark.parametrize("method", ["read", "read1", "readline", "readlines", "peek"])
def test_size_that_closes_the_reader(pair, open_reader, method):
    pair[1].sendall(b"line\n")
    file = open_reader(pair[0])
    with pytest.raises(ValueError, match="closed"):
        getattr(file, method)(Index(3, file.close))


@pytest.mark.parametrize("method", ["read", "read1", "readline"])
def test_size_that_reads(pair, open_reader, method):
    pair[1].sendall(b"one\ntwo\n")
    with open_reader(pair[0]) as file:
        assert getattr(file, method)(Index(4, file.readline)) == b"two\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__() is younger")
@pytest.mark.parametrize("method", ["readinto", "readinto1"])
def test_buffer_that_closes_the_reader(pair, open_reader, method):
    class Closing:
        def __buffer__(self, flags):
            file.close()
            return memoryview(bytearray(10))

    pair[1].sendall(b"line\n")
    file = open_reader(pair[0])
    file.peek()
    with pytest.raises(ValueError, match="closed"):
        getattr(file, method)(Closing())


READS = {
    "read": lambda file: file.read(10),
    "read_much": lambda file: file.read(20000),
    "read1": lambda file: file.read1(10),
    "readline": lambda file: file.readline(),
    "readinto": lambda file: file.readinto(bytearray(20000)),
    "peek": lambda file: file.peek(),
}
every_read = pytest.mark.parametrize("read", READS.values(), ids=READS)


@every_read
@pytest.mark.parametrize("result", [
    lambda view: len(view) + 1, lambda view: 1 << 20, lambda view: -5, lambda view: 1 << 80,
    lambda view: "x", lambda view: 1.5,
], ids=["one_more", "large", "negative", "huge", "text", "float"])
def test_raw_readinto_that_lies(pair, open_reader, read, result):
    pair[1].sendall(b"x" * 100)
    with open_reader(pair[0]) as file:
        file.raw.readinto = result
        with pytest.raises(OSError, match="readinto"):
            read(file)


@pytest.mark.parametrize("read", [READS["readline"], READS["read_much"]])
def test_raw_readinto_that_has_nothing(pair, open_reader, read):
    with open_reader(pair[0]) as file:
        file.raw.readinto = lambda view: None
        assert not read(file)


@ours_only  # the stdlib refuses it as reentrant, or waits for its own lock
@every_read
@pytest.mark.parametrize("end", ["close", "detach"])
def test_raw_readinto_that_ends_the_reader(pair, read, end):
    file = SocketReader(pair[0])
    file.raw.readinto = lambda view: (getattr(file, end)(), 5)[1]
    with pytest.raises(ValueError, match=r"closed|detached"):
        read(file)


@ours_only  # the stdlib gives away its buffer
def test_raw_readinto_that_keeps_the_memory(pair):
    kept = []

    def readinto(view):
        kept.append(view)
        view[:8] = b"one\ntwo\n"
        return 8

    with SocketReader(pair[0]) as file:
        file.raw.readinto = readinto
        assert file.readline() == b"one\n"
        kept[0][:] = b"Z" * len(kept[0])
        assert file.readline() == b"two\n"


@ours_only
def test_raw_readinto_that_shrinks_the_memory(pair):
    def readinto(view):
        memory = view.obj
        view.release()
        del memory[10:]
        return 100

    with SocketReader(pair[0]) as file:
        file.raw.readinto = readinto
        with pytest.raises(OSError, match="readinto"):
            file.read(1000)


@ours_only
@pytest.mark.parametrize("read", [
    lambda file: file.read(20000), lambda file: file.read(9100), lambda file: file.read(),
    lambda file: file.readinto(bytearray(20000)), lambda file: file.readlines(),
], ids=["read", "read_near_the_end", "read_all", "readinto", "readlines"])
@pytest.mark.parametrize("timeout", [None, 30])
def test_reader_closed_by_another_thread(pair, eventually, background, read, timeout):
    ours, peer = pair
    ours.settimeout(timeout)
    file = SocketReader(ours)
    reading = background(read, file)
    peer.sendall(b"x" * 9000)
    eventually(lambda: not select.select([ours], [], [], 0)[0])
    file.close()
    peer.sendall(b"y" * 200)
    with pytest.raises(ValueError, match="closed file"):
        reading.result(10)


@ours_only
def test_reader_is_initialized_once(pair):
    file = SocketReader(pair[0])
    with pytest.raises(TypeError):
        file.__init__(pair[0])
    file.close()
    with pytest.raises(TypeError):
        file.__init__(pair[0])


@ours_only
def test_reader_that_was_not_initialized(pair):
    file = SocketReader.__new__(SocketReader, pair[0])
    assert file.closed
    for read in READS.values():
        with pytest.raises(ValueError, match="closed"):
            read(file)
    file.close()


@ours_only
def test_raw_of_two_threads_is_one(pair, background, monkeypatch):
    both = threading.Barrier(2)
    init = socket.SocketIO.__init__

    def slow_init(self, *args):
        init(self, *args)
        both.wait(10)

    monkeypatch.setattr(socket.SocketIO, "__init__", slow_init)
    file = SocketReader(pair[0])
    reading = background(lambda: file.raw)
    seen = [file.raw, reading.result(10)]
    assert seen[0] is seen[1]
    pair[0].close()
    assert pair[0].fileno() >= 0  # the reader still holds it
    file.close()
    assert pair[0].fileno() == -1


# What was read before an error.

@pytest.mark.parametrize("read", [
    lambda file: file.readlines(), lambda file: file.read(), lambda file: file.read(20000),
    lambda file: file.readinto(bytearray(20000)),
], ids=["readlines", "read_all", "read", "readinto"])
@ours_only
def test_error_leaves_what_was_read(pair, read):
    ours, peer = pair
    ours.settimeout(0.05)
    sent = b"one\n" * 3000 + b"rest"
    peer.sendall(sent)
    with SocketReader(ours) as file:
        file.readline()
        with pytest.raises(TimeoutError):
            read(file)
        assert file.read(len(sent) - 4) == sent[4:]


# Datagrams.

class Server:
    """Has what receive() asks a server for."""

    def __init__(self, *sizes):
        self.sizes = list(sizes)
        self.socket = socket.socket(type=socket.SOCK_DGRAM)

    @property
    def max_packet_size(self):
        return self.sizes.pop(0)


class Lying(int):
    """A number that compares as a small one."""

    def __le__(self, other):
        return True

    __ge__ = __lt__ = __gt__ = __le__


def test_packet_size_that_lies():
    server = Server(Lying(1 << 16))
    with server.socket as ours, socket.socket(type=socket.SOCK_DGRAM) as client:
        ours.bind(("127.0.0.1", 0))
        client.sendto(b"x" * 60000, ours.getsockname())
        assert datagram.receive(server) is None  # too large for it


def test_reply_to_a_name_with_a_zero_byte():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        address = ("127.0.0.1\0.example", 9)
        with pytest.raises((TypeError, ValueError)) as expected:
            sock.sendto(b"x", address)
        with pytest.raises(expected.type):
            datagram.send(sock, b"x", address)


@pytest.mark.parametrize("sizes", [[100, -1], [100, 1 << 60], [100, 0]])
def test_packet_size_that_changes_between_two_looks(make_server, connect, background, sizes):
    looks = iter([*sizes, *[100] * 100])
    server = make_server("UDPServer", handler=lambda handler: seen.append(handler.packet),
                         max_packet_size=property(lambda server: next(looks)))
    seen = []
    serving = background(server.serve_forever, 0.01)
    client = connect(server)
    for _ in range(3):
        client.send(b"packet")
    server.shutdown()
    with suppress(ValueError, MemoryError):  # as recvfrom() of the second packet raises them
        serving.result(10)
