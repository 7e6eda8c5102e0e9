"""SocketReader where it has to wait or loses its socket: timeouts, signals, resets, other threads,
and who closes the descriptor. Each test also runs on the file that it replaces."""

import collections
import contextlib
import gc
import os
import signal
import socket
import struct
import threading
import time

import pytest

from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader

if not wait.native:
    pytest.skip("a portable build has no reader of its own", allow_module_level=True)

KINDS = [lambda sock: sock.makefile("rb", -1), SocketReader]
READS = {
    "read": lambda reader: reader.read(4),
    "read_all": lambda reader: reader.read(),
    "read1": lambda reader: reader.read1(4),
    "readline": lambda reader: reader.readline(),
    "readlines": lambda reader: reader.readlines(),
    "next": next,
    "peek": lambda reader: reader.peek(),
    "readinto": lambda reader: reader.readinto(bytearray(4)),
    "readinto1": lambda reader: reader.readinto1(bytearray(4)),
}
every_read = pytest.mark.parametrize("read", READS.values(), ids=READS)
waits = pytest.mark.parametrize("timeout", [None, 30], ids=["blocking", "timeout"])


def tcp_pair():
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        return listener.accept()[0], peer


def outcome(call, *args):
    """Return the result of a call, or the type of its error."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


def both(scenario, connect=socket.socketpair):
    """Assert that scenario(reader, socket, peer) yields the same for each kind of file."""
    seen = []
    for opened in KINDS:
        ours, peer = connect()
        with ours, peer, opened(ours) as reader:
            seen.append(list(scenario(reader, ours, peer)))
    assert seen[1] == seen[0]


class Call(threading.Thread):
    """A call in a thread of its own; `result` is its outcome."""

    def __init__(self, call, *args):
        super().__init__(daemon=True)
        self.call, self.args = call, args
        self.start()

    def run(self):
        self.result = outcome(self.call, *self.args)

    def finished(self):
        self.join(20)
        assert not self.is_alive(), f"{self.call} did not end"
        return self.result


def let_them_wait():
    """Give threads the time to block in a system call, for which there is no event to wait for.

    If they have not got there the tests prove less, and pass."""
    time.sleep(0.05)


# Timeouts and sockets that do not block.


@every_read
def test_timeout_is_raised_and_then_nothing_is_read_any_more(open_reader, pair, read):
    pair[0].settimeout(0.01)
    with open_reader(pair[0]) as reader:
        with pytest.raises(TimeoutError, match="timed out"):
            read(reader)
        pair[1].sendall(b"late\n")
        for _ in range(2):
            with pytest.raises(OSError, match="cannot read from timed out object"):
                read(reader)


def test_what_was_buffered_before_a_timeout_is_still_read(open_reader, pair):
    pair[0].settimeout(0.01)
    pair[1].sendall(b"one\ntwo\n")
    with open_reader(pair[0]) as reader:
        assert reader.readline() == b"one\n"
        with pytest.raises(TimeoutError):
            reader.raw.readinto(bytearray(1))
        assert reader.readline() == b"two\n"
        with pytest.raises(OSError, match="timed out object"):
            reader.readline()


@pytest.mark.parametrize("name", ["readline", "read", "readlines"])
def test_what_came_before_a_timeout_is_kept(pair, name):
    # Unlike socketserver, where a line or a read that times out loses its beginning.
    pair[0].settimeout(0.01)
    pair[1].sendall(b"half a line")
    with SocketReader(pair[0]) as reader:
        with pytest.raises(TimeoutError):
            getattr(reader, name)()
        assert reader.read(11) == b"half a line"


@every_read
def test_settimeout_between_reads_counts_at_once(open_reader, pair, read):
    pair[1].sendall(b"one\n")
    with open_reader(pair[0]) as reader:
        assert reader.readline() == b"one\n"
        pair[0].settimeout(0.01)
        with pytest.raises(TimeoutError):
            read(reader)


@every_read
@pytest.mark.parametrize("data", [b"", b"ab", b"ab\ncd", b"ab\ncd\n"], ids=repr)
def test_non_blocking_socket_gives_what_is_there(read, data):
    def scenario(reader, ours, peer):
        ours.setblocking(False)
        peer.sendall(data)
        for _ in range(4):
            yield outcome(read, reader)
        peer.sendall(b"xyz\n")
        yield outcome(read, reader)
        peer.shutdown(socket.SHUT_WR)
        yield outcome(read, reader)
        yield outcome(reader.read)

    both(scenario)


@every_read
@pytest.mark.skipif(os.name != "posix", reason="SO_RCVTIMEO takes a struct timeval on POSIX")
def test_receive_timeout_of_the_kernel_looks_like_a_non_blocking_socket(read):
    def scenario(reader, ours, peer):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 10_000))
        yield outcome(read, reader)
        peer.sendall(b"abcd\n")
        peer.shutdown(socket.SHUT_WR)
        yield outcome(read, reader)

    both(scenario)


# The end, a reset, signals.


@every_read
def test_after_the_end_every_read_gives_nothing(read):
    def scenario(reader, ours, peer):
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        yield reader.read(4)
        yield outcome(read, reader)
        yield outcome(read, reader)
        yield ours.send(b"the other direction stays open")

    both(scenario)


@every_read
@pytest.mark.parametrize("data", [b"", b"ab\n"], ids=repr)
def test_reset_by_peer_is_raised(read, data):
    def scenario(reader, ours, peer):
        peer.sendall(data)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        for _ in range(3):
            result = outcome(read, reader)
            yield result
            if result is ConnectionResetError and data:
                return  # Unlike socketserver, what came before the reset can still be read.

    both(scenario, tcp_pair)


@contextlib.contextmanager
def signalled(handler):
    """Run the body; shortly after its beginning this thread gets a signal for `handler`."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("needs pthread_kill")
    before = signal.signal(signal.SIGUSR1, handler)

    def send(target):
        let_them_wait()
        signal.pthread_kill(target, signal.SIGUSR1)

    sender = Call(send, threading.main_thread().ident)
    try:
        yield
    finally:
        sender.finished()
        signal.signal(signal.SIGUSR1, before)


