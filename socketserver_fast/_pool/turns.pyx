# cython: language_level=3, freethreading_compatible=True
"""The workers of a pool and which of them may run: max_workers, not counting who waits for its
client.

A worker has its turn from when it takes a request. If it waits for its client for longer than a
moment, its turn is lent to another worker. When that wait ends it gets a turn back. Nobody keeps
the time of a wait that is short: who needs a turn while none is free looks around until one is, see
look(). A worker that runs while others need a turn passes its own on after its next wait, however
short, so that busy connections take turns. If all that run are stuck in something else for
stall_seconds, one more may run.

Turns are given in the order in which they are asked for, new requests included. A worker that comes
back from a long wait has a head start.

A long wait costs two uses of the pool's lock, a short one a few instructions (bench: pool_keep_10).
"Locked" in the first line of a method says that its caller holds that lock.
"""

import collections
import os
import sys
import threading
import time

cimport cython

from socketserver_fast._serving.serving cimport requests_of
from socketserver_fast._sockets.wait cimport has_waited

from socketserver_fast._pool import stalls, threads
from socketserver_fast._serving import serving

cdef object monotonic = time.monotonic
cdef object gettrace = threading.gettrace
cdef object getprofile = threading.getprofile

MOMENT = 0.01  # seconds between two looks; a wait that lasts from one to the next is long
BRIEF = 0.001  # the same after all workers were found to wait: then looking holds up nobody
cdef double HEAD_START = 0.05  # seconds

cdef enum:
    WITHOUT_STALL_SECONDS = 1  # with stall_seconds None: after so long it is said, at least
    BRIEF_LOOKS = 3            # so many since all workers were found to wait
    LOOKS_UNTIL_ALL_ARE_LENT = 3  # the first sees the waits, the second that they are long
    LONGEST_PAUSE = 1          # seconds between two looks that are about the same stall


cdef tuple trace_and_profile(tuple present):
    """Set in this thread what threading.settrace() and setprofile() have set for new ones.

    Returns both. `present` is what it returned before.
    """
    cdef tuple hooks = (gettrace(), getprofile())
    if hooks[0] is not present[0]:
        sys.settrace(hooks[0])
    if hooks[1] is not present[1]:
        sys.setprofile(hooks[1])
    return hooks


cdef class Workers:
    """Starts and wakes the worker threads of one server.

    `lock` guards everything; `changed` is notified when a worker has nothing to do or has ended.
    `closing` are threads that wait in threads.join(), and workers that it does not wait for.
    `idle` are the workers that sleep; the last of them fell asleep last. `make_worker(server, pool,
    number)` makes a worker: a threading.Thread that calls work(), with the attributes `item`, which
    it serves, `renamed`, which is None between two items, and `awake`, a lock that it sleeps on.
    Its enlist() is called when it has started.
    """

    def __init__(self, make_worker):
        self.make_worker = make_worker
        self.reset()

    cpdef reset(self):
        """Begin without workers, as in the child of a fork(): they stayed with the parent."""
        # A signal handler that closes the server may run in the thread that holds it.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.workers, self.idle, self.closing = [], [], []
        self.watched = 0
        self.generation += 1

    cpdef int tell(self) except -1:
        """Locked: wake those that wait for a change."""
        if self.watched:
            self.changed.notify_all()
        return 0

    cpdef int await_change(self, seconds=None) except -1:
        """Locked: wait for a change, at most so many seconds."""
        self.watched += 1
        try:
            self.changed.wait(seconds)
        finally:
            self.watched -= 1
        return 0

    cdef object hire(self, server):
        """Locked: return a new worker, which counts already. See threads.start()."""
        self.number += 1
        worker = self.make_worker(server, self, self.number)
        self.workers.append(worker)
        return worker

    cpdef dismiss(self, worker):
        """Locked: stop counting a worker."""
        self.workers.remove(worker)
        self.tell()

    cdef int wake_one(self) except -1:
        """Locked: wake the worker that fell asleep last."""
        self.idle.pop().awake.release()
        return 0

    cdef bint sleep(self, worker, seconds) except -1:
        """Sleep until woken; return true if nobody did in so many seconds."""
        if worker.awake.acquire(timeout=seconds):
            return False
        with self.lock:
            if worker in self.idle:
                self.idle.remove(worker)
                return True
        worker.awake.acquire()  # woken in the last moment
        return False


@cython.final
cdef class Turn:
    """The turn of one worker: it has it, has lent it, or waits to get it back."""

    def __cinit__(self, Turns pool, server, worker):
        self.pool, self.server, self.worker = pool, server, worker
        self.waits.owner = <void *>self
        self.waits.resume = resume

    cdef int resume(self) except -1:
        """Wait until the worker may run again. It calls this when a long wait has ended, or a short
        one when its turn was due."""
        cdef Turns pool = self.pool
        cdef Py_ssize_t place = 0
        with pool.lock:
            self.waits.due = False
            self.since = monotonic() - HEAD_START
            if self in pool.running:
                if not pool.give_way(self):
                    return 0
                self.since += HEAD_START
            pool.returning.append(self)
            pool.let_return(self.server)
            if pool.serving and pool.free(self.server):  # for a new request
                pool.tell()
                serving.wake(self.server)
            place = max(1, len(pool.returning))
            if pool.returning:
                pool.be_attentive(self.server)
        # All of them together look as often as one alone would, if the serving thread cannot.
        while not self.worker.awake.acquire(timeout=MOMENT * place):
            with pool.lock:
                pool.look(self.server, True)
                place = max(1, min(place, len(pool.returning)))
            pool.report(self.server)
        return 0


