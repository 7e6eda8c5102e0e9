"""SocketReader under hypothesis: arbitrary calls on arbitrary chunks give what the file that it
replaces gives, sock.makefile("rb")."""

import contextlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader

if not wait.native:
    pytest.skip("a portable build has no reader of its own", allow_module_level=True)


def makefile(sock):
    """The oracle."""
    return sock.makefile("rb", -1)


def outcome(call, *args):
    """Return the result of a call, or the type of its error."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


SIZES = st.one_of(st.integers(-2, 70), st.sampled_from([4096, 8191, 8192, 8193, 20000, 131073]))
TEXT = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"line\n", b"x" * 63 + b"\n", b"\0\xff"]))
LONG = st.builds(
    lambda size, every: bytes(10 if i % every == 0 else 97 for i in range(size)),
    st.integers(1, 40 << 10),
    st.sampled_from([7, 64, 8192, 100_000]),
)
CHUNKS = st.lists(st.one_of(TEXT.map(b"".join), LONG), max_size=8).map(
    lambda chunks: [chunk for chunk in chunks if chunk][:8]
)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["feed", "next", "read_all", "readline_all", "readlines_all"])),
        st.tuples(
            st.sampled_from(
                ["read", "read1", "readline", "readlines", "readinto", "readinto1", "peek"]
            ),
            SIZES,
        ),
    ),
    max_size=25,
)


class Sides:
    """Both files on streams that carry the same bytes, called so that no call has to wait."""

    def __init__(self, chunks, stack):
        self.chunks = list(reversed(chunks))
        self.pending = b""
        self.peers, self.readers = [], []
        for opened in (makefile, SocketReader):
            ours, peer = socket.socketpair()
            self.peers.append(stack.enter_context(peer))
            stack.enter_context(ours)
            self.readers.append(stack.enter_context(contextlib.closing(opened(ours))))

    def feed(self):
        """Send the next chunk to both, or the end; return whether there was one."""
        chunk = self.chunks.pop() if self.chunks else b""
        self.pending += chunk
        for peer in self.peers:
            if chunk:
                peer.sendall(chunk)
            else:
                peer.shutdown(socket.SHUT_WR)
        return bool(chunk)

    def feed_until(self, enough):
        """Send chunks until `enough(pending)` says that the next call need not wait."""
        while not enough(self.pending) and self.feed():
            pass

    def same(self, name, *args):
        """Call both; the results must be equal. For calls that take a known number of bytes."""
        theirs, ours = (outcome(getattr(reader, name), *args) for reader in self.readers)
        assert ours == theirs
        return ours

    def took(self, data):
        """Both files took `data` off the stream."""
        assert self.pending.startswith(data)
        self.pending = self.pending[len(data) :]

    def some(self, call, size):
        """Call both where each may take less than is there, and read the one that is behind on."""
        theirs, ours = (call(reader, size) for reader in self.readers)
        assert bool(ours) == bool(theirs)
        behind, lag = self.readers[len(ours) < len(theirs)], abs(len(ours) - len(theirs))
        missing = behind.read(lag)
        assert len(missing) == lag
        theirs, ours = sorted([theirs, ours], key=len)
        assert theirs + missing == ours
        assert len(ours) <= size or size < 0
        self.took(ours)

    def do_feed(self):
        if self.chunks:
            self.feed()

    def do_next(self):
        self.feed_until(lambda pending: b"\n" in pending)
        line = self.same("__next__")
        self.took(b"" if line is StopIteration else line)

    def do_read_all(self):
        self.feed_until(lambda pending: False)
        self.took(self.same("read"))

    def do_readline_all(self):
        self.feed_until(lambda pending: b"\n" in pending)
        self.took(self.same("readline"))

    def do_readlines_all(self):
        self.do_readlines(-1)

    def do_read(self, size):
        self.feed_until(lambda pending: 0 <= size <= len(pending))
        data = self.same("read", size)
        self.took(b"" if data is ValueError else data)

    def do_readline(self, limit):
        self.feed_until(lambda pending: b"\n" in pending or 0 <= limit <= len(pending))
        self.took(self.same("readline", limit))

    def do_readlines(self, hint):
        self.feed_until(lambda pending: False)
        self.took(b"".join(self.same("readlines", hint)))

    def do_readinto(self, size):
        self.feed_until(lambda pending: size <= len(pending))
        buffers = [bytearray(max(size, 0)) for _ in self.readers]
        counts = [r.readinto(buffer) for r, buffer in zip(self.readers, buffers, strict=True)]
        assert counts[0] == counts[1]
        assert buffers[0] == buffers[1]
        self.took(bytes(buffers[0][: counts[0]]))

    def do_read1(self, size):
        self.feed_until(bool)
        self.some(lambda reader, size: reader.read1(size), size)

    def do_readinto1(self, size):
        def readinto1(reader, size):
            buffer = bytearray(max(size, 0))
            return bytes(buffer[: reader.readinto1(buffer)])

        # Into more than its own buffer BufferedReader reads again, and may wait, although it has
        # something to return; ours does not.
        self.feed_until(bool)
        self.some(readinto1, min(max(size, 0), 8192))

    def do_peek(self, size):
        self.feed_until(bool)
        for reader in self.readers:
            seen = reader.peek(size)
            assert bool(seen) == bool(self.pending)
            assert self.pending.startswith(seen)


@settings(deadline=None, max_examples=300)
@given(CHUNKS, CALLS)
def test_any_calls_on_any_chunks_give_what_buffered_reader_gives(chunks, calls):
    with contextlib.ExitStack() as stack:
        sides = Sides(chunks, stack)
        for name, *args in calls:
            getattr(sides, f"do_{name}")(*args)
        sides.do_read_all()
        assert sides.pending == b""
        assert [reader.read() for reader in sides.readers] == [b"", b""]
