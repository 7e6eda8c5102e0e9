# cython: language_level=3, freethreading_compatible=True
"""Which requests of a server were accepted and are not finished: what drain() waits for.

Hot are claim() and release(), once for each request in the thread that accepts it and once more
where another thread carries it on (bench: tcp_close_16, threading_close_16).
"""

import threading

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.dict cimport PyDict_Size
from cpython.pythread cimport PyThread_get_thread_ident


@cython.final
cdef class Claim:
    """One request and how often it was claimed."""


@cython.final
cdef class Requests:
    """The requests in progress. Any thread may call any method.

    Whoever works on a request claims it and releases it afterwards; before it goes on to another
    thread it is claimed for that one, so that it counts as one request and is never missed.
    """

    def __cinit__(self):
        self.others = {}  # those that came while there was one, by their id()
        self.condition = threading.Condition()

    @cython.critical_section
    def __len__(self):
        return len(self.others) + (self.only is not None)

    cpdef claim(self, request):
        """Count the request as one in progress, in the hands of the calling thread."""
        self.add(request)

    cpdef release(self, request):
        """Undo one claim(); after the last one the request is finished."""
        if self.remove(request):
            with self.condition:
                self.condition.notify_all()

    @cython.critical_section
    cdef int add(self, request) except -1:
        cdef Claim claim = self.find(request)
        if claim is None:
            claim = self.spare
            self.spare = None
            if claim is None:
                claim = Claim.__new__(Claim)
            claim.request = request
            if self.only is None:
                self.only = claim
            else:
                self.others[<size_t><void *>request] = claim
        claim.thread = <unsigned long>PyThread_get_thread_ident()
        claim.count += 1
        if self.published != NULL:
            self.show()
        return 0

    cdef Claim find(self, request):
        if self.only is not None and self.only.request is request:
            return self.only
        return self.others.get(<size_t><void *>request) if self.others else None

    @cython.critical_section
    cdef int hold(self, request) except -1:
        """claim() for nobody in particular: a greenlet, whose thread is that of all others too."""
        cdef Claim claim = self.find(request)
        if claim is None:
            self.add(request)
            claim = self.find(request)
        else:
            claim.count += 1
        claim.thread = 0
        return 0

    @cython.critical_section
    cdef int take_over(self, request) except -1:
        """Note that the claimed request is in the hands of the calling thread now."""
        cdef Claim claim = self.find(request)
        if claim is not None:
            claim.thread = <unsigned long>PyThread_get_thread_ident()
        return 0

    @cython.critical_section
    cdef bint remove(self, request) except -1:
        """Return whether somebody waits for what this may have been the last of."""
        cdef Claim claim = self.find(request)
        if claim is None:
            return False
        claim.count -= 1
        if claim.count == 0:
            claim.request = None
            if claim is self.only:
                self.only = None
                self.spare = claim
            else:
                del self.others[<size_t><void *>request]
        elif claim.thread == <unsigned long>PyThread_get_thread_ident():
            claim.thread = 0  # on its way to another thread, which has not begun yet
        if self.published != NULL:
            self.show()
        return self.waiting > 0 and self.only is None and not self.others

    def publish(self, memory):
        """From now on keep the number of requests in `memory` too, a float64 that lasts."""
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        self.published = <double *>self.memory.buf

    cdef void show(self) noexcept:
        self.published[0] = PyDict_Size(self.others) + (self.only is not None)

    cdef list claims(self):
        cdef list claims = list(self.others.values())
        if self.only is not None:
            claims.append(self.only)
        return claims

    @cython.critical_section
    def requests(self):
        """Those in progress."""
        return [(<Claim>claim).request for claim in self.claims()]

    @cython.critical_section
    def held_by(self, thread):
        """Return whether the thread of this identifier works on one of them.

        The greenlets of gevent have identifiers of their own, and so never do.
        """
        return any([(<Claim>claim).thread == thread for claim in self.claims()])

    @cython.critical_section
    cdef int await_more(self, int more) except -1:
        self.waiting += more
        return 0

    def wait(self, timeout=None):
        """Wait until there is none, at most `timeout` seconds; whether there is none."""
        with self.condition:
            self.await_more(1)
            try:
                return self.condition.wait_for(lambda: not len(self), timeout)
            finally:
                self.await_more(-1)


@cython.final
cdef class Claimed:
    """What a new thread calls instead of `function`, whose name it has: releases the request."""

    cdef Requests requests
    cdef object function
    cdef readonly str __name__

    def __init__(self, Requests requests, function):
        self.requests = requests
        self.function = function
        self.__name__ = getattr(function, "__name__", "process_request_thread")

    def __call__(self, request, client_address):
        self.requests.take_over(request)
        try:
            self.function(request, client_address)
        finally:
            self.requests.release(request)