cdef int resume(void *turn) except -1:
    return (<Turn>turn).resume()


cdef class Turns(Workers):
    """Decides which of the workers may run.

    The turns in `running` are taken. Those in `returning` wait for one after a wait for their
    client, in the order in which they came; `lent` is how many are in such a wait or return from
    one. `pending` are requests that the serving thread has accepted and nobody serves yet. `queued`
    is since when a request waits there or in the kernel because no turn is free, or 0.
    """

    cpdef reset(self):
        Workers.reset(self)
        self.running = set()
        self.returning = collections.deque()
        self.lent = self.extra = self.limit = self.brief = 0
        self.queued = 0
        self.serving = self.accepting = self.leading = self.coming = self.attentive = False
        self.pending = collections.deque()
        self.reported = set()
        self.stalled = None

    cdef bint free(self, server) except -1:
        """Locked: return whether one more may run."""
        return len(self.running) < self.limit

    cdef bint may_hire(self, server) except -1:
        """Locked: return whether there may be one more worker."""
        return (len(self.workers) - self.lent < self.limit
                and len(self.workers) < self.most(server))

    cdef object most(self, server):
        """Return how many connections there may be."""
        most = self.setting(server, "max_connections")
        return self.descriptors if most is None else most

    cdef object setting(self, server, str name):
        """Return an attribute of the server, or its default if unpatch() has just removed it."""
        try:
            return getattr(server, name)
        except AttributeError:
            return getattr(self.defaults, name)

    cdef int set_limit(self, server) except -1:
        """Locked: see how many may run; max_workers may have changed."""
        cdef Py_ssize_t workers = self.setting(server, "max_workers")
        if self.extra and len(self.running) < workers:
            self.extra = 0
        self.limit = workers + self.extra
        return 0

    cdef int end_turn(self, server, Turn turn) except -1:
        """Locked: the worker has finished a request and has no other."""
        self.running.discard(turn)
        turn.waits.due = False
        self.set_limit(server)
        if self.returning:
            self.let_return(server)
        return 0

    cdef int let_return(self, server) except -1:
        """Locked: give the free turns to those that wait for one.

        After serve_forever() they get what they need to finish: no other request is taken then.
        """
        cdef Turn turn
        while self.returning and (not self.serving or self.free(server)):
            turn = self.returning[0]
            if self.serving and self.new_first(server, turn.since):
                break
            self.returning.popleft()
            self.running.add(turn)
            self.lent -= 1
            turn.worker.awake.release()
        return 0

    cdef bint new_first(self, server, double since) except -1:
        """Locked: return whether the last free turn is for a new request, rather than for a worker
        that has asked for it at that time."""
        return (0 < self.queued < since and len(self.running) == self.limit - 1
                and (len(self.workers) - self.lent >= self.limit or self.may_hire(server)))

    cdef bint give_way(self, Turn turn) except -1:
        """Locked: pass on a turn that is due if anybody needs it; return whether that is so."""
        if not self.serving or not self.returning and not self.queued:
            return False
        self.lend(turn)
        self.progress += 1
        return True

    cdef int look(self, server, bint wanted) except -1:
        """Locked: lend the turns of workers that wait for their clients, if a moment has passed.

        `wanted`: a request or a worker waits for a turn. To be followed by report().
        """
        cdef double now = monotonic()
        cdef double passed = now - self.looked
        if 0 <= passed < self.moment() * 0.8:
            return 0
        self.looked = now
        self.set_limit(server)
        if self.lend_turns(wanted) or not wanted or passed > LONGEST_PAUSE or self.has_room(server):
            self.moved = now
        else:
            self.notice_stall(server, now)
        return self.let_return(server)

    cdef double moment(self) except -1:
        """Return the seconds until the next look."""
        return BRIEF if self.brief > 0 else MOMENT

    cdef bint has_room(self, server) except -1:
        """Locked: return whether a worker is there, or may be, for one request more."""
        return self.free(server) and (len(self.idle) > 0 or self.may_hire(server))

    cdef bint lend_turns(self, bint wanted) except -1:
        """Locked: lend the turns of those whose wait is long; return whether there were any."""
        cdef int before = self.lent
        cdef bint all_wait = len(self.running) > 0
        for turn in list(self.running):
            (<Turn>turn).waits.due = wanted
            if has_waited(&(<Turn>turn).waits):
                self.lend(turn)
            elif not (<Turn>turn).waits.seen & 1:
                all_wait = False
        if all_wait:
            self.brief = BRIEF_LOOKS
        elif self.brief > 0:
            self.brief -= 1
        return self.lent > before

    cdef int lend(self, Turn turn) except -1:
        self.lent += 1
        self.running.remove(turn)
        return 0

    cdef int notice_stall(self, server, double now) except -1:
        """Locked: let one more run if no request was finished for long."""
        seconds = self.setting(server, "stall_seconds")
        if self.progress != self.progress_before:
            self.progress_before, self.moved = self.progress, now
        elif now - self.moved >= (WITHOUT_STALL_SECONDS if seconds is None else seconds):
            self.moved = now
            if bool(self.running) not in self.reported:
                self.reported.add(bool(self.running))
                self.stalled = [(<Turn>turn).worker for turn in self.running]
            if (seconds is not None and not self.free(server)
                    and len(self.workers) < self.most(server)):
                self.extra += 1
                self.limit += 1
        return 0

    cdef int report(self, server) except -1:
        """Log what notice_stall() has noticed, if anything. Not locked: logging may wait."""
        if self.stalled is None:
            return 0
        with self.lock:  # another thread may report, too
            workers, self.stalled = self.stalled, None
        if workers is not None:
            stalls.report(server, workers, self.most(server))
        return 0

    # The leader and the serving thread.

    cdef object rouse(self, server):
        """Locked: wake an idle worker, or return a new one that is to be started."""
        if self.idle:
            self.wake_one()
        elif self.may_hire(server):
            return self.hire(server)
        elif self.leading:
            self.interrupt()
        elif self.pending and len(self.workers) < self.most(server):
            return self.hire(server)  # it looks for a turn; those that run may do so for ever
        return None

    cdef int interrupt(self) except -1:
        """Make the leader look around, the next one if nobody leads. Any thread may call this."""
        os.write(self.waking_end, b"\0")
        return 0

    cdef object be_attentive(self, server):
        """Locked: have the serving thread look for a free turn, since nobody else can."""
        self.full = monotonic()
        if not self.attentive:
            self.attentive = True
            serving.wake(server)
        return None

    def staff(self, server):
        """Start what is missing of min_workers, one at least; return whether there is a worker."""
        while self.accepting:
            with self.lock:
                if len(self.workers) >= min(max(self.setting(server, "min_workers"), 1),
                                            self.setting(server, "max_workers")):
                    self.call_idle_worker(server)
                    return True
                worker = self.hire(server)
            if not threads.start(self, worker):
                break
        return len(self.workers) > 0

    cdef int call_idle_worker(self, server) except -1:
        """Locked: have a worker of an earlier serve_forever() wait for the listener."""
        self.set_limit(server)
        if self.idle and self.free(server) and not self.leading and not self.coming:
            self.coming = True
            self.wake_one()
        return 0

    cpdef bint can_serve(self, server) except -1:
        """Return whether a worker can serve at once; if not, look around and wait for a moment."""
        successor = None
        with self.lock:
            self.set_limit(server)
            if self.has_turn(server):
                return True
            self.note_queued(True)
            self.look(server, True)
            if self.pending and self.has_room(server):
                successor = self.rouse(server)
            if not self.has_turn(server):
                self.await_change(self.moment())
        self.report(server)
        if successor is not None and not threads.start(self, successor):
            self.queued = 0
        return False

    def accepted(self):
        """Note that the serving thread has accepted the request for which it has waited."""
        with self.lock:
            self.note_queued(bool(self.pending))

    cdef bint has_turn(self, server) except -1:
        """Locked: return whether a worker is or can be there for one request more."""
        cdef Turn first = self.returning[0] if self.returning else None
        return (not self.pending and (first is None or self.new_first(server, first.since))
                and self.has_room(server))

    cdef int note_queued(self, bint queued) except -1:
        """Locked: note whether a new request needs a turn."""
        if not queued:
            self.queued = 0
        elif self.queued == 0:
            self.queued = monotonic()
        return 0

    def submit(self, server, request, client_address, context):
        """Have a worker serve this: an idle one, a new one, or the first that is free.

        Raises RuntimeError if there is no worker and the system does not start one.
        """
        requests_of(server).claim(request)
        if not self.hand_over(server, (request, client_address, context)):
            requests_of(server).release(request)
            raise RuntimeError("can't start a worker thread")

    cpdef bint hand_over(self, server, item) except -1:
        """Have a worker serve a request that is claimed already; return false if there is none."""
        with self.lock:
            self.pending.append(item)
            self.set_limit(server)
            worker = self.rouse(server)
            if not self.free(server):
                self.note_queued(True)
                self.be_attentive(server)
        return worker is None or threads.start(self, worker) or not self.withdraw(server, item)

    cdef bint withdraw(self, server, item) except -1:
        """Take back a request if there is no worker for it; return whether that was so.

        Workers that wait for their clients are none: they may do so for ever.
        """
        cdef int _
        for _ in range(LOOKS_UNTIL_ALL_ARE_LENT):
            with self.lock:
                if item not in self.pending:
                    return False
                if len(self.workers) <= self.lent and not self.returning:
                    self.pending.remove(item)
                    return True
                self.look(server, True)
                self.await_change(MOMENT)
        return False
