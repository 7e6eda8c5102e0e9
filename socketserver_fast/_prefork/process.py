"""A worker process as its parent sees it: how it is forked, and what the two tell each other.

They are connected by a socket pair, on which the worker says one of the messages below, and by a
page of shared memory with some numbers. The parent speaks by signals: SIGTERM ends the worker.
"""

import contextlib
import gc
import math
import mmap
import os
import signal
import socket
import sys
import threading
import time

from socketserver_fast._serving import signals

START = b"G"  # from the parent: the fork has succeeded
READY = b"R"
FAILED = b"F"  # worker_started() raised; its traceback follows
LEAVING = b"L"  # after max_requests
STOP_SERVER = b"S"  # shutdown() was called in the worker

# What the page holds, all of them float64: two times of time.monotonic(), and whether the worker
# that is told to end takes what the kernel has queued, since the server is closed; then how many
# requests it has in progress, by itself and in the children of a ForkingMixIn; and how many
# datagrams were cut.
HEARTBEAT, DEADLINE, DRAINS, REQUESTS, CHILDREN, TRUNCATED = range(6)

REMINDER = 0.02  # seconds after which SIGTERM is repeated

# One at a time creates descriptors and forks, or another server's worker would inherit them.
_forking = threading.Lock()


class Process:
    """Represents one worker in the parent, from before its fork until it was reaped."""

    def __init__(self, index, listener):
        """Make the channel and the page. OSError if the system is out of descriptors."""
        self.index = index
        self.listener = listener
        self.parent = os.getpid()
        self.page = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
        self.remind_at = math.inf
        self.deadline = None  # once it was told to end
        self.ready_since = None  # once it has said so
        self.leaving = self.killed = False
        self.wants_stop = False
        self.failure = None  # bytes of the traceback of worker_started()
        self.pidfd = None
        self.channel, self.far_end = socket.socketpair()
        self.channel.setblocking(False)

    def fork(self):
        """Fork; return whether this is the worker."""
        try:
            self.pid = os.fork()
        except BaseException:
            self.close()
            raise
        if self.pid == 0:
            self.channel.close()
            return True
        self.far_end.close()
        with contextlib.suppress(AttributeError, OSError):
            self.pidfd = os.pidfd_open(self.pid)
        with contextlib.suppress(OSError):
            self.channel.send(START)
        return False

    def descriptors(self):
        """Return what becomes readable when the worker says something or ends."""
        return [fd for fd in (self.channel.fileno(), self.pidfd) if fd not in (None, -1)]

    def receive(self):
        """Take note of what the worker has said."""
        while self.channel.fileno() >= 0:
            try:
                data = self.channel.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.heard(data)
            else:
                self.channel.close()

    def heard(self, data):
        if self.failure is not None:
            self.failure += data
            return
        said, failed, failure = data.partition(FAILED)
        if READY in said:
            self.ready_since = time.monotonic()
        self.leaving |= LEAVING in said
        self.wants_stop |= STOP_SERVER in said
        if failed:
            self.failure = failure

    def reap(self):
        """Return the exit status once it has ended, negative for a signal; None while it runs.

        Waits for this process only. 0 if somebody else has reaped it: the status is unknown.
        """
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if pid == 0:
            return None
        return os.waitstatus_to_exitcode(status)

    def end(self, deadline, drains):
        """Tell it to finish its requests until the deadline, or an earlier one told before."""
        first = self.deadline is None
        if first or deadline < self.deadline:
            self.deadline = self.page[DEADLINE] = deadline
        if first or drains > self.page[DRAINS]:
            self.page[DRAINS] = drains
            self.remind_at = time.monotonic() + REMINDER
            self.signal(signal.SIGTERM)

    def remind(self):
        """Send SIGTERM again when it is time for that.

        The first one wakes nobody if it comes between Python's look at its signals and the wait.
        """
        if self.remind_at <= time.monotonic():
            self.remind_at = math.inf
            self.signal(signal.SIGTERM)

    def hangs(self, timeout):
        """Return whether it is ready and its loop has stood still for `timeout` seconds, if any."""
        return (timeout is not None and self.ready_since is not None
                and time.monotonic() - self.page[HEARTBEAT] > timeout)

    def requests_in_progress(self):
        """Return how many requests it has, those in its child processes included."""
        return int(self.page[REQUESTS] + self.page[CHILDREN])

    def truncated(self):
        """Return how many datagrams it has cut, also once it has ended."""
        return int(self.page[TRUNCATED])

    def kill(self):
        """Kill it now."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number):
        """Send a signal to this process and to no other, also if somebody else has reaped it."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, number)
            else:
                os.kill(self.pid, number)

    def close(self):
        """Free the descriptors on the parent's side."""
        self.channel.close()
        self.far_end.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def fork(slot, become):
    """Fork a worker for the slot; in the worker call `become`, which never returns.

    OSError if the system has no process or no descriptor to give.
    """
    with _forking, signals.blocked() as mask, frozen_objects():
        flush()
        process = Process(slot.index, slot.listener)
        if process.fork():
            _forking.release()
            become(process, mask)
    return process


@contextlib.contextmanager
def frozen_objects():
    """Hide the parent's objects from the worker's garbage collector, which would copy them."""
    frozen_before = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()


def flush():
    """Flush what print() has buffered: the worker would inherit it, and os._exit() drop it."""
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            file.flush()


def deadline_in(timeout):
    """Return the time.monotonic() in so many seconds; None is no limit."""
    return math.inf if timeout is None else time.monotonic() + timeout


def describe(status):
    """Put an exit status into words."""
    if status >= 0:
        return f"with exit status {status}"
    with contextlib.suppress(ValueError):
        return f"by {signal.Signals(-status).name}"
    return f"by signal {-status}"
