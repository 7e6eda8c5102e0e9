"""A worker process: what the parent knows of it, and what it does itself.

The two are connected by a socket pair, on which the worker says one of the messages below, and by a
page of shared memory with three numbers. The parent speaks by signals: SIGTERM ends the worker.
"""

import contextlib
import math
import mmap
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback

from socketserver_fast import _loop

START = b"G"  # from the parent: the fork has succeeded
READY = b"R"
FAILED = b"F"  # worker_started() raised; its traceback follows
LEAVING = b"L"  # after max_requests
STOP_SERVER = b"S"  # shutdown() was called in the worker

# What the page holds, all of them float64: two times of time.monotonic(), and whether the worker
# that is told to end takes what the kernel has queued, since the server is closed.
HEARTBEAT, DEADLINE, DRAINS = range(3)

# What the parent acts on. A worker obeys SIGTERM only, although Ctrl-C reaches it as well.
IGNORED = [signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU]
SIGNALS = [signal.SIGTERM, *IGNORED]
REMINDER = 0.02  # seconds after which SIGTERM is repeated
LONGEST_TURN = 1.0  # seconds; so long at most a worker waits without a look at its flags


class Worker:
    """One worker process, as the parent sees it."""

    def __init__(self, index, listener):
        """OSError if the system has no process or no descriptor to give."""
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
        """Fork; true in the worker."""
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
        """What becomes readable when the worker says something or ends."""
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
        """The exit status once it has ended, negative for a signal; None while it runs.

        Only this process is waited for. If somebody else has done so the status is unknown: 0.
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
        """Send SIGTERM again when the time has come for it.

        One that came between Python's look at its signals and the wait has woken nobody.
        """
        if self.remind_at <= time.monotonic():
            self.remind_at = math.inf
            self.signal(signal.SIGTERM)

    def hangs(self, timeout):
        """Whether it is ready and its loop has not turned for `timeout` seconds; None: never."""
        return (timeout is not None and self.ready_since is not None
                and time.monotonic() - self.page[HEARTBEAT] > timeout)

    def kill(self):
        """End it now."""
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


class WorkerProcess:
    """The worker in its own process; the server's `_worker` there."""

    def __init__(self, server, record):
        self.server = server
        self.record = record
        self.parent = record.far_end
        self.page = record.page

    def run(self, supervisor, mask):
        """Serve until told to end; never returns, and nothing leaves it."""
        status = 1
        try:
            if self.start(supervisor, mask):
                status = self.work(supervisor.serve, supervisor.poll_interval)
        except SystemExit as error:
            status = exit_status(error)
        except BaseException:
            traceback.print_exc()
        finally:
            flush()
            os._exit(status)

    def start(self, supervisor, mask):
        """Become a worker; false if the parent has gone or worker_started() fails."""
        try:
            self.inherit(supervisor)
            self.take_signals(mask)
            if self.parent.recv(1) != START or not self.ends_with_parent():
                return False
            self.install_hooks()
            self.server.worker_started()
        except Exception:
            self.parent.sendall(FAILED + traceback.format_exc().encode(errors="replace"))
            return False
        self.beat()
        self.tell(READY)
        return True

    def inherit(self, supervisor):
        """Make the server the worker's own, and close what belongs to others."""
        server = self.server
        server.socket = self.record.listener
        supervisor.close()
        del server._supervisor
        for other in supervisor.servers:
            if other is not server:
                other.socket.close()
                if other._supervisor is not None:
                    other._supervisor.close()
        server._worker = self
        server.worker_index = self.record.index
        # Another thread may have held its lock when the parent forked.
        server._BaseServer__is_shut_down = threading.Event()
        vars(server).pop("_BaseServer__requests", None)
        vars(server).pop("_BaseServer__draining", None)
        server._BaseServer__shutdown_request = False

    def install_hooks(self):
        """Wrap those that the worker's tasks need, and no others: they cost time."""
        server = self.server
        if server.worker_timeout is not None:
            self.service_actions = server.service_actions
            server.service_actions = self.beat_after_actions
        if server.max_requests is not None:
            self.left = server.max_requests + random.randint(0, server.max_requests // 10)
            self.process_request = server.process_request
            server.process_request = self.count_request

    def beat_after_actions(self):
        """In the place of service_actions()."""
        self.service_actions()
        self.beat()

    def count_request(self, request, client_address):
        """In the place of process_request()."""
        self.left -= 1
        if self.left == 0:
            self.page[DEADLINE] = time.monotonic() + seconds(self.server.drain_timeout)
            self.tell(LEAVING)
            self.leave()
        self.process_request(request, client_address)

    def take_signals(self, mask):
        """The dispositions of a worker. The signals are blocked until then."""
        signal.set_wakeup_fd(-1)
        for number in IGNORED:  # never SIGTERM: one that waits already would be dropped
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: self.leave())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGTERM})

    def work(self, serve, poll_interval):
        """The worker's life; its exit status."""
        server = self.server
        turns = [LONGEST_TURN, poll_interval, server.worker_timeout and server.worker_timeout / 4]
        serve(min(turn for turn in turns if turn is not None))
        finished = self.finish_requests()
        server.worker_stopping()
        return 0 if finished else 1

    def ends_with_parent(self):
        """See to it that this process ends when its parent does; false if that is over already."""
        if not _loop.die_with_parent():
            threading.Thread(target=self.watch_parent, daemon=True).start()
        return os.getppid() == self.record.parent

    def watch_parent(self):
        """Where the kernel does not do it: the parent says nothing more, so this is its end."""
        with contextlib.suppress(OSError):
            self.parent.recv(1)
        os._exit(1)

    def leave(self):
        """Stop taking requests. Called in signal handlers too, so it waits for nothing."""
        if self.page[DRAINS]:
            _loop.end(self.server)
        else:
            self.server._BaseServer__shutdown_request = True
            _loop.wake(self.server)

    def beat(self):
        """Show the parent that the loop turns."""
        self.page[HEARTBEAT] = time.monotonic()

    def tell(self, message):
        """Say something to the parent, who may have gone."""
        with contextlib.suppress(OSError):
            self.parent.send(message)

    def finish_requests(self):
        """Wait for the requests in progress; whether all of them ended in time."""
        finished = self.server._wait_for_requests(self.page[DEADLINE])
        if not finished:
            self.server._close_requests()
        return finished


def seconds(timeout):
    """A timeout as a number: None is no limit."""
    return math.inf if timeout is None else timeout


def exit_status(error):
    """What a SystemExit means, printed if it is a text, as at the end of a program."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def flush():
    """Write out what print() has buffered: os._exit() would drop it."""
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            file.flush()
