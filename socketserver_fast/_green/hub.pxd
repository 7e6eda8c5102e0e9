"""The hub, for the cooperative sockets and for serving."""

cimport cython
from cpython.ref cimport PyObject

from socketserver_fast._serving.serving cimport Loop
from socketserver_fast._sockets.wait cimport POLLIN

cdef extern from "_green/hub.h":
    const int SSF_HUB
    const int SSF_TELLS_APART

    int ssf_import_greenlet() except -1
    object ssf_new_greenlet(object run, object parent)
    object ssf_current_greenlet()
    PyObject *ssf_switch(PyObject *greenlet, PyObject *args, PyObject *kwargs) except NULL
    PyObject *ssf_throw(PyObject *greenlet, PyObject *kind, PyObject *value, PyObject *trace) \
        except NULL
    PyObject *GreenletExit "(PyObject *)ssf_greenlet[2]"
    bint ssf_has_context()

    ctypedef struct ssf_poller:
        pass
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

cdef enum:
    WAITING, QUEUED, RUNNING, CANCELLED   # states of a Waiter
    MOST_WORKERS = 64   # that wait for a job
    UNKNOWN = -2        # a limit that was not asked for yet

cdef class Waiter:
    cdef object greenlet        # the one to switch to; None if `job` has none yet
    cdef object job
    cdef Waiter next            # the next one that waits for the same descriptor
    cdef short events           # what it waits for there, and what of it has not come
    cdef long long deadline     # of ssf_monotonic(), if it is in the hub's heap
    cdef int state
    cdef bint timed_out

@cython.final
cdef class Endpoint:
    cdef int fd
    cdef unsigned int watch     # tells it from what had this number before; 0: not in the poller
    cdef short pending          # what became ready while nobody waited for it
    cdef bint ended             # the peer sends nothing more, and no wait has ended for that yet
    cdef long long receive_limit, send_limit    # of blocking calls, or UNKNOWN
    cdef Waiter first           # of those that wait

    cdef int add(self, Hub hub, Waiter waiter, short events) except -1
    cdef int notify(self, Hub hub, short ready) except -1

    cdef inline bint take(self, short events):
        """Return whether something came since the last wait for it, which is forgotten."""
        if self.pending & events:
            self.pending &= ~events
            return True
        if self.ended and events & POLLIN:
            self.ended = False
            return True
        return False

@cython.final
cdef class Hub:
    cdef object root            # the greenlet that new ones are started from
    cdef Waiter root_waiter
    cdef list workers           # greenlets that have no job
    cdef object job             # what the worker that is switched to has to do; None: to end
    cdef object failure         # what root has to raise
    cdef object killed          # the greenlet that is to get a GreenletExit now
    cdef list turn, queue
    cdef Py_ssize_t index       # in the turn
    cdef list deadlines         # a heap of Waiters
    cdef Py_ssize_t room        # how many there may be before those of ended waits are dropped
    cdef object posted          # what other threads have made ready
    cdef Loop loop              # whose wake() makes the hub look at them
    cdef list roused            # Waiters that every wake-up makes ready
    cdef list table             # the Endpoints by descriptor
    cdef unsigned int watches
    cdef Endpoint waking
    cdef int acceptable         # a listener of which poll(2) has just said that it is ready, or -1
    cdef unsigned long long accepted    # how many connections
    cdef object trace, profile  # what requests have been traced by, as threads are
    cdef void *next             # of the open hubs
    cdef readonly unsigned long thread
    cdef ssf_poller poller
    cdef bint is_open, forked
    # For the watch: whether the hub waits, how often it went on, and who wants to know of it.
    cdef readonly bint polling
    cdef readonly unsigned long long switches
    cdef public bint watched
    cdef readonly object resumed

    cdef Hub enter(self)
    cdef int leave(self, Hub outer) except -1
    cdef int close(self) except -1

    cdef Waiter waiter(self, long long deadline)
    cdef int park(self, Waiter waiter) except -1
    cdef int switch_away(self, Waiter waiter) except -1
    cdef int pass_turn(self) except -1
    cdef Endpoint note(self, int fd, long long limit)
    cdef Endpoint endpoint(self, int fd)
    cdef Endpoint forget(self, int fd)

    cdef int start(self, object job) except -1
    cdef int post(self, object one) except -1
    cdef int fail_root(self, object error) except -1
    cdef int kill(self, object greenlet) except -1

    cdef int switch(self, Waiter target, Waiter current) except -1
    cdef int switch_to(self, object greenlet) except -1
    cdef Waiter next_ready(self)
    cdef int end_workers(self) except -1
    cdef int poll(self) except -1
    cdef int look_at_posted(self) except -1
    cpdef resume(self)
    cdef int wait_events(self) except -1
    cdef int add_deadline(self, Waiter waiter, long long deadline) except -1
    cdef long long expire(self) except -2

    cdef inline Endpoint known(self, int fd):
        """Return the Endpoint of a descriptor, or None."""
        return <Endpoint>self.table[fd] if 0 <= fd < len(self.table) else None

    cdef inline int ready(self, Waiter waiter) except -1:
        """Give a waiter a place in the next turn."""
        waiter.state = QUEUED
        self.queue.append(waiter)
        return 0

    cdef inline int rouse(self, Waiter waiter) except -1:
        """Make a waiter ready if it still waits."""
        return self.ready(waiter) if waiter.state == WAITING else 0

cdef void *hubs  # the first of those that are open; a borrowed reference

cdef Hub running()
cdef int set_running(Hub hub) except -1
