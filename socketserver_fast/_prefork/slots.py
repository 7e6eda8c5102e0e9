"""Slots of workers: an index and a listening socket, which stay when the worker is replaced.

All share the server's listener, or with reuse_port have one each.
"""

import contextlib
import socket
import sys
import time

from socketserver_fast._sockets import options

FIRST_DELAY, LONGEST_DELAY = 0.05, 5.0  # seconds, doubled each time
DATAGRAM_TIMEOUT = 1.0  # seconds, for a worker when another one was faster

# Elsewhere than on Linux a connection is non-blocking if its listener is; the accept() of Python
# undoes that unless the timeout is 0.
STREAM_TIMEOUT = 0 if sys.platform == "linux" else 0.001


class Slot:
    """Holds the Process of one worker and, while that is replaced, of the next one."""

    def __init__(self, index, server):
        """Make a listener with reuse_port, but for the first slot; else share the server's."""
        self.index = index
        self.listener = further(server) if server.reuse_port and index else server.socket
        self.worker = None
        self.successor = None  # starting, to take the worker's place when it is ready
        self.early_ends = 0  # one after the other
        self.start_at = 0.0  # when the next worker may be started
        self.dropped_at_close = 0

    def dropped(self):
        """Return how many packets the kernel dropped for the listener, also once it is closed."""
        count = options.dropped_by(self.listener)
        return self.dropped_at_close if count is None else count

    def close(self):
        """Close the listener on the side of the parent."""
        self.dropped_at_close = self.dropped()
        self.listener.close()

    def workers(self):
        """Return the one or two processes."""
        return [worker for worker in (self.worker, self.successor) if worker is not None]

    def remove(self, worker):
        """Forget a worker that has ended or was told to."""
        if worker is self.worker:
            self.worker, self.successor = self.successor, None
        elif worker is self.successor:
            self.successor = None

    def postpone(self):
        """Delay the start of the next worker, twice as long each time."""
        delay = min(FIRST_DELAY * 2**self.early_ends, LONGEST_DELAY)
        self.early_ends += 1
        self.start_at = time.monotonic() + delay


class Sum:
    """Adds up counts that come and go; the last value of one that has gone stays in the sum.

    One thread calls add() and end(), any thread may ask for the sum.
    """

    def __init__(self):
        self.state = 0, ()  # in one piece, so that nobody sees a count twice or not at all

    def add(self, count):
        """Include what the function `count` returns, now and later."""
        ended, counts = self.state
        self.state = ended, (*counts, count)

    def end(self, count):
        """Call the function for the last time, and keep that value."""
        ended, counts = self.state
        if count in counts:
            self.state = ended + count(), tuple(other for other in counts if other != count)

    def __int__(self):
        ended, counts = self.state
        return ended + sum(count() for count in counts)


def unblock(listener):
    """Make it return without a request if another process was faster.

    Datagrams get a timeout instead: replies use the same socket and may have to wait for room.
    """
    listener.settimeout(DATAGRAM_TIMEOUT if listener.type == socket.SOCK_DGRAM else STREAM_TIMEOUT)


@contextlib.contextmanager
def unblocked(listener):
    """Call unblock(), and undo it at the end: all processes that have the socket see its mode."""
    timeout = listener.gettimeout()
    unblock(listener)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # closed meanwhile
            listener.settimeout(timeout)


def further(server):
    """Make another socket on the server's address, bound by the server's own hooks."""
    first = server.socket
    if not first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise ValueError("reuse_port must be true before the server is constructed")
    server.socket = listener = socket.socket(server.address_family, server.socket_type)
    try:
        server.server_bind()
        server.server_activate()
        unblock(listener)
    except BaseException:
        listener.close()
        raise
    finally:
        server.socket = first
    return listener
