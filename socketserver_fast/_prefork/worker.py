"""What a worker does in its own process, from the fork to os._exit()."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
import traceback

from socketserver_fast._prefork.process import (
    CHILDREN,
    DEADLINE,
    DRAINS,
    FAILED,
    HEARTBEAT,
    LEAVING,
    READY,
    REQUESTS,
    START,
    STOP_SERVER,
    TRUNCATED,
    deadline_in,
    flush,
)
from socketserver_fast._serving import loop, serving
from socketserver_fast._serving.signals import IGNORED_BY_WORKERS, Handlers
from socketserver_fast._sockets import kept, options

try:  # once, in the parent
    import ctypes

    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
except (ImportError, OSError):  # a Python without ctypes, or a static one
    libc = None

PR_SET_PDEATHSIG = 1  # prctl(2)
LONGEST_TURN = 1.0  # seconds; so long at most a worker waits without a look at its flags


class Worker:
    """Runs a worker in its own process; the server's `_worker` there."""

    def __init__(self, server, process):
        self.server = server
        self.process = process
        self.parent = process.far_end
        self.page = process.page

    def run(self, supervisor, mask):
        """Serve until told to end. Never returns, and no exception leaves it."""
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
        """Become a worker; return False if the parent has gone or worker_started() fails."""
        try:
            self.inherit(supervisor)
            self.take_signals(mask)
            if self.parent.recv(1) != START or not self.ends_with_parent():
                return False
            self.install_hooks()
            self.server.worker_started()
            # Again: the kernel forgets it when the process changes its user.
            if die_with_parent() and os.getppid() != self.process.parent:
                return False
        except Exception:
            self.parent.sendall(FAILED + traceback.format_exc().encode(errors="replace"))
            return False
        self.beat()
        self.tell(READY)
        return True

    def inherit(self, supervisor):
        """Make the server the worker's own, and close what belongs to others."""
        server = self.server
        server.socket = self.process.listener
        supervisor.close()
        del server._supervisor
        for other in supervisor.servers.values():
            if other is not server:
                other.socket.close()
                if other._supervisor is not None:
                    other._supervisor.close()
        server._worker = self
        server.worker_index = self.process.index
        options.leave_reports_to_parent(server)
        serving.begin_in_worker(server)
        serving.requests_of(server).publish(self.page[REQUESTS:REQUESTS + 1])

    def install_hooks(self):
        """Wrap the hooks that this worker needs, and no others: each costs time."""
        server = self.server
        if hasattr(server, "_note_flags"):
            self.note_flags = server._note_flags
            server._note_flags = self.count_truncated
        if server.worker_timeout is not None or hasattr(server, "active_children"):
            self.service_actions = server.service_actions
            server.service_actions = self.beat_after_actions
        if server.max_requests is not None:
            jitter = int.from_bytes(os.urandom(4), "little") % (server.max_requests // 10 + 1)
            self.left = server.max_requests + jitter
            self.process_request = server.process_request
            server.process_request = self.count_request

    def beat_after_actions(self):
        """Stand in for service_actions()."""
        self.service_actions()
        self.beat()

    def count_truncated(self, flags):
        """Stand in for _note_flags()."""
        self.note_flags(flags)
        self.page[TRUNCATED] = options.truncated(self.server)

    def begin_child(self, parent):
        """Make the child that a ForkingMixIn has forked for a request end with the worker."""
        if die_with_parent() and os.getppid() != parent:
            os._exit(1)

    def count_request(self, request, client_address):
        """Stand in for process_request()."""
        self.left -= 1
        if self.left == 0:
            self.page[DEADLINE] = deadline_in(self.server.drain_timeout)
            self.tell(LEAVING)
            self.leave()
        self.process_request(request, client_address)

    def take_signals(self, mask):
        """Install the signal handlers of a worker, and unblock the signals."""
        for number in IGNORED_BY_WORKERS:  # never SIGTERM: one that waits already would be dropped
            signal.signal(number, signal.SIG_IGN)
        Handlers().install(signal.SIGTERM, lambda number, frame: self.leave())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - {signal.SIGTERM})

    def work(self, serve, poll_interval):
        """Serve, then finish the requests; return the exit status."""
        server = self.server
        turns = [LONGEST_TURN, poll_interval, server.worker_timeout and server.worker_timeout / 4]
        try:
            serve(min(turn for turn in turns if turn is not None))
        except BaseException:
            with contextlib.suppress(BaseException):  # the first one is the one that counts
                loop.serve_left(server)
            raise
        finished = self.finish_requests()
        server.worker_stopping()
        return 0 if finished else 1

    def ends_with_parent(self):
        """Make this process end when its parent does; return False if that has ended already."""
        if not die_with_parent():
            threading.Thread(target=self.watch_parent, daemon=True).start()
        return os.getppid() == self.process.parent

    def watch_parent(self):
        """Exit when the parent ends and so closes the channel, where the kernel does not do it."""
        with contextlib.suppress(OSError):
            self.parent.recv(1)
        os._exit(1)

    def leave(self):
        """Stop taking requests. A signal handler may call it: it waits for nothing."""
        if self.page[DRAINS]:
            serving.request_drain(self.server)
        else:
            serving.request_stop(self.server)
        kept.end(serving.requests_of(self.server))

    def beat(self):
        """Show the parent that the loop turns, and how many children a ForkingMixIn has."""
        self.page[HEARTBEAT] = time.monotonic()
        self.page[CHILDREN] = len(getattr(self.server, "active_children", None) or ())

    def stop_server(self):
        """Ask the parent to end the server."""
        self.tell(STOP_SERVER)

    def tell(self, message):
        """Send a message to the parent, which may have gone."""
        with contextlib.suppress(OSError):
            self.parent.send(message)

    def finish_requests(self):
        """Wait for the requests in progress; return whether all of them ended in time."""
        deadline = self.page[DEADLINE]
        finished = self.server._wait_for_requests(None if deadline == math.inf else deadline)
        if not finished:
            self.server._close_requests()
        return finished


def die_with_parent():
    """Have the kernel kill this process when its parent ends; return whether it can."""
    if libc is None:
        return False
    return libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) == 0


def exit_status(error):
    """Return the exit status of a SystemExit; print its text, as Python does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
