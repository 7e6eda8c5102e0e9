# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""The hub: greenlets that wait for descriptors and for times, on one thread.

There is no greenlet of the hub's own. The one that has to wait looks for another that is ready and
switches to it, and when there is none it asks the poller itself; if its own descriptor is the first
to become ready, nothing was switched at all. Only new greenlets are started from the root, which is
the one that serves: their stacks begin where its stack ends, so its depth must not grow with them.

A greenlet that has done its job does the next one, at once or when there is one again: to make a
greenlet and to end it is a quarter of what a short connection costs (bench: green_close_16).

Everything runs in turns. A turn is what was ready when the poller was last asked; what gets ready
meanwhile, also by giving way, belongs to the next one. So nobody starves, whatever the others do.

A descriptor is given to the poller once, when something first has to wait for it, for both
directions and edge-triggered (bench: green_keep_100). Each hub has a poller and a table of its own,
so that several may wait for one descriptor. An event ends one wait and is forgotten: whoever finds
that nothing was there waits for the next one.
"""

import collections
import errno
import os
import sys
import threading
import weakref

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport EINTR
from libc.limits cimport INT_MAX

from socketserver_fast._sockets cimport wait as waits
from socketserver_fast._green.deadlines cimport Deadlines
from socketserver_fast._serving.serving cimport Loop
from socketserver_fast._sockets.wait cimport ALLOWANCE, POLLIN, POLLOUT, fail, ssf_monotonic

from socketserver_fast._serving import signal_wakeup

cdef extern from "_green/hub.h":
    int ssf_import_greenlet() except -1
    object ssf_new_greenlet(object run, object parent)
    object ssf_current_greenlet()
    PyObject *ssf_switch(PyObject *greenlet, PyObject *args, PyObject *kwargs) except NULL
    PyObject *ssf_throw(PyObject *greenlet, PyObject *kind, PyObject *value, PyObject *trace) \
        except NULL
    PyObject *GreenletExit "(PyObject *)ssf_greenlet[2]"
    PyObject *ssf_get_running()
    void ssf_set_running(PyObject *hub)
    bint ssf_has_context()
    const int SSF_TELLS_APART
    ctypedef struct ssf_event:
        int fd
        unsigned int watch
        short ready
        short ended
    int ssf_open_poller(ssf_poller *poller)
    void ssf_close_poller(ssf_poller *poller)
    int ssf_watch(ssf_poller *poller, int fd, unsigned int watch)
    void ssf_unwatch(ssf_poller *poller, int fd)
    int ssf_want(ssf_poller *poller, int fd, short events)
    int ssf_wait_events(ssf_poller *poller, int milliseconds) nogil
    ssf_event ssf_event_at(ssf_poller *poller, int index)

cdef extern from "_sockets/portable.h":
    long long ssf_wait_limit(int fd, short events)

cdef enum:
    MOST_WORKERS = 64   # that wait for a job
    UNKNOWN = -2        # a limit that was not asked for yet

cdef list hubs = []     # weak references to those that are open

cdef dict modules = sys.modules
cdef object get_running_loop = None, set_running_loop = None, swap_current_task = None

ssf_import_greenlet()


cdef Hub running():
    """The hub that runs on this thread, or None."""
    cdef PyObject *hub = ssf_get_running()
    return None if hub == NULL else <Hub>hub


cdef list forget(int fd):
    """A descriptor is about to be closed or given away: take it from every poller. Returns what to
    give to wake() afterwards, or None."""
    cdef list waiting = None, found
    cdef Hub hub
    for reference in hubs:
        hub = reference()
        if hub is not None:
            found = hub.forget(fd)
            if found is not None:
                waiting = (waiting or []) + [(hub, waiter) for waiter in found]
    return waiting


cdef int wake(list waiting) except -1:
    """Have those look that waited for a descriptor; not before it is gone, or they wait again."""
    cdef Hub hub
    cdef Waiter waiter
    for hub, waiter in waiting:
        if hub is not running():
            hub.post(waiter)
        elif waiter.state == WAITING:
            hub.ready(waiter)
    return 0


def gone(reference):
    """Drop a hub that is no more, without a change under the hands of forget()."""
    global hubs
    hubs = [one for one in hubs if one is not reference]


cdef int limits_changed(int fd) except -1:
    """SO_RCVTIMEO or SO_SNDTIMEO of a descriptor was set."""
    cdef Hub hub
    for reference in hubs:
        hub = reference()
        if hub is not None and hub.known(fd) is not None:
            hub.known(fd).forget_limits()
    return 0


# What asyncio keeps by thread, and a greenlet that runs an event loop must not leave to the others.

cdef object set_loop_aside():
    """Take the running event loop off this thread; None if there is none."""
    if get_running_loop is None:
        if "_asyncio" not in modules:
            return None
        learn_of_asyncio()
    loop = get_running_loop()
    if loop is None:
        return None
    task = None if swap_current_task is None else swap_current_task(loop, None)
    saved = loop, task, sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
    sys.set_asyncgen_hooks(None, None)
    sys.set_coroutine_origin_tracking_depth(0)
    set_running_loop(None)
    return saved


cdef int put_loop_back(saved) except -1:
    loop, task, hooks, depth = saved
    set_running_loop(loop)
    if swap_current_task is not None:
        swap_current_task(loop, task)
    sys.set_asyncgen_hooks(*hooks)
    sys.set_coroutine_origin_tracking_depth(depth)
    return 0


cdef int learn_of_asyncio() except -1:
    global get_running_loop, set_running_loop, swap_current_task
    module = modules["_asyncio"]
    get_running_loop = getattr(module, "_get_running_loop", nothing)
    set_running_loop = getattr(module, "_set_running_loop", nothing)
    if sys.version_info >= (3, 14):  # before, the current task is kept by the loop
        swap_current_task = getattr(module, "_swap_current_task", None)
    return 0


def nothing(*unused):
    """Stands for what a later Python may not have."""


@cython.final
@cython.freelist(256)
cdef class Waiter:
    """One wait of one greenlet."""


@cython.final
@cython.freelist(256)
cdef class Endpoint:
    """A descriptor: what it is ready for, and who waits for it."""

    cdef int add(self, Hub hub, Waiter waiter, short events) except -1:
        """Make `waiter` ready when one of `events` comes."""
        cdef int result
        if events & POLLIN:
            if self.reader is not None and self.reader.state == WAITING:
                return self.add_other(waiter, POLLIN)
            self.reader = waiter
        else:
            if self.writer is not None and self.writer.state == WAITING:
                return self.add_other(waiter, POLLOUT)
            self.writer = waiter
        result = ssf_want(&hub.poller, self.fd, events)
        return 0 if result == 0 else fail(result)

    cdef long long limit(self, short events):
        """SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds, -1 for none."""
        cdef long long *limit = &self.receive_limit if events & POLLIN else &self.send_limit
        if limit[0] == UNKNOWN:
            limit[0] = ssf_wait_limit(self.fd, events)
        return limit[0]

    cdef void forget_limits(self):
        self.receive_limit = self.send_limit = UNKNOWN

    cdef bint take(self, short events):
        """Return whether something came since the last wait for it, which is forgotten."""
        if self.pending & events:
            self.pending &= ~events
            return True
        if self.ended and events & POLLIN:
            self.ended = False
            return True
        return False

    cdef list waiters(self):
        """Those that wait for it, or None."""
        if self.reader is None and self.writer is None and self.others is None:
            return None
        found = [self.reader, self.writer] + [other[0] for other in self.others or ()]
        return [one for one in found if one is not None and (<Waiter>one).state == WAITING] or None

    cdef int add_other(self, Waiter waiter, short events) except -1:
        if self.others is None:
            self.others = []
        self.others = [other for other in self.others if (<Waiter>other[0]).state == WAITING]
        self.others.append((waiter, events))
        return 0

    cdef int notify(self, Hub hub, short ready) except -1:
        """Wake who waits for one of `ready`, and remember the rest."""
        cdef Waiter waiter
        self.pending |= ready
        if ready & POLLIN and self.reader is not None:
            if self.reader.state == WAITING:
                self.pending &= ~POLLIN
                hub.ready(self.reader)
            self.reader = None
        if ready & POLLOUT and self.writer is not None:
            if self.writer.state == WAITING:
                self.pending &= ~POLLOUT
                hub.ready(self.writer)
            self.writer = None
        if self.others is not None:
            others, self.others = self.others, None
            for other in others:
                waiter = <Waiter>other[0]
                if waiter.state == WAITING:
                    if <short>other[1] & ready:
                        hub.ready(waiter)
                    else:
                        self.add(hub, waiter, other[1])
        return 0


@cython.final
cdef class Hub:
    """The waits of one thread. Another one may call post() only."""

    def __cinit__(self):
        cdef int result = ssf_open_poller(&self.poller)
        if result < 0:
            fail(result)
        self.is_open = True
        self.turn, self.queue, self.workers = [], [], []
        self.deadlines = Deadlines()
        self.posted = collections.deque()
        self.resumed = threading.Event()
        self.loop = Loop()
        if not self.loop.open():
            raise OSError(errno.EMFILE, "no descriptors left for the hub")
        self.thread = threading.get_ident()
        self.table = []
        self.acceptable = -1
        self.waking = self.endpoint(self.loop.fileno())
        self.want_waking()
        global hubs
        hubs = hubs + [weakref.ref(self, gone)]

    def __dealloc__(self):
        if self.is_open:
            ssf_close_poller(&self.poller)

    cdef int close(self) except -1:
        """Give back the descriptors; what still waits here waits for ever."""
        if self.is_open:
            self.table.clear()
            self.loop.close()
            ssf_close_poller(&self.poller)
            self.is_open = False
        return 0

    cdef Hub enter(self):
        """Run on this thread, with the current greenlet as the root; returns what ran before."""
        cdef Hub outer = running()
        self.root = ssf_current_greenlet()
        signal_wakeup.start(self.loop.waking_end)  # only while it runs
        ssf_set_running(<PyObject *>self)
        return outer

    cdef int leave(self, Hub outer) except -1:
        self.end_workers()
        self.root = None
        self.root_waiter = None
        signal_wakeup.stop(self.loop.waking_end)
        ssf_set_running(NULL if outer is None else <PyObject *>outer)
        return 0

    # Waiting.

    cdef Waiter waiter(self, long long deadline):
        """A wait of the current greenlet, until the deadline if it is not negative."""
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.greenlet = ssf_current_greenlet()
        waiter.state = WAITING
        if deadline >= 0:
            waiter.deadline = self.deadlines.add(deadline, waiter)
        return waiter

    cdef bint wait(self, Endpoint endpoint, short events, long long deadline) except -1:
        """Wait until a descriptor may be ready for `events`; false when the time was over."""
        cdef Waiter waiter
        if endpoint.take(events):
            return True
        waiter = self.waiter(deadline)
        endpoint.add(self, waiter, events)
        self.park(waiter)
        return not waiter.timed_out

    cdef Endpoint known(self, int fd):
        """What is known of a descriptor, or None."""
        return <Endpoint>self.table[fd] if 0 <= fd < len(self.table) else None

    cdef Endpoint endpoint(self, int fd):
        """What is known of a descriptor, which is given to the poller the first time."""
        cdef Endpoint endpoint = self.known(fd)
        cdef int result
        if endpoint is not None:
            return endpoint
        self.watches += 1
        result = ssf_watch(&self.poller, fd, self.watches)
        if result < 0:
            fail(result)
        endpoint = Endpoint.__new__(Endpoint)
        endpoint.fd = fd
        endpoint.watch = self.watches
        endpoint.forget_limits()
        if fd >= len(self.table):
            self.table.extend([None] * (fd + 1 - len(self.table)))
        self.table[fd] = endpoint
        return endpoint

    cdef list forget(self, int fd):
        """Take a descriptor from the poller: the Waiters for it, or None. From any thread."""
        cdef Endpoint endpoint = self.known(fd)
        if endpoint is None:
            return None
        self.table[fd] = None
        ssf_unwatch(&self.poller, fd)
        return endpoint.waiters()

    cdef int sleep(self, long long nanoseconds) except -1:
        return self.park(self.waiter(ssf_monotonic() + nanoseconds))

    cdef int pass_turn(self) except -1:
        """Let the others run that are ready."""
        cdef Waiter waiter = self.waiter(-1)
        self.ready(waiter)
        return self.park(waiter)

    cdef int park(self, Waiter waiter) except -1:
        """Return when `waiter`, which is the current greenlet's, was made ready and its turn came.

        What is thrown into the greenlet is raised here.
        """
        cdef Waiter target
        if waiter.greenlet is self.root:
            self.root_waiter = waiter
        try:
            while waiter.state != RUNNING:
                target = self.next_ready()
                if target is not waiter:
                    saved = set_loop_aside()
                    try:
                        self.switch(target, waiter)
                    finally:
                        if saved is not None:
                            put_loop_back(saved)
        except BaseException:
            self.cancel(waiter)
            raise
        waits.allowance = ALLOWANCE
        if self.failure is not None and waiter.greenlet is self.root:
            failure, self.failure = self.failure, None
            raise failure
        return 0

    cdef int switch(self, Waiter target, Waiter current) except -1:
        greenlet = target.greenlet
        if target.job is not None:
            if self.workers:
                greenlet = self.workers.pop()
            elif current.greenlet is self.root:
                greenlet = ssf_new_greenlet(Worker.make(self), self.root)
            else:
                target.state = QUEUED
                self.index -= 1
                greenlet = self.root
        if greenlet is not self.root:
            self.job = target.job
        return self.switch_to(greenlet)

    cdef int switch_to(self, object greenlet) except -1:
        self.switches += 1
        waits.allowance = ALLOWANCE
        Py_XDECREF(ssf_switch(<PyObject *>greenlet, NULL, NULL))
        return 0

    cdef int work(self) except -1:
        """The life of a greenlet: do its job, and the next one, until there is none for it."""
        cdef Waiter target
        greenlet = ssf_current_greenlet()
        while self.job is not None:
            job, self.job = self.job, None
            job()
            job = None
            if ssf_has_context():
                greenlet.gr_context = None
            if len(self.workers) >= MOST_WORKERS:
                return 0
            target = self.next_ready()
            if target.job is not None:
                self.switches += 1
                self.job = target.job
            else:
                self.workers.append(greenlet)
                self.switch_to(target.greenlet)
            target = None
        return 0

    cdef int end_workers(self) except -1:
        """Have the greenlets end that have no job. To be called by the root."""
        while self.workers:
            self.job = None
            greenlet = self.workers.pop()
            greenlet.parent = self.root
            self.switch_to(greenlet)
        return 0

    cdef int cancel(self, Waiter waiter) except -1:
        waiter.state = CANCELLED
        if waiter.deadline is not None:
            self.deadlines.remove(waiter.deadline)
        return 0

    # Becoming ready.

    cdef int ready(self, Waiter waiter) except -1:
        """Give a waiter its place in the next turn."""
        waiter.state = QUEUED
        if waiter.deadline is not None:
            self.deadlines.remove(waiter.deadline)
        self.queue.append(waiter)
        return 0

    cdef int start(self, object job) except -1:
        """Call `job` in a greenlet of its own, in the next turn."""
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.job = job
        return self.ready(waiter)

    cdef int fail_root(self, object error) except -1:
        """Have the root raise `error`."""
        if self.failure is None:
            self.failure = error
        if self.root_waiter is not None and self.root_waiter.state == WAITING:
            self.ready(self.root_waiter)
        return 0

    cdef int post(self, object one) except -1:
        """Make a Waiter ready, or start a job; from any thread."""
        self.posted.append(one)
        self.loop.wake()
        return 0

    cdef int kill(self, object greenlet) except -1:
        """Raise GreenletExit in a greenlet that has been started."""
        cdef Waiter waiter = self.waiter(-1)
        self.ready(waiter)  # to come back if it does not end but waits again
        saved = set_loop_aside()
        try:
            Py_XDECREF(ssf_throw(<PyObject *>greenlet, GreenletExit, NULL, NULL))
        finally:
            if saved is not None:
                put_loop_back(saved)
            if waiter.state == QUEUED:
                self.cancel(waiter)
        return 0

    cdef Waiter next_ready(self):
        """The next waiter of this turn; asks the poller when the turn is over."""
        cdef Waiter waiter
        while True:
            if self.index < len(self.turn):
                waiter = <Waiter>self.turn[self.index]
                self.index += 1
                if waiter.state == QUEUED:
                    waiter.state = RUNNING
                    return waiter
            else:
                self.turn.clear()
                self.index = 0
                try:
                    self.poll()
                except BaseException as error:
                    self.fail_root(error)
                self.turn, self.queue = self.queue, self.turn

    cdef int poll(self) except -1:
        """Make ready what is: at once if somebody waits for its turn, else as long as it takes."""
        cdef int count, index
        cdef ssf_event event
        cdef Endpoint endpoint
        if self.forked:
            raise RuntimeError("a forked process cannot go on with its parent's greenlets: "
                               "end it by os._exit() in the handler")
        self.switches += 1
        count = self.wait_events()
        PyErr_CheckSignals()
        for index in range(count):
            event = ssf_event_at(&self.poller, index)
            endpoint = self.known(event.fd)
            if endpoint is None or (SSF_TELLS_APART and endpoint.watch != event.watch):
                continue
            if event.ended:
                endpoint.ended = True
            endpoint.notify(self, event.ready)
        if self.waking.pending & POLLIN:
            self.waking.pending = 0
            self.collect_posted()
            self.want_waking()
        if len(self.deadlines.heap) > 0:
            self.expire()
        return 0

    cdef int want_waking(self) except -1:
        cdef int result = ssf_want(&self.poller, self.waking.fd, POLLIN)
        return 0 if result == 0 else fail(result)

    cdef int collect_posted(self) except -1:
        self.loop.clear()
        while self.posted:
            one = self.posted.popleft()
            if type(one) is not Waiter:
                self.start(one)
            elif (<Waiter>one).state == WAITING:
                self.ready(<Waiter>one)
        return 0

    cdef int wait_events(self) except -1:
        """Ask the poller: how many events. Other threads run only if there is nothing to do."""
        cdef int count = ssf_wait_events(&self.poller, 0)
        cdef long long left
        cdef int milliseconds = -1
        if count == 0 and not self.queue and not self.posted:
            if len(self.deadlines.heap) > 0:
                left = self.deadlines.first().time - ssf_monotonic()
                milliseconds = <int>min((max(left, 0) + 999999) // 1000000, INT_MAX)
            self.polling = True
            with nogil:
                count = ssf_wait_events(&self.poller, milliseconds)
            self.polling = False
            if self.dozing:
                self.resumed.set()
        if count < 0:
            if count != -EINTR:
                fail(count)
            return 0
        return count

    cdef int expire(self) except -1:
        cdef long long now = ssf_monotonic()
        cdef Waiter waiter
        while len(self.deadlines.heap) > 0 and self.deadlines.first().time <= now:
            waiter = <Waiter>self.deadlines.first().owner
            waiter.timed_out = True
            self.ready(waiter)
        return 0


@cython.final
cdef class Worker:
    """What a new greenlet calls."""

    cdef Hub hub

    @staticmethod
    cdef Worker make(Hub hub):
        cdef Worker worker = Worker.__new__(Worker)
        worker.hub = hub
        return worker

    def __call__(self):
        self.hub.work()


def forked():
    """In a forked child: what its parent's greenlets wait for is not its business.

    The poller is the parent's too: nothing that is closed here may be taken from it.
    """
    global hubs
    cdef Hub hub = running()
    hubs = []
    if hub is not None:
        hub.forked = True
        ssf_set_running(NULL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)
