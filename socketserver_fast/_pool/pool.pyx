# cython: language_level=3, freethreading_compatible=True
"""The workers of a ThreadPoolMixIn: who waits for a request, who serves it, and when they end.

Hot is the way from one request to the next (bench: pool_close_16). A worker that has finished
tries the listener again before it sleeps, so that under load nothing is handed from thread to
thread. Of the idle workers one, the leader, waits for the listener; before it serves what it took
it lets another one wait. The others sleep on a lock each, and who fell asleep last is woken first.

A request is in one place at any time: in the kernel, in `pending`, or with a worker.
"""

import collections
import contextvars
import sys
import threading
import time
import weakref

cimport cython

from socketserver_fast._pool.listener cimport SharedListener, unchanged
from socketserver_fast._pool.turns cimport Turn, Turns
from socketserver_fast._sockets.wait cimport show_waits

from socketserver_fast._serving import serving
from socketserver_fast._serving.serving cimport requests_of, stop_requested
from socketserver_fast._pool.turns import MOMENT

cdef object monotonic = time.monotonic
cdef object gettrace = threading.gettrace
cdef object getprofile = threading.getprofile
cdef object pools = weakref.WeakSet()

# A worker that finishes takes the next request by itself, and each look makes one wait for the GIL.
cdef double WHILE_REQUESTS_FINISH = 0.05
cdef double ATTENTIVE_SECONDS = 0.5  # after the workers were all busy, it may be so again

cdef enum:
    LOOKS_UNTIL_ALL_ARE_LENT = 3  # the first sees the waits, the second that they are long


cdef object new_context():
    """What a new thread would run in; since Python 3.14 that may be a copy of the caller's."""
    if getattr(sys.flags, "thread_inherit_context", False):
        return contextvars.copy_context()
    return contextvars.Context()


cdef tuple trace_and_profile(tuple present):
    """What threading.settrace() and setprofile() have set for new threads, set in this one.

    `present` is what this returned before.
    """
    cdef tuple hooks = (gettrace(), getprofile())
    if hooks[0] is not present[0]:
        sys.settrace(hooks[0])
    if hooks[1] is not present[1]:
        sys.setprofile(hooks[1])
    return hooks


