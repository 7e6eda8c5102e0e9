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
from socketserver_fast._pool.workers cimport Workers

from socketserver_fast._serving import serving
from socketserver_fast._serving.serving cimport requests_of, stop_requested

cdef object monotonic = time.monotonic
cdef object gettrace = threading.gettrace
cdef object getprofile = threading.getprofile
cdef object pools = weakref.WeakSet()

cdef double CHECK_SECONDS = 0.05  # a shutdown() is seen so late while all workers are busy


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
cdef class Pool(Workers):
    """The workers of one server and what they serve."""

    cdef object pending, context, thread, poll_interval
    cdef SharedListener listener
    cdef bint leading    # a worker waits for the listener
    cdef bint coming     # another one was woken or started for that
    cdef readonly bint accepting  # the workers take requests from the listener
    cdef bint serving    # serve_forever() runs: idle workers stay
    cdef object __weakref__

    def __init__(self, make_worker):
        Workers.__init__(self, make_worker)
        self.listener = SharedListener()
        pools.add(self)

    cpdef reset(self):
        Workers.reset(self)
        self.pending = collections.deque()
        self.leading = self.coming = self.accepting = self.serving = False

    # serve_forever() begins and ends; see accepting.py.

    def begin(self, poll_interval):
        """serve_forever() begins in this thread: from now on idle workers stay."""
        self.poll_interval = poll_interval
        self.thread = threading.current_thread()
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

    # Requests that the serving thread accepts and hands over.

    def wait_until_free(self, server):
        """Wait until a worker can serve at once; False if the server's turn is over before."""
        started = monotonic()
        with self.lock:
            while self.pending or not self.idle and len(self.workers) >= server.max_workers:
                if self.serving and (stop_requested(server)
                                     or self.overdue(monotonic() - started)):
                    return False
                self.await_change(CHECK_SECONDS)
        return True

    cdef bint overdue(self, seconds) except -1:
        """Whether service_actions() is due after so long."""
        return self.poll_interval is not None and seconds >= self.poll_interval

    def submit(self, server, request, client_address):
        """Have a worker serve this: an idle one, a new one, or the first that will be free.

        RuntimeError if there is no worker and the system does not start one.
        """
        item = request, client_address, new_context()
        requests_of(server).claim(request)
        with self.lock:
            self.pending.append(item)
            worker = self.rouse(server)
        if worker is not None and not self.start(worker) and self.withdraw(item):
            requests_of(server).release(request)
            raise RuntimeError("can't start a worker thread")

    cdef bint withdraw(self, item) except -1:
        """Take back a request that no worker is there for."""
        with self.lock:
            if self.workers or item not in self.pending:
                return False
            self.pending.remove(item)
        return True

    def staff(self, server):
        """Start what is missing of min_workers, one at least; whether there is a worker."""
        while self.accepting:
            with self.lock:
                if len(self.workers) >= min(max(server.min_workers, 1), server.max_workers):
                    return True
                worker = self.hire(server)
            if not self.start(worker):
                break
        return len(self.workers) > 0

    cdef object rouse(self, server):
        """With the lock: wake an idle worker, or return a new one that is to be started."""
        if self.idle:
            self.wake_one()
        elif len(self.workers) < server.max_workers:
            return self.hire(server)
        elif self.leading:
            self.listener.interrupt()
        return None

    # What a worker does.

    def work(self, server, worker):
        """The life of a worker. What a request raises ends it, and another one takes its place."""
        cdef int generation = self.generation
        cdef tuple hooks = (None, None)
        self.count_in(worker)
        try:
            worker.item = self.next_item(server, worker, True)
            while worker.item is not None:
                hooks = trace_and_profile(hooks)
                self.serve_item(server, <tuple>worker.item)
                if generation != self.generation:
                    return  # in the child of a fork(), which has no workers
                self.follow(server, worker)
        except BaseException:
            if generation == self.generation:
                self.replace(server, worker)
            raise

    cdef serve_item(self, server, tuple item):
        request, client_address, context = item
        context.run(server.process_request_thread, request, client_address)

    cdef follow(self, server, worker):
        """After one request the next. The first one counts as in progress until that is taken:
        drain() shall not find a moment between two in which there is none."""
        request = (<tuple>worker.item)[0]
        try:
            item = None
            if self.accepting and not self.pending:
                item = self.item(server, self.listener.take_at_once(server))
        finally:
            requests_of(server).release(request)
        worker.item = worker.renamed = request = None
        if item is None:
            worker.item = self.next_item(server, worker, False)
        else:
            worker.item = item
            self.let_another_lead(server, False)

    cdef replace(self, server, worker):
        if worker.item is not None:
            requests_of(server).release((<tuple>worker.item)[0])
        with self.lock:
            self.dismiss(worker)
            needed = self.pending or self.accepting and not self.leading
            successor = self.rouse(server) if needed else None
        if successor is not None and not self.start(successor):
            serving.wake(server)  # the serving thread sees to it

    cdef object next_item(self, server, worker, bint roused):
        """Wait for what the worker serves next; None: it ends. `roused`: woken, started for it."""
        cdef bint leading = False, bored = False
        while True:
            item = None
            with self.lock:
                self.coming = self.coming and not roused
                leading = self.accepting and not self.leading and not self.pending
                if self.pending:
                    item = self.pending.popleft()
                elif self.superfluous(server, bored):
                    self.leave(worker)
                    return None
                else:
                    seconds = self.rest(server, worker, leading)
            if item is None:
                if leading:
                    item = self.lead(server)
                else:
                    bored = self.sleep(worker, seconds)
                roused = True
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
                self.coming = bool(self.idle)
                successor = self.rouse(server)
                self.coming = self.coming or successor is not None
        if successor is not None and not self.start(successor):
            self.coming = False  # the next worker to be free leads

    cdef bint superfluous(self, server, bint bored) except -1:
        """With the lock: whether a worker with nothing to do shall end."""
        if not self.serving:
            return True
        if self.accepting and not self.leading and not self.idle:
            return False  # it is the one to lead
        return (len(self.workers) > server.max_workers
                or bored and len(self.workers) > server.min_workers)

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
        self.tell()
        seconds = server.worker_idle_timeout
        if seconds is None or len(self.workers) <= server.min_workers:
            return -1
        return min(seconds, threading.TIMEOUT_MAX)

    cdef object lead(self, server):
        """Wait for a request; None to see what else there is."""
        try:
            return self.item(server, self.listener.wait_and_take(server))
        finally:
            with self.lock:
                self.leading = False
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
