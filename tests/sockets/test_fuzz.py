"""Random calls on the files of sockets and packets, and on what receives datagrams, with arguments
whose methods use the same objects again. Seeded and bounded; .ci/fuzz runs more of them under the
compiler's sanitizers, which also see faults that do not crash."""

import contextlib
import io
import os
import random
import socket
import sys
import threading

import pytest

import socketserver_fast
from socketserver_fast._sockets import datagram, wait
from socketserver_fast._sockets.datagram import PacketBuffer
from socketserver_fast._sockets.reader import SocketReader
from socketserver_fast._sockets.writer import SocketWriter

SEEDS = int(os.environ.get("SOCKETSERVER_FAST_FUZZ", "10"))  # of each test
STEPS = 300
EXPECTED = (OSError, ValueError, TypeError, OverflowError, BufferError, StopIteration)
SIZES = [0, 1, 2, 3, 10, 100, 8191, 8192, 8193, 20000, 65536, 70000, -1, -2, None, True]
NO_SIZES = ["3", 1.5, b"", 1 << 70, -(1 << 70)]

seeds = pytest.mark.parametrize("seed", range(SEEDS))
pytestmark = [
    pytest.mark.skipif(not wait.native, reason="a portable build has none of this"),
    pytest.mark.untraced(reason="it takes long"),
]


def cooperative(sock):
    """A cooperative socket, where there are some."""
    try:
        from socketserver_fast import green
    except (ImportError, RuntimeError):
        return sock
    return green.cooperative(sock)