@waits
def test_signal_handler_runs_and_the_read_goes_on(open_reader, pair, timeout):
    pair[0].settimeout(timeout)
    with open_reader(pair[0]) as reader, signalled(lambda *_: pair[1].sendall(b"line\n")):
        assert reader.readline() == b"line\n"


@pytest.mark.untraced(reason="what a signal's handler raises would be lost in the tracer")
@waits
def test_what_a_signal_handler_raises_ends_the_read_only(open_reader, pair, timeout):
    class Interrupt(Exception):
        pass

    def interrupt(*_):
        raise Interrupt

    pair[0].settimeout(timeout)
    with open_reader(pair[0]) as reader:
        with pytest.raises(Interrupt), signalled(interrupt):
            reader.readline()
        pair[1].sendall(b"line\n")
        assert reader.readline() == b"line\n"


@waits
def test_signal_handler_that_reads_the_same_file_does_no_harm(open_reader, pair, timeout):
    # BufferedReader refuses with a RuntimeError; a reader that can serve it may.
    seen = []

    def handler(*_):
        pair[1].sendall(b"x")
        seen.append(outcome(reader.read1, 1))
        pair[1].sendall(b"line\n")

    pair[0].settimeout(timeout)
    with open_reader(pair[0]) as reader, signalled(handler):
        line = reader.readline()
    assert (seen, line) in [([RuntimeError], b"xline\n"), ([b"x"], b"line\n")]


# Other threads.


def occupy(stack, count=4):
    """Open sockets, which take the lowest free descriptors, with somebody's secret in each."""
    for _ in range(count):
        for sock in socket.socketpair():
            stack.enter_context(sock).sendall(b"secret\n")


@waits
@every_read
def test_close_during_a_read_never_reads_a_reused_descriptor(open_reader, pair, read, timeout):
    ours, peer = pair
    ours.settimeout(timeout)
    reader = open_reader(ours)
    reading = Call(read, reader)
    let_them_wait()
    closing = Call(lambda: (reader.close(), ours.close()))  # may have to wait for the read
    let_them_wait()
    with contextlib.ExitStack() as stack:
        occupy(stack)
        with contextlib.suppress(OSError):
            peer.sendall(b"late\n")
        peer.close()
        result = reading.finished()
        closing.finished()
    assert "secret" not in repr(result)
    assert reader.closed
    assert ours.fileno() == -1


