"""Counts what a server has done: requests, failures and the seconds of its handlers.

    class Server(StatisticsMixIn, PreforkMixIn, ThreadPoolTCPServer): ...

    server.statistics()["finished"]

Each process counts its own requests (_serving/dispatch.pyx). Every 64 requests, and about every
quarter of a second, it adds them to memory that all workers of a PreforkMixIn share.
"""

import mmap
import os
import tempfile
import threading
import time
import weakref

from socketserver_fast._serving import order
from socketserver_fast._serving.dispatch import BOUNDS, Figures

__all__ = ["StatisticsMixIn"]

OUTCOMES = ("finished", "failed", "disconnected")
LIMITS = ("request_timeout", "max_connections_per_client", "max_line")
# The shared memory: first what a Figures has (outcomes, sum of seconds, buckets), then the limits.
SUM = len(OUTCOMES)
FIRST_LIMIT = SUM + 1 + len(BOUNDS)
PENDING = 64  # requests until a process adds them to the shared figures
PERIOD = 0.25  # seconds after which it adds fewer
_all = weakref.WeakSet()


class StatisticsMixIn:
    """Counts the requests of a server and how long their handlers took.

    List it before the class that handles the requests, and after mix-ins such as TLSMixIn: it
    counts only requests that reach a handler. It counts from the construction of the server on,
    across any number of calls of serve_forever().
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._figures = _Shared(hasattr(self, "active_children"))

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        order.require_before_models(cls, StatisticsMixIn)
        order.require_stages(cls)
        order.call_after_requests(cls, StatisticsMixIn)

    def statistics(self):
        """Return the figures of all processes of the server, as a dict. Any thread may call it.

        "accepted" counts the requests that have reached a handler. Each is "in_progress", has
        "finished", has "failed" because its handler raised an exception, or its client has
        "disconnected". "limited" says how often each limit of a LimitsMixIn was reached. "seconds"
        is about the handlers that have ended: "sum" is their total time, and "buckets" counts those
        that took at most so many seconds. A UDPServer also has "datagrams_dropped", None where the
        system does not tell. The figures of worker processes are up to a second late.
        """
        in_progress = getattr(self, "requests_in_progress", 0)
        figures = self._figures.read(self)
        outcomes = {name: int(figures[place]) for place, name in enumerate(OUTCOMES)}
        limited = {name: int(figures[place]) for place, name in enumerate(LIMITS, FIRST_LIMIT)}
        counts = [int(count) for count in figures[SUM + 1:FIRST_LIMIT]]
        buckets = {bound: sum(counts[:place]) for place, bound in enumerate(BOUNDS, 1)}
        result = {"accepted": in_progress + sum(outcomes.values()), "in_progress": in_progress,
                  **outcomes, "limited": limited,
                  "seconds": {"sum": figures[SUM], "buckets": buckets}}
        if hasattr(self, "datagrams_dropped"):
            result["datagrams_dropped"] = self.datagrams_dropped
        return result

    def service_actions(self):
        """Add up what is pending, at most every quarter of a second."""
        super().service_actions()
        self._figures.look(self)

    def finish_request(self, request, client_address):
        """Handle the request and measure how long that takes."""
        shared = self._figures
        try:
            shared.own.handle(super().finish_request, request, client_address)
        finally:
            if shared.own.count >= shared.most:
                shared.add_up(self)

    def _wait_for_requests(self, deadline):
        """Wait, then add up the last requests, also in a worker process that is about to end."""
        finished = super()._wait_for_requests(deadline)
        self._figures.add_up(self)
        return finished


order.declare_periodic(StatisticsMixIn)


class _Shared:
    """Holds the figures of all processes, and those that this process has not added to them yet.

    `lock` guards them against other threads, a lock on `file` against other processes. The system
    releases the lock on the file when a process dies.
    """

    def __init__(self, at_once):
        self.shared = memoryview(mmap.mmap(-1, 8 * (FIRST_LIMIT + len(LIMITS)))).cast("d")
        with tempfile.TemporaryFile() as file:
            self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self.most = 1 if at_once else PENDING  # a child of a ForkingMixIn ends after one request
        self.limited = dict.fromkeys(LIMITS, 0)  # what this process has added so far
        self.forget()
        _all.add(self)

    def forget(self):
        """Begin with nothing pending. A child process does so: its parent adds up what was."""
        self.lock = threading.RLock()
        self.own = Figures()
        self.added_at = time.monotonic()

    def look(self, server):
        """Add up what is pending unless that was done just now."""
        if time.monotonic() - self.added_at >= PERIOD:
            self.add_up(server)

    def add_up(self, server):
        """Add what is pending to the shared figures."""
        with self.lock:
            self.added_at = time.monotonic()
            limits = vars(server).get("_limits")
            if not self.own.count and limits is None:
                return
            with self.alone():
                for place, value in enumerate(self.own.take()):
                    self.shared[place] += value
                if limits is not None and limits.process == os.getpid():
                    self.add_limits(limits.counts)

    def add_limits(self, counts):
        """Add the counts of the limits since this process last added them."""
        for place, name in enumerate(LIMITS, FIRST_LIMIT):
            self.shared[place] += counts[name] - self.limited[name]
            self.limited[name] = counts[name]

    def alone(self):
        """Return a context manager that keeps other processes from adding."""
        return _Locked(self.file)

    def read(self, server):
        """Return the figures of all processes, as a list."""
        self.add_up(server)
        with self.lock, self.alone():
            return list(self.shared)


class _Locked:
    """Locks a file against other processes. Does nothing on Windows, where none share it."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        if fcntl is not None:
            fcntl.lockf(self.file, fcntl.LOCK_EX)

    def __exit__(self, *details):
        if fcntl is not None:
            fcntl.lockf(self.file, fcntl.LOCK_UN)


try:
    import fcntl
except ImportError:
    fcntl = None


def _forget_all():
    """Forget what is pending, in the child of a fork()."""
    for figures in _all:
        figures.limited = dict.fromkeys(LIMITS, 0)
        figures.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