class Fuzz:
    """One object under random calls. `call(depth)` makes one; arguments may make some more."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.depth = 0

    def run(self):
        for _ in range(STEPS):
            self.step()

    def step(self):
        """One random call, and what it is refused with."""
        if self.depth > 2:
            return
        self.depth += 1
        try:
            with contextlib.suppress(*EXPECTED):
                self.random.choice(self.calls)()
        finally:
            self.depth -= 1

    def size(self):
        """An argument that is a size, is none, or makes calls when it is asked for one."""
        number = self.random.random()
        value = self.random.choice(SIZES if number < 0.9 else NO_SIZES)
        return Index(self, value) if number < 0.2 and type(value) is int else value

    def buffer(self, size=None):
        """A writable buffer, sometimes one that makes calls when it is asked for its memory."""
        memory = bytearray(self.random.choice([0, 1, 10, 5000, 9000, 30000]))
        return Memory(self, memory) if self.random.random() < 0.2 else memory

    def data(self):
        """Something to be written, not always bytes."""
        text = self.random.randbytes(self.random.choice([0, 1, 10, 1000, 9000]))
        kinds = [bytes, bytes, bytearray, memoryview, lambda text: Memory(self, text), str]
        return self.random.choice(kinds)(text)


class Index:
    def __init__(self, fuzz, value):
        self.fuzz, self.value = fuzz, value

    def __index__(self):
        self.fuzz.step()
        return self.value


class Memory:
    def __init__(self, fuzz, memory):
        self.fuzz, self.memory = fuzz, memory

    def __buffer__(self, flags):
        self.fuzz.step()
        return memoryview(self.memory)

    def __len__(self):
        return len(self.memory)


class FuzzReader(Fuzz):
    """A SocketReader; what it gives must be what was sent, byte for byte."""

    def __init__(self, seed, wrap, honest):
        super().__init__(seed)
        self.wrap, self.honest = wrap, honest
        self.calls = [*[self.feed] * 4, *[self.read] * 8, self.readinto, self.iterate, self.peek]
        if not honest:
            self.calls += [self.replace_readinto, self.end, self.look, self.renew]
        self.reader = None
        self.renew()

    def renew(self):
        if self.reader is not None:
            self.stop()
        self.ours, self.peer = socket.socketpair()
        self.ours.settimeout(self.random.choice([0, 0, 0.001]))
        self.peer.settimeout(0)
        self.ours = self.wrap(self.ours)
        self.reader = SocketReader(self.ours)
        self.sent = self.taken = 0

    def stop(self):
        with contextlib.suppress(ValueError):
            self.reader.close()
        self.ours.close()
        self.peer.close()

    def feed(self):
        size = self.random.choice([1, 5, 100, 3000, 20000])
        text = bytes(i % 251 for i in range(self.sent, self.sent + size))
        self.sent += self.peer.send(text)

    def check(self, text, taken=None):
        """Check that these bytes come next."""
        if self.honest and text:
            start = self.taken
            assert bytes(text) == bytes(i % 251 for i in range(start, start + len(text)))
            if taken is not False:
                self.taken += len(text)

    def read(self):
        method = self.random.choice(["read", "read", "read1", "readline", "readlines"])
        result = getattr(self.reader, method)(self.size())
        self.check(b"".join(result) if type(result) is list else result)

    def readinto(self):
        buffer = self.buffer()
        count = getattr(self.reader, self.random.choice(["readinto", "readinto1"]))(buffer)
        self.check(getattr(buffer, "memory", buffer)[: count or 0])

    def iterate(self):
        self.check(next(self.reader))

    def peek(self):
        self.check(self.reader.peek(self.size()), False)

    def look(self):
        reader = self.reader
        self.random.choice([
            reader.fileno, lambda: reader.raw, lambda: repr(reader), lambda: reader.closed,
            reader.readable, reader.tell, reader.__enter__,
            lambda: SocketReader.__init__(reader, self.ours),
            lambda: SocketReader.__new__(SocketReader, self.ours).read(),
        ])()

    def end(self):
        self.random.choice([self.reader.close, self.reader.detach, self.ours.close,
                            self.peer.close, self.ours.detach])()

    def replace_readinto(self):
        answer = self.random.choice([
            lambda view: len(view) + 1, lambda view: -1, lambda view: None, lambda view: 1 << 62,
            lambda view: "x", lambda view: len(view), self.keep, self.use])
        left = iter(range(5))  # or read() would never come to an end
        if self.reader.raw is not None:  # not detached
            self.reader.raw.readinto = lambda view: 0 if next(left, None) is None else answer(view)

    def keep(self, view):
        self.kept = view
        view[:] = b"\n" * len(view)
        return Index(self, len(view))

    def use(self, view):
        self.step()
        return self.random.randrange(len(view) + 2)


class FuzzWriter(Fuzz):
    """A SocketWriter on a socket that is closed, replaced and full at times."""

    def __init__(self, seed, wrap):
        super().__init__(seed)
        self.calls = [*[self.write] * 6, self.empty, self.end, self.look, self.renew]
        self.wrap, self.ours = wrap, None
        self.renew()

    def renew(self):
        if self.ours is not None:
            self.stop()
        self.ours, self.peer = socket.socketpair()
        self.ours.settimeout(self.random.choice([0, 0.001]))
        self.peer.settimeout(0)
        self.ours = self.wrap(self.ours)
        self.writer = SocketWriter(self.ours)

    def stop(self):
        self.writer.close()
        self.ours.close()
        self.peer.close()

    def write(self):
        data = self.data()
        if self.random.random() < 0.1:
            self.writer.writelines([data, data])
        else:
            assert self.writer.write(data) == len(data)

    def empty(self):
        self.peer.recv(self.random.choice([100, 100_000]))

    def end(self):
        self.random.choice([self.writer.close, self.ours.close, self.peer.close])()

    def look(self):
        writer = self.writer
        self.random.choice([
            writer.flush, writer.fileno, writer.read, lambda: vars(writer), lambda: writer._sock,
            lambda: setattr(writer, "_sock", self.random.choice([self.peer, self.ours])),
            lambda: setattr(writer, "flush", self.step),
        ])()


class FuzzPacket(Fuzz):
    """A PacketBuffer and a BytesIO under the same calls, where those are the same for both."""

    def __init__(self, seed):
        super().__init__(seed)
        self.calls = [*[self.read] * 6, *[self.write] * 3, self.readinto, self.move, self.renew]
        self.renew()

    def renew(self):
        text = self.random.choice([b"", b"\n", b"line\n" * 10, self.random.randbytes(500)])
        self.file, self.model = PacketBuffer(text), io.BytesIO(text)
        if self.random.random() < 0.1:
            self.file, self.model = PacketBuffer.__new__(PacketBuffer), io.BytesIO()

    def both(self, method, *args):
        outcomes = []
        for file in (self.file, self.model):
            try:
                result = getattr(file, method)(*args)
            except EXPECTED as error:
                result = type(error)
            outcomes.append(result)
        assert outcomes[0] == outcomes[1], (method, args)

    def read(self):
        method = self.random.choice(["read", "readline", "read1", "readlines"])
        size = self.size()
        if type(size) is Index:  # the same object cannot be asked twice
            getattr(self.file, method)(size)
            self.renew()
        else:
            self.both(method, size)

    def write(self):
        data = self.data()
        if type(data) is Memory:
            self.file.write(data)
            self.renew()
        else:
            self.both("write", data)

    def readinto(self):
        self.file.readinto(self.buffer())
        self.renew()

    def move(self):
        method = self.random.choice(["seek", "truncate", "tell", "getvalue", "flush", "close"])
        self.both(method, *[self.random.randrange(700)] * (method in ("seek", "truncate")))


class FuzzDatagrams(Fuzz):
    """receive() and send(), for a server whose attributes say something else at each look."""

    def __init__(self, seed):
        super().__init__(seed)
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0)
        self.address = self.socket.getsockname()
        self.calls = [*[self.send] * 5, *[self.receive] * 5]

    @property
    def max_packet_size(self):
        self.step()
        value = self.random.choice([0, 1, 100, 8191, 8192, 8193, 70000, -1, 1 << 62, 1.5, None])
        return Index(self, value) if type(value) is int and self.random.random() < 0.3 else value

    def _note_flags(self, flags):
        self.step()

    def send(self):
        name, port = self.address
        address = self.random.choice([
            self.address, self.address, self.address, (name, 70000), (name, -1), (name,), None,
            (name + "\0", port), [name, port], ("\ud800", port), (name, 1 << 70), (name, "1")])
        datagram.send(self.socket, self.data(), address)

    def receive(self):
        received = datagram.receive(self)
        assert received is None or type(received[0][0]) is bytes

    def stop(self):
        self.socket.close()


@seeds
@pytest.mark.parametrize("wrap", [lambda sock: sock, cooperative], ids=["plain", "cooperative"])
@pytest.mark.parametrize("honest", [True, False])
def test_reader(seed, wrap, honest):
    with contextlib.closing(Stopping(FuzzReader(seed, wrap, honest))) as fuzz:
        fuzz.run()


@seeds
@pytest.mark.parametrize("wrap", [lambda sock: sock, cooperative], ids=["plain", "cooperative"])
def test_writer(seed, wrap):
    with contextlib.closing(Stopping(FuzzWriter(seed, wrap))) as fuzz:
        fuzz.run()


@seeds
def test_packet(seed):
    FuzzPacket(seed).run()


@seeds
def test_datagrams(seed):
    with contextlib.closing(Stopping(FuzzDatagrams(seed))) as fuzz:
        fuzz.run()


class Stopping:
    """Stops a fuzz at the end."""

    def __init__(self, fuzz):
        self.run, self.close = fuzz.run, fuzz.stop


@seeds
def test_two_threads_and_a_reader(seed):
    """Two threads together read exactly what was sent."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(10)
        sent = random.Random(seed).randbytes(200_000).replace(b"\n", b"") + b"\n"
        sent *= 3
        read = [[], []]
        with SocketReader(ours) as reader:
            def take(number):
                chosen = random.Random(seed + number)
                while text := getattr(reader, chosen.choice(["read", "read1"]))(
                        chosen.choice([1, 50, 9000, 70000])):
                    read[number].append(text)

            threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
            for thread in threads:
                thread.start()
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            for thread in threads:
                thread.join(30)
        assert sorted(b"".join(map(b"".join, read))) == sorted(sent)


@seeds
def test_server_of_hostile_datagrams(seed, serving):
    """A batch with a max_packet_size that changes, packets that are cut, handlers that raise."""
    chosen = random.Random(seed)
    handled = []

    class Server(socketserver_fast.UDPServer):
        handle_error = service_actions = lambda self, *unused: None
        max_packet_size = property(
            lambda self: chosen.choice([1, 100, 8192, 9000, 65536, 65537, 70000]))

    class Handler(socketserver_fast.DatagramRequestHandler):
        def handle(self):
            handled.append(self.packet)
            if chosen.random() < 0.1:
                raise ValueError
            self.wfile.write(self.rfile.read(chosen.choice([1, 10, None])))

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server), socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(server.server_address)
        for number in range(100):
            client.send(b"%d" % number * chosen.choice([1, 10, 3000]))
    assert all(type(packet) is bytes for packet in handled)


if sys.version_info < (3, 12):
    del Memory.__buffer__  # TypeErrors instead
