"""What a server has done: requests, failures and the seconds of its handlers.

    class Server(StatisticsMixIn, PreforkMixIn, ThreadPoolTCPServer): ...

    server.statistics()["finished"]

Each process counts for itself (_serving/dispatch.pyx), and adds that up every 64 requests, and at
the turns of the loop, in memory that all workers of a PreforkMixIn share.
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
# What a Figures has comes first: outcomes, the seconds altogether, classes. Then the limits.
SUM = len(OUTCOMES)
FIRST_LIMIT = SUM + 1 + len(BOUNDS)
PENDING = 64  # requests that are added up at a time
PERIOD = 0.25  # seconds after which fewer are
_all = weakref.WeakSet()


class StatisticsMixIn:
    """Counts the requests of a server and how long their handlers took.

    Stands before the class that says how requests are served, and behind a TLSMixIn and its like:
    only what comes to a handler is counted. It counts from the construction on, over any number of
    serve_forever().
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
        """The figures of all processes of the server, as a dict. Any thread may ask.

        "accepted" requests have come to a handler: they are "in_progress", have "finished", have
        "failed" by an exception of the handler, or their client was "disconnected". "limited" has
        how often each limit of a LimitsMixIn was met. "seconds" are those of handlers that have
        ended: their "sum", and under "buckets" how many took at most so long. A UDPServer also has
        "datagrams_dropped", None where the system does not tell. What workers have done is added up
        at their loop's turns, at the latest a second later.
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
        """Add up what is pending, now and then."""
        super().service_actions()
        self._figures.look(self)

    def finish_request(self, request, client_address):
        """Handle the request, and take the time."""
        shared = self._figures
        try:
            shared.own.handle(super().finish_request, request, client_address)
        finally:
            if shared.own.count >= shared.most:
                shared.add_up(self)

    def _wait_for_requests(self, deadline):
        """Add up the last ones, in a worker that is about to end, too."""
        finished = super()._wait_for_requests(deadline)
        self._figures.add_up(self)
        return finished


order.declare_periodic(StatisticsMixIn)


class _Shared:
    """The figures of all processes of a server, and its own, which this one has not yet added.

    `lock` guards them among threads, a lock on `file` among processes, which the end of a process
    undoes.
    """

    def __init__(self, at_once):
        self.shared = memoryview(mmap.mmap(-1, 8 * (FIRST_LIMIT + len(LIMITS)))).cast("d")
        with tempfile.TemporaryFile() as file:
            self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self.most = 1 if at_once else PENDING  # a child of a ForkingMixIn ends after one request
        self.limited = dict.fromkeys(LIMITS, 0)  # what was added of this process
        self.forget()
        _all.add(self)

    def forget(self):
        """Begin with nothing pending, as does a child process: its parent adds that up."""
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
        """Add what this process has not added of them."""
        for place, name in enumerate(LIMITS, FIRST_LIMIT):
            self.shared[place] += counts[name] - self.limited[name]
            self.limited[name] = counts[name]

    def alone(self):
        """A context manager: no other process adds meanwhile."""
        return _Locked(self.file)

    def read(self, server):
        """The figures of all processes, as a list."""
        self.add_up(server)
        with self.lock, self.alone():
            return list(self.shared)


class _Locked:
    """A file that other processes lock, too. Those of Windows do not share it."""

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
    """In the child of a fork()."""
    for figures in _all:
        figures.limited = dict.fromkeys(LIMITS, 0)
        figures.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