@cython.final
cdef class Pool(Turns):
    """The workers of one server and what they serve."""

    cdef object pending, context, thread, poll_interval
    cdef SharedListener listener
    cdef bint leading    # a worker waits for the listener
    cdef bint coming     # another one was woken or started for that
    cdef readonly bint accepting  # the workers take requests from the listener
    cdef bint attentive  # the serving thread looks after each moment whether a turn is free
    cdef long served_before  # when it looked last
    cdef double full     # when nobody could wait for the listener
    cdef object __weakref__

    def __init__(self, make_worker, defaults):
        Turns.__init__(self, make_worker)
        self.defaults = defaults
        self.listener = SharedListener()
        self.descriptors = sys.maxsize
        pools.add(self)

    cpdef reset(self):
        Turns.reset(self)
        self.pending = collections.deque()
        self.leading = self.coming = self.accepting = self.attentive = False

    # serve_forever() begins and ends; see accepting.py.

    def begin(self, poll_interval, descriptors):
        """serve_forever() begins in this thread: from now on idle workers stay.

        `descriptors` is how many connections there may be if max_connections is None.
        """
        with self.lock:  # workers of an earlier serve_forever() may still be busy
            self.poll_interval, self.descriptors = poll_interval, descriptors
            self.thread = threading.current_thread()
            self.reported.clear()
            self.serving = True

    def start_accepting(self, server):
        """Let the workers take requests from the listener; false where that cannot be."""
        if not unchanged(server) or not self.listener.open(server):
            return False
        self.use_context(new_context())
        self.accepting = True
        return True

    def stop_accepting(self):
        """Take nothing more from the listener. Any thread may call this; it does not wait."""
        with self.lock:
            if self.accepting:
                self.accepting = False
                self.listener.interrupt()

    def give_back_listener(self, server):
        """After stop_accepting(): wait until no worker waits for the listener any more."""
        with self.lock:
            while self.leading:
                self.await_change()
        self.listener.close(server)

    def end(self):
        """serve_forever() has ended or the server closes: workers end when nothing is pending."""
        self.stop_accepting()
        with self.lock:
            self.serving = False
            self.wake_all()
            self.let_return(None)

    # Requests that the serving thread accepts and hands over.

    def wait_until_free(self, server):
        """Wait until a worker can serve at once; False if the server's turn is over before."""
        started = monotonic()
        while not self.can_serve(server):
            if self.serving and (stop_requested(server)
                                 or self.overdue(monotonic() - started)):
                return False
        return True

    cdef bint can_serve(self, server) except -1:
        """Return whether a worker can serve at once; if not, look around and wait for a moment."""
        successor = None
        with self.lock:
            self.set_limit(server)
            if self.has_turn(server):
                return True
            self.look(server, True)
            if self.pending and self.has_room(server):
                successor = self.rouse(server)
            if not self.has_turn(server):
                self.await_change(self.moment())
        self.report(server)
        if successor is not None:
            self.start(successor)
        return False

    cdef bint has_turn(self, server) except -1:
        """With the lock: whether a worker is or can be there for one request more."""
        return not self.pending and not self.returning and self.has_room(server)

    cdef bint overdue(self, seconds) except -1:
        """Return whether service_actions() is due after so long."""
        return self.poll_interval is not None and seconds >= self.poll_interval

    def submit(self, server, request, client_address):
        """Have a worker serve this: an idle one, a new one, or the first that will be free.

        RuntimeError if there is no worker and the system does not start one.
        """
        item = request, client_address, new_context()
        requests_of(server).claim(request)
        with self.lock:
            self.pending.append(item)
            self.set_limit(server)
            worker = self.rouse(server)
            if not self.free(server):
                self.be_attentive(server)
        if worker is not None and not self.start(worker) and self.withdraw(server, item):
            requests_of(server).release(request)
            raise RuntimeError("can't start a worker thread")

    cdef bint withdraw(self, server, item) except -1:
        """Take back a request that no worker is there for. Those with a silent client are not."""
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

    def staff(self, server):
        """Start what is missing of min_workers, one at least; whether there is a worker."""
        while self.accepting:
            with self.lock:
                if len(self.workers) >= min(max(self.setting(server, "min_workers"), 1),
                                            self.setting(server, "max_workers")):
                    self.call_idle_worker(server)
                    return True
                worker = self.hire(server)
            if not self.start(worker):
                break
        return len(self.workers) > 0

    cdef int call_idle_worker(self, server) except -1:
        """With the lock: have a worker of an earlier serve_forever() wait for the listener."""
        self.set_limit(server)
        if self.idle and self.free(server) and not self.leading and not self.coming:
            self.coming = True
            self.wake_one()
        return 0

    cdef object rouse(self, server):
        """With the lock: wake an idle worker, or return a new one that is to be started."""
        if self.idle:
            self.wake_one()
        elif self.may_hire(server):
            return self.hire(server)
        elif self.leading:
            self.listener.interrupt()
        return None

    # What a worker does.

    def work(self, server, worker):
        """The life of a worker. What a request raises ends it, and another one takes its place."""
        cdef int generation = self.generation
        cdef tuple hooks = (None, None)
        cdef Turn turn = Turn(self, server, worker)
        self.count_in(worker)
        show_waits(&turn.waits)
        try:
            worker.item = self.next_item(server, turn, True)
            while worker.item is not None:
                hooks = trace_and_profile(hooks)
                self.serve_item(server, <tuple>worker.item)
                if generation != self.generation:
                    return  # in the child of a fork(), which has no workers
                self.follow(server, turn)
        except BaseException:
            if generation == self.generation:
                self.replace(server, turn)
            raise
        finally:
            show_waits(NULL)

    cdef serve_item(self, server, tuple item):
        request, client_address, context = item
        context.run(server.process_request_thread, request, client_address)

    cdef follow(self, server, Turn turn):
        """After one request the next. The first one counts as in progress until that is taken:
        drain() shall not find a moment between two in which there is none."""
        worker = turn.worker
        request = (<tuple>worker.item)[0]
        turn.served += 1
        try:
            item = None
            if self.accepting and not self.pending and not self.returning and not self.extra:
                item = self.item(server, self.listener.take_at_once(server))
        finally:
            requests_of(server).release(request)
        worker.item = worker.renamed = request = None
        if item is None:
            worker.item = self.next_item(server, turn, False)
        else:
            worker.item = item
            self.let_another_lead(server, False)

    cdef replace(self, server, Turn turn):
        if turn.worker.item is not None:
            requests_of(server).release((<tuple>turn.worker.item)[0])
        with self.lock:
            self.dismiss(turn.worker)
            self.end_turn(server, turn)
            needed = self.pending or self.accepting and not self.leading
            successor = self.rouse(server) if needed else None
        if successor is not None and not self.start(successor):
            serving.wake(server)  # the serving thread sees to it

    cdef object next_item(self, server, Turn turn, bint roused):
        """Wait for what the worker serves next; None: it ends. `roused`: woken, started for it."""
        cdef bint leading = False, bored = False
        worker = turn.worker
        while True:
            item = None
            with self.lock:
                self.coming = self.coming and not roused
                self.end_turn(server, turn)
                if self.pending and not self.free(server):
                    self.look(server, True)
                leading = (self.accepting and not self.leading and not self.pending
                           and self.free(server))
                if self.pending and self.free(server):
                    item = self.pending.popleft()
                    self.running.add(turn)
                elif self.superfluous(server, bored):
                    self.leave(worker)
                    return None
                else:
                    seconds = self.rest(server, worker, leading)
            if item is None:
                if leading:
                    item = self.lead(server, turn)
                else:
                    bored = self.sleep(worker, seconds) and not self.pending
                roused = True
                self.report(server)
            if item is not None:
                self.let_another_lead(server, roused)
                return item

    cdef let_another_lead(self, server, bint roused):
        """Called by a worker that goes to serve: somebody shall wait for the next request."""
        if not self.accepting or not roused and (self.leading or self.coming):
            return
        successor = None
        with self.lock:
            self.coming = self.coming and not roused
            if self.accepting and not self.leading and not self.coming:
                successor = self.call_leader(server)
        if successor is not None and not self.start(successor):
            self.coming = False  # the next worker to be free leads

    cdef object call_leader(self, server):
        """With the lock: wake a worker to wait for the listener, or return one to be started."""
        if not self.has_room(server):
            return self.be_attentive(server)
        self.coming = True
        return self.rouse(server)

    cdef object be_attentive(self, server):
        """With the lock: nobody can wait for the listener; the serving thread looks who could."""
        self.full = monotonic()
        if not self.attentive:
            self.attentive = True
            serving.wake(server)
        return None

    def attend(self, server):
        """Called by the serving thread, at each of its turns: see that somebody leads.

        Returns the seconds until it shall be called again; None: when it is woken.
        """
        cdef bint queued
        cdef double seconds = MOMENT
        successor = None
        if not self.attentive:
            return None
        queued = self.listener.ready(server)
        with self.lock:
            if self.pending or self.accepting and not self.leading and not self.coming:
                if self.count_served() != self.served_before:
                    seconds = WHILE_REQUESTS_FINISH
                self.look(server, queued or self.pending or self.returning)
                self.served_before = self.count_served()  # of those that have a turn now
                if not self.leading and not self.coming:
                    successor = self.call_leader(server)
                if self.brief:
                    seconds = self.moment()
            elif monotonic() - self.full > ATTENTIVE_SECONDS:
                self.attentive = False
        self.report(server)
        if successor is not None and not self.start(successor):
            self.coming = False
        return seconds

    cdef bint superfluous(self, server, bint bored) except -1:
        """With the lock: whether a worker with nothing to do shall end."""
        if self.pending:
            return False
        if not self.serving:
            return True
        if self.accepting and not self.leading and not self.idle:
            return False  # it is the one to lead
        return bored and len(self.workers) - self.lent > self.setting(server, "min_workers")

    cdef leave(self, worker):
        """With the lock: the end of a worker that has nothing to do."""
        self.dismiss(worker)
        if self.accepting and not self.leading and self.idle:
            self.wake_one()

    cdef object rest(self, server, worker, bint leading):
        """With the lock: become leader or idle. Returns the seconds to be idle, -1: no limit."""
        if leading:
            self.leading = True
        else:
            self.idle.append(worker)
            if self.accepting and not self.leading and not self.coming:
                self.be_attentive(server)
        self.tell()
        if self.pending and not leading:
            return MOMENT
        seconds = self.setting(server, "worker_idle_timeout")
        present = len(self.workers) - self.lent
        if seconds is None or present <= self.setting(server, "min_workers"):
            return -1
        return min(seconds, threading.TIMEOUT_MAX)

    cdef object lead(self, server, Turn turn):
        """Wait for a request and take it; None to see what else there is."""
        item = None
        try:
            # It was free when this began; a worker that has returned may have taken the turn.
            if self.listener.wait(server) and self.free(server):
                item = self.item(server, self.listener.take(server))
            return item
        finally:
            with self.lock:
                self.leading = False
                if item is not None:
                    self.running.add(turn)
                self.tell()

    cdef object item(self, server, taken):
        if taken is None:
            return None
        request, client_address = taken
        requests_of(server).claim(request)
        return request, client_address, self.request_context().copy()

    @cython.critical_section
    cdef int use_context(self, context) except -1:
        self.context = context
        return 0

    @cython.critical_section
    cdef object request_context(self):
        return self.context


def reset_all():
    """In the child of a fork(): its pools begin without workers."""
    for pool in pools:
        (<Pool>pool).reset()


def end_all():
    """The interpreter ends: idle workers must not keep it, unless their server still serves."""
    for pool in list(pools):
        if not (<Pool>pool).serving or (<Pool>pool).thread.daemon:
            pool.end()
