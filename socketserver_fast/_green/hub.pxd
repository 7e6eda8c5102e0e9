"""The hub, for the cooperative sockets."""

from socketserver_fast._green.deadlines cimport Deadline, Deadlines
from socketserver_fast._serving.serving cimport Loop

cdef extern from "_green/hub.h" nogil:
    const int SSF_HUB
    ctypedef struct ssf_poller:
        pass

cdef enum:
    WAITING, QUEUED, RUNNING, CANCELLED   # states of a Waiter

cdef class Waiter:
    cdef object greenlet        # the one to switch to; None if `job` has none yet
    cdef object job
    cdef Deadline deadline      # None for none
    cdef int state
    cdef bint timed_out

cdef class Endpoint:
    cdef int fd
    cdef unsigned int watch     # tells it from what its number stood for before
    cdef short pending          # what became ready while nobody waited for it
    cdef bint ended             # the other side sends nothing more, and nobody was told yet
    cdef long long receive_limit, send_limit    # see limit()
    cdef Waiter reader, writer
    cdef list others

    cdef int add(self, Hub hub, Waiter waiter, short events) except -1
    cdef int add_other(self, Waiter waiter, short events) except -1
    cdef int notify(self, Hub hub, short ready) except -1
    cdef long long limit(self, short events)
    cdef void forget_limits(self)
    cdef bint take(self, short events)
    cdef list waiters(self)

cdef class Hub:
    cdef object root            # the greenlet that new ones are started from
    cdef Waiter root_waiter
    cdef list workers           # greenlets that have no job
    cdef object job             # what the worker that is switched to has to do; None: to end
    cdef object failure         # what root has to raise
    cdef list turn, queue
    cdef Deadlines deadlines
    cdef Py_ssize_t index
    cdef object posted          # what other threads have made ready
    cdef Loop loop              # whose wake() makes the hub look at them
    cdef list table             # the Endpoints by descriptor
    cdef unsigned int watches
    cdef Endpoint waking
    cdef int acceptable         # a listener of which poll(2) has just said that it is ready, or -1
    cdef unsigned long long accepted    # how many connections
    cdef object trace, profile  # what requests have been traced by, as threads are
    cdef object __weakref__
    cdef readonly unsigned long thread
    cdef ssf_poller poller
    cdef bint is_open, forked
    # For the watch: whether the hub waits, how often it went on, and who wants to know of it.
    cdef readonly bint polling
    cdef readonly unsigned long long switches
    cdef public bint dozing, watched
    cdef readonly object resumed

    cdef Waiter waiter(self, long long deadline)
    cdef int ready(self, Waiter waiter) except -1
    cdef int park(self, Waiter waiter) except -1
    cdef Endpoint known(self, int fd)
    cdef Endpoint endpoint(self, int fd)
    cdef list forget(self, int fd)
    cdef bint wait(self, Endpoint endpoint, short events, long long deadline) except -1
    cdef int sleep(self, long long nanoseconds) except -1
    cdef int pass_turn(self) except -1
    cdef int start(self, object job) except -1
    cdef int fail_root(self, object error) except -1
    cdef int post(self, object one) except -1
    cdef Hub enter(self)
    cdef int leave(self, Hub outer) except -1
    cdef int close(self) except -1
    cdef int kill(self, object greenlet) except -1

    cdef Waiter next_ready(self)
    cdef int work(self) except -1
    cdef int end_workers(self) except -1
    cdef int switch_to(self, object greenlet) except -1
    cdef int switch(self, Waiter target, Waiter current) except -1
    cdef int cancel(self, Waiter waiter) except -1
    cdef int poll(self) except -1
    cdef int want_waking(self) except -1
    cdef int collect_posted(self) except -1
    cdef int wait_events(self) except -1
    cdef int expire(self) except -1

cdef Hub running()
cdef list forget(int fd)
cdef int wake(list waiting) except -1
cdef int limits_changed(int fd) except -1
