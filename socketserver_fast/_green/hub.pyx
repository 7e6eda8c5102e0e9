# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""The hub: greenlets that wait for descriptors and for times, on one thread.

The hub has no greenlet of its own. A greenlet that has to wait switches to another one that is
ready; if there is none it asks the poller, and if its own descriptor is the first to become ready
nothing is switched at all. A greenlet that has done its job does the next one: making and ending a
greenlet is a quarter of the cost of a short connection (bench: green_close_16). New ones start from
the root, which serves: their stacks begin where its stack ends, which must not grow with them.

Everything runs in turns. A turn is what was ready when the poller was last asked; what becomes
ready meanwhile belongs to the next one, so that nobody starves.

A descriptor is given to the poller once, when something first has to wait for it, for both
directions and edge-triggered (bench: green_keep_100). Each hub has its own poller and table, so
several hubs may wait for one descriptor. An event ends one wait and is forgotten: a greenlet that
then finds nothing to read waits for the next one.
"""

import collections
import errno
import heapq
import sys
import threading

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport EINTR
from libc.limits cimport INT_MAX

from socketserver_fast._sockets cimport wait as waits
from socketserver_fast._serving.serving cimport Loop
from socketserver_fast._sockets.wait cimport ALLOWANCE, POLLIN, POLLOUT, fail, ssf_monotonic

cdef extern from "_green/hub.h":
    PyObject *ssf_get_running()
    void ssf_set_running(PyObject *hub)

cdef object push = heapq.heappush, pop = heapq.heappop
cdef dict modules = sys.modules
cdef object asyncio_state = None    # a module, once the program has imported asyncio

FORKED = "a forked process cannot run its parent's greenlets: call os._exit() in the handler"
ssf_import_greenlet()


cdef Hub running():
    """The hub that runs on this thread, or None."""
    cdef PyObject *hub = ssf_get_running()
    return None if hub == NULL else <Hub>hub


cdef int set_running(Hub hub) except -1:
    """Have `hub`, or none, run on this thread; whoever calls this keeps it alive."""
    ssf_set_running(NULL if hub is None else <PyObject *>hub)
    return 0


cdef inline int check(int result) except -1:
    """Raise the OSError of a call that returned -errno."""
    return result if result >= 0 else fail(result)


cdef object set_loop_aside():
    """Take a running event loop of asyncio off this thread; None if there is none."""
    global asyncio_state
    if asyncio_state is None:
        if "_asyncio" not in modules:
            return None
        from socketserver_fast._green import asyncio_state
    loop = asyncio_state.get_running_loop()
    return None if loop is None else asyncio_state.set_aside(loop)


@cython.final
@cython.freelist(256)
cdef class Waiter:
    """One wait of one greenlet."""

    def __lt__(self, Waiter other):
        return self.deadline < other.deadline


@cython.final
@cython.freelist(256)
cdef class Endpoint:
    """A descriptor: what it is ready for, and who waits for it."""

    cdef int add(self, Hub hub, Waiter waiter, short events) except -1:
        """Make `waiter` ready when one of `events` comes."""
        if self.first is not None:
            self.notify(hub, 0)  # to drop the waits that have ended
        waiter.events = events
        waiter.next = self.first
        self.first = waiter
        return check(ssf_want(&hub.poller, self.fd, events))

    cdef int notify(self, Hub hub, short ready) except -1:
        """Wake who waits for one of `ready`, and remember what nobody waited for."""
        cdef Waiter waiter = self.first, next
        self.first = None
        self.pending |= ready
        while waiter is not None:
            next = waiter.next
            waiter.next = None
            if waiter.state == WAITING:
                if waiter.events & ready:
                    self.pending &= ~waiter.events
                    waiter.events &= ~ready
                    hub.ready(waiter)
                else:
                    waiter.next = self.first
                    self.first = waiter
            waiter = next
        return 0


@cython.final
cdef class Hub:
    """The waits of one thread. Other threads may only call post() and forget()."""

    def __cinit__(self):
        check(ssf_open_poller(&self.poller))
        self.is_open = True
        self.turn, self.queue, self.workers, self.deadlines = [], [], [], []
        self.roused, self.table = [], []
        self.posted = collections.deque()
        self.resumed = threading.Lock()
        self.loop = Loop()
        if not self.loop.open():
            raise OSError(errno.EMFILE, "no descriptors left for the hub")
        self.thread = threading.get_ident()
        self.acceptable = -1
        self.waking = self.endpoint(self.loop.fileno())
        global hubs
        self.next = hubs
        hubs = <void *>self

    def __dealloc__(self):
        global hubs
        cdef void **place = &hubs
        while place[0] != NULL and place[0] != <void *>self:
            place = &(<Hub>place[0]).next
        if place[0] != NULL:
            place[0] = self.next
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
        self.loop.wake_at_signals()  # only while it runs
        set_running(self)
        return outer

    cdef int leave(self, Hub outer) except -1:
        self.end_workers()
        self.root = self.root_waiter = None
        self.loop.ignore_signals()
        set_running(outer)
        return 0

    # Waiting.

    cdef Waiter waiter(self, long long deadline):
        """A wait of the current greenlet, until the deadline if it is not negative."""
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.greenlet = ssf_current_greenlet()
        waiter.state = WAITING
        if deadline >= 0:
            self.add_deadline(waiter, deadline)
        return waiter

    cdef int pass_turn(self) except -1:
        """Let the others run that are ready now."""
        cdef Waiter waiter = self.waiter(-1)
        self.ready(waiter)
        return self.park(waiter)

    cdef int park(self, Waiter waiter) except -1:
        """Switch away until `waiter`, the current greenlet's, is ready and has its turn.

        Raises what is thrown into the greenlet.
        """
        if waiter.greenlet is self.root:
            self.root_waiter = waiter
        aside = set_loop_aside()
        if aside is None:
            self.switch_away(waiter)
        else:
            try:
                self.switch_away(waiter)
            finally:
                asyncio_state.put_back(aside)
        waits.allowance = ALLOWANCE
        if self.failure is not None and waiter.greenlet is self.root:
            failure, self.failure = self.failure, None
            raise failure
        return 0

    cdef int switch_away(self, Waiter waiter) except -1:
        cdef Waiter target
        try:
            if self.killed is not None:
                greenlet, self.killed = self.killed, None
                Py_XDECREF(ssf_throw(<PyObject *>greenlet, GreenletExit, NULL, NULL))
            while waiter.state != RUNNING:
                target = self.next_ready()
                if target is not waiter:
                    self.switch(target, waiter)
        except BaseException:
            waiter.state = CANCELLED
            raise
        return 0

    # Descriptors.

    cdef Endpoint endpoint(self, int fd):
        """Return the Endpoint of a descriptor; the first time, give it to the poller."""
        cdef Endpoint endpoint = self.known(fd)
        if endpoint is None:
            endpoint = self.note(fd, UNKNOWN)
        if endpoint.watch == 0:
            check(ssf_watch(&self.poller, fd, self.watches + 1))
            self.watches += 1
            endpoint.watch = self.watches
        return endpoint

    cdef Endpoint note(self, int fd, long long limit):
        """Make the Endpoint of a descriptor, which is not given to the poller yet."""
        cdef Endpoint endpoint = Endpoint.__new__(Endpoint)
        endpoint.fd = fd
        endpoint.receive_limit = endpoint.send_limit = limit
        if fd >= len(self.table):
            self.table.extend([None] * (fd + 1 - len(self.table)))
        self.table[fd] = endpoint
        return endpoint

    cdef Endpoint forget(self, int fd):
        """Take a descriptor from the poller; returns what was known of it. From any thread."""
        cdef Endpoint endpoint = self.known(fd)
        if endpoint is not None:
            self.table[fd] = None
            if endpoint.watch != 0:
                ssf_unwatch(&self.poller, fd)
        return endpoint

    # Switching.

    cdef int switch(self, Waiter target, Waiter current) except -1:
        """Switch to `target`, or start its job; only the root makes new greenlets."""
        greenlet = target.greenlet
        if target.job is not None:
            if self.workers:
                greenlet = self.workers.pop()
            elif current.greenlet is self.root:
                greenlet = ssf_new_greenlet(self, self.root)
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

    def __call__(self):
        """Run as a greenlet: do one job after the other until there is none."""
        cdef Waiter target
        greenlet = ssf_current_greenlet()
        while self.job is not None:
            job, self.job = self.job, None
            job()
            job = None
            if ssf_has_context():
                greenlet.gr_context = None
            if len(self.workers) >= MOST_WORKERS:
                return
            target = self.next_ready()
            if target.job is not None:
                self.switches += 1
                self.job = target.job
            else:
                self.workers.append(greenlet)
                self.switch_to(target.greenlet)
            target = None

    cdef int end_workers(self) except -1:
        """End the greenlets that have no job. Only the root may call this."""
        while self.workers:
            self.job = None
            greenlet = self.workers.pop()
            greenlet.parent = self.root
            self.switch_to(greenlet)
        return 0

    cdef int kill(self, object greenlet) except -1:
        """Raise GreenletExit in a greenlet that has started."""
        cdef Waiter waiter = self.waiter(-1)
        self.ready(waiter)  # to come back if it does not end but waits again
        self.killed = greenlet
        return self.park(waiter)

    # Becoming ready.

    cdef int start(self, object job) except -1:
        """Call `job` in a greenlet of its own, in the next turn."""
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.job = job
        return self.ready(waiter)

    cdef int post(self, object one) except -1:
        """Rouse a Waiter, notify an Endpoint or start a job; from any thread."""
        self.posted.append(one)
        self.loop.wake()
        return 0

    cdef int fail_root(self, object error) except -1:
        """Have the root raise `error`."""
        if self.failure is None:
            self.failure = error
        if self.root_waiter is not None:
            self.rouse(self.root_waiter)
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
        """Find what is ready; waits for it unless somebody has a place in the next turn."""
        cdef Endpoint endpoint
        cdef ssf_event event
        cdef int index
        if self.forked:
            self.queue.clear()
            if self.root_waiter is not None:
                self.root_waiter.state = WAITING
            return self.fail_root(RuntimeError(FORKED))
        self.switches += 1
        for index in range(self.wait_events()):
            event = ssf_event_at(&self.poller, index)
            endpoint = self.known(event.fd)
            if endpoint is not None and (endpoint.watch == event.watch or not SSF_TELLS_APART):
                endpoint.ended |= event.ended
                endpoint.notify(self, event.ready)
        if self.waking.pending & POLLIN:
            self.waking.pending = 0
            self.look_at_posted()
        if self.deadlines:
            self.expire()
        self.resume()
        PyErr_CheckSignals()  # last: the poller tells of an event once
        return 0

    cpdef resume(self):
        """Wake the thread that watches this one. No Python code runs, so no signal's handler."""
        if self.resumed.locked():
            self.resumed.release()

    cdef int wait_events(self) except -1:
        """Ask the poller how many events there are; other threads run only if nothing is ready."""
        cdef long long left
        cdef int count, milliseconds = -1
        check(ssf_want(&self.poller, self.waking.fd, POLLIN))
        count = ssf_wait_events(&self.poller, 0)
        if count == 0 and not self.queue and not self.posted:
            left = self.expire()
            if self.queue:
                return 0
            if left >= 0:
                milliseconds = <int>min((left + 999999) // 1000000, INT_MAX)
            self.polling = True
            with nogil:
                count = ssf_wait_events(&self.poller, milliseconds)
            self.polling = False
        return 0 if count == -EINTR else check(count)

    cdef int look_at_posted(self) except -1:
        """Do what other threads have posted, and rouse the servers."""
        cdef Waiter waiter
        self.loop.clear()
        while self.posted:
            one = self.posted.popleft()
            if type(one) is Waiter:
                self.rouse(<Waiter>one)
            elif type(one) is Endpoint:
                (<Endpoint>one).notify(self, POLLIN | POLLOUT)
            else:
                self.start(one)
        for waiter in self.roused:
            self.rouse(waiter)
        return 0

    # Deadlines. Most waits end early; they leave the heap together when it is full of them.

    cdef int add_deadline(self, Waiter waiter, long long deadline) except -1:
        if len(self.deadlines) >= self.room:
            self.deadlines = [one for one in self.deadlines if (<Waiter>one).state == WAITING]
            heapq.heapify(self.deadlines)
            self.room = 2 * len(self.deadlines) + 64
        waiter.deadline = deadline
        push(self.deadlines, waiter)
        return 0

    cdef long long expire(self) except -2:
        """Wake whose time is over; returns the nanoseconds until the next deadline, or -1."""
        cdef long long now = ssf_monotonic()
        cdef Waiter waiter
        while self.deadlines:
            waiter = <Waiter>self.deadlines[0]
            if waiter.state == WAITING:
                if waiter.deadline > now:
                    return waiter.deadline - now
                waiter.timed_out = True
                self.ready(waiter)
            pop(self.deadlines)
        return -1
