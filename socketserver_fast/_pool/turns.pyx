# cython: language_level=3, freethreading_compatible=True
"""Which workers of a pool may run: max_workers of them, not counting who waits for its client.

A worker has its turn from when it takes a request. If it waits for its client for longer than a
moment, its turn is lent to another worker. When that wait ends it gets a turn back, and does so
before a new request gets one. Nobody keeps the time of a wait that is short: who needs a turn while
none is free looks around until one is, see look(). If all that run are stuck in something else for
stall_seconds, one more may run.

A long wait costs two uses of the pool's lock, a short one a few instructions (bench: pool_keep_10).
"""

import collections
import sys
import time
import traceback

cimport cython

from socketserver_fast._sockets.wait cimport has_waited

from socketserver_fast._sockets.log import logger

cdef object monotonic = time.monotonic
cdef object current_frames = getattr(sys, "_current_frames", dict)

MOMENT = 0.01  # seconds between two looks; a wait that lasts from one to the next is long
BRIEF = 0.001  # the same after all workers were found to wait: then looking holds up nobody

cdef enum:
    WITHOUT_STALL_SECONDS = 1  # with stall_seconds None: after so long it is said, at least
    BRIEF_LOOKS = 3            # so many since all workers were found to wait
    LONGEST_PAUSE = 1          # seconds between two looks that are about the same stall


@cython.final
cdef class Turn:
    """The turn of one worker, which may be its own, lent, or waited for."""

    def __cinit__(self, Turns pool, server, worker):
        self.pool, self.server, self.worker = pool, server, worker
        self.waits.owner = <void *>self
        self.waits.resume = resume

    cdef int resume(self) except -1:
        """Called by the worker when a long wait has ended: wait until it may run."""
        cdef Turns pool = self.pool
        with pool.lock:
            pool.returning.append(self)
            pool.let_return(self.server)
        # All of them together look as often as one alone would.
        while not self.worker.awake.acquire(timeout=MOMENT * max(1, len(pool.returning))):
            with pool.lock:
                pool.look(self.server, True)
            pool.report(self.server)
        return 0


cdef int resume(void *turn) except -1:
    return (<Turn>turn).resume()


cdef class Turns(Workers):
    """The workers of one server and who of them may run. The lock guards everything.

    `running` have a turn, `returning` wait for one after a wait for their client, first come first
    served; `lent` is how many are in such a wait or return from one.
    """

    cpdef reset(self):
        Workers.reset(self)
        self.running = set()
        self.returning = collections.deque()
        self.lent = self.extra = self.limit = self.brief = 0
        self.serving = False
        self.reported = set()
        self.stalled = None

    cdef bint free(self, server) except -1:
        """With the lock: whether one more may run."""
        return len(self.running) < self.limit

    cdef bint may_hire(self, server) except -1:
        """With the lock: whether there may be one more worker."""
        return (len(self.workers) - self.lent < self.limit
                and len(self.workers) < self.most(server))

    cdef object most(self, server):
        """How many connections there may be."""
        most = self.setting(server, "max_connections")
        return self.descriptors if most is None else most

    cdef object setting(self, server, str name):
        """An attribute of the server; its default where unpatch() has taken it away meanwhile."""
        try:
            return getattr(server, name)
        except AttributeError:
            return getattr(self.defaults, name)

    cdef int set_limit(self, server) except -1:
        """With the lock: see how many may run; max_workers may have changed."""
        cdef Py_ssize_t workers = self.setting(server, "max_workers")
        if self.extra and len(self.running) < workers:
            self.extra = 0
        self.limit = workers + self.extra
        return 0

    cdef int end_turn(self, server, Turn turn) except -1:
        """With the lock: the worker has finished a request and has no other."""
        self.running.discard(turn)
        self.set_limit(server)
        if self.returning:
            self.let_return(server)
        return 0

    cdef int let_return(self, server) except -1:
        """With the lock: give what turns are free to those that wait for one.

        After serve_forever() they get what they need to finish: no other request is taken then.
        """
        cdef Turn turn
        while self.returning and (not self.serving or self.free(server)):
            turn = self.returning.popleft()
            self.running.add(turn)
            self.lent -= 1
            turn.worker.awake.release()
        return 0

    cdef int look(self, server, bint wanted) except -1:
        """With the lock: lend the turns of who waits for its client, if a moment has passed.

        `wanted`: a request or a worker waits for a turn. To be followed by report().
        """
        cdef double now = monotonic()
        cdef double passed = now - self.looked
        if 0 <= passed < self.moment() * 0.8:
            return 0
        self.looked = now
        self.set_limit(server)
        if self.lend_turns() or not wanted or passed > LONGEST_PAUSE or self.has_room(server):
            self.moved = now
        else:
            self.notice_stall(server, now)
        return self.let_return(server)

    cdef double moment(self) except -1:
        """Return the seconds until the next look."""
        return BRIEF if self.brief > 0 else MOMENT

    cdef bint has_room(self, server) except -1:
        """With the lock: whether a worker is there, or may be, for one request more."""
        return self.free(server) and (len(self.idle) > 0 or self.may_hire(server))

    cdef bint lend_turns(self) except -1:
        """With the lock: whether anybody's wait is long and its turn was lent."""
        cdef int before = self.lent
        cdef bint all_wait = len(self.running) > 0
        for turn in list(self.running):
            if has_waited(&(<Turn>turn).waits):
                self.lend(turn)
            elif not (<Turn>turn).waits.seen & 1:
                all_wait = False
        self.brief = BRIEF_LOOKS if all_wait else max(self.brief - 1, 0)
        return self.lent > before

    cdef int lend(self, Turn turn) except -1:
        self.lent += 1
        self.running.remove(turn)
        return 0

    cdef int notice_stall(self, server, double now) except -1:
        """With the lock: let one more run if no request was finished for long."""
        cdef long served = self.count_served()
        seconds = self.setting(server, "stall_seconds")
        if served != self.served:
            self.served, self.moved = served, now
        elif now - self.moved >= (WITHOUT_STALL_SECONDS if seconds is None else seconds):
            self.moved = now
            if bool(self.running) not in self.reported:
                self.reported.add(bool(self.running))
                self.stalled = list(self.running)
            if (seconds is not None and not self.free(server)
                    and len(self.workers) < self.most(server)):
                self.extra += 1
                self.limit += 1
        return 0

    cdef long count_served(self) except -1:
        """With the lock: what changes when one of those that run has finished a request."""
        cdef long served = 0
        for turn in self.running:
            served += (<Turn>turn).served
        return served

    cdef int report(self, server) except -1:
        """Without the lock: log that requests wait for long, and why.

        Each of the two reasons is said once for each serve_forever().
        """
        if self.stalled is None:
            return 0
        with self.lock:  # another thread may report, too
            turns, self.stalled = self.stalled, None
        if turns is None:
            return 0
        name = type(server).__name__
        if not turns:
            logger().warning("%s: max_connections (%d) are open and more clients wait",
                             name, self.most(server))
            return 0
        frame = current_frames().get((<Turn>turns[0]).worker.ident)
        try:
            place = "".join(traceback.format_stack(frame)) if frame is not None else "?"
        except Exception:
            place = "?"  # out of descriptors or memory
        logger().warning(
            "%s: all %d workers are busy, none has finished a request for long, and clients wait; "
            "raise max_workers, or let the handlers wait for nothing but their clients. One of "
            "them is here:\n%s", name, len(turns), place)
        return 0