@waits
def test_detach_during_a_read_never_reads_a_reused_descriptor(open_reader, pair, timeout):
    ours, peer = pair
    ours.settimeout(timeout)
    with open_reader(ours) as reader, contextlib.ExitStack() as stack:
        reading = Call(reader.readline)
        let_them_wait()
        os.close(ours.detach())
        occupy(stack)
        with contextlib.suppress(OSError):
            peer.sendall(b"late\n")
        peer.close()
        assert reading.finished() in (b"late\n", b"", OSError)


@waits
@every_read
def test_read_after_detach_is_refused(open_reader, pair, read, timeout):
    ours, _ = pair
    ours.settimeout(timeout)
    with open_reader(ours) as reader, contextlib.ExitStack() as stack:
        os.close(ours.detach())
        occupy(stack)
        assert outcome(read, reader) is OSError
        assert reader.fileno() == -1


def test_shutdown_by_another_thread_ends_the_read(open_reader, pair):
    with open_reader(pair[0]) as reader:
        reading = Call(reader.readline)
        let_them_wait()
        pair[0].shutdown(socket.SHUT_RDWR)
        assert reading.finished() == b""


@pytest.mark.untraced(reason="a tracer lets the other thread in between any two lines")
def test_two_threads_reading_share_the_bytes(pair):
    # Nothing is lost or read twice; lines may be torn. BufferedReader itself does not keep that:
    # its search of the buffer takes no lock (CPython 3.13 fails this test now and then).
    stream = b"".join(b"line %d of them all\n" % number for number in range(3000))
    with SocketReader(pair[0]) as reader:
        readers = [Call(lambda: list(iter(reader.readline, b""))) for _ in range(2)]
        for start in range(0, len(stream), 37):
            pair[1].sendall(stream[start : start + 37])
        pair[1].close()
        seen = [line for thread in readers for line in thread.finished()]
    assert collections.Counter(b"".join(seen)) == collections.Counter(stream)


def test_second_thread_may_read_while_the_first_waits_for_its_line(open_reader, pair):
    stream = b"abcdefgh\nijklmnop\n"
    with open_reader(pair[0]) as reader:
        pair[1].sendall(stream[:6])
        line = Call(reader.readline)
        let_them_wait()
        part = Call(reader.read, 6)
        let_them_wait()
        pair[1].sendall(stream[6:])
        line, part = line.finished(), part.finished()
    assert (line, part) in [(b"abcdefgh\n", b"ijklmn"), (b"gh\n", b"abcdef")]


def test_a_large_stream_arrives_whole(open_reader, pair):
    data = os.urandom(4 << 20)
    with open_reader(pair[0]) as reader:
        sending = Call(lambda: (pair[1].sendall(data), pair[1].close()))
        first, buffer = reader.read(100_001), bytearray(1 << 20)
        assert reader.readinto(buffer) == len(buffer)
        assert first + buffer + reader.read() == data
        sending.finished()


# Who closes the descriptor.


def test_descriptor_lives_as_long_as_the_reader(open_reader, pair):
    ours, peer = pair
    reader, fd = open_reader(ours), ours.fileno()
    ours.close()
    os.fstat(fd)
    peer.sendall(b"still here\n")
    assert reader.readline() == b"still here\n"
    assert reader.fileno() == fd
    reader.close()
    assert peer.recv(1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_closing_the_reader_leaves_an_open_socket_open(open_reader, pair):
    open_reader(pair[0]).close()
    pair[1].sendall(b"x")
    assert pair[0].recv(1) == b"x"


@pytest.mark.parametrize("cycle", [False, True])
def test_a_forgotten_reader_gives_the_descriptor_back(open_reader, pair, cycle):
    ours, peer = pair
    reader = open_reader(ours)
    if cycle:
        reader.itself = reader
    ours.close()
    del reader
    gc.collect()
    peer.settimeout(10)
    assert peer.recv(1) == b""
