# cython: language_level=3, freethreading_compatible=True
"""Which requests of a server were accepted and are not finished: what drain() waits for.

Hot are claim() and release(), once for each request in the thread that accepts it and once more
where another thread carries it on (bench: tcp_close_16, threading_close_16).
"""

import threading

cimport cython


@cython.final
cdef class Claim:
    cdef object request, thread
    cdef int count


@cython.final
cdef class Requests:
    """The requests in progress. Any thread may call any method.

    Whoever works on a request claims it and releases it afterwards; before it goes on to another
    thread it is claimed for that one, so that it counts as one request and is never missed.
    """

    def __cinit__(self):
        self.held = {}
        self.condition = threading.Condition()

    def __len__(self):
        return len(self.held)

    cpdef claim(self, request):
        """Count the request as one in progress, in the hands of the calling thread."""
        thread = threading.get_ident()  # by name: gevent replaces it
        self.add(request, thread)

    @cython.critical_section
    cdef add(self, request, thread):
        cdef object key = <size_t><void *>request
        cdef Claim claim = self.held.get(key)
        if claim is None:
            claim = Claim.__new__(Claim)
            claim.request = request
            self.held[key] = claim
        claim.thread = thread
        claim.count += 1

    @cython.critical_section
    cdef take_over(self, request, thread):
        """Note that the claimed request is in the hands of this thread now."""
        cdef Claim claim = self.held.get(<size_t><void *>request)
        if claim is not None:
            claim.thread = thread

    cpdef release(self, request):
        """Undo one claim(); after the last one the request is finished."""
        if self.remove(request):
            with self.condition:
                self.condition.notify_all()

    @cython.critical_section
    cdef bint remove(self, request) except -1:
        """Whether somebody waits for what this may have been the last of."""
        cdef object key = <size_t><void *>request
        cdef Claim claim = self.held.get(key)
        if claim is not None:
            claim.count -= 1
            if claim.count <= 0:
                del self.held[key]
        return self.waiting > 0 and not self.held

    @cython.critical_section
    def requests(self):
        """Those in progress."""
        return [(<Claim>claim).request for claim in self.held.values()]

    @cython.critical_section
    def held_by(self, thread):
        """Whether the thread of this identifier works on one of them."""
        return any([(<Claim>claim).thread == thread for claim in self.held.values()])

    @cython.critical_section
    cdef bint await_more(self, int more) except -1:
        self.waiting += more
        return bool(self.held)

    def wait(self, timeout=None):
        """Wait until there is none, at most `timeout` seconds; whether there is none."""
        with self.condition:
            self.await_more(1)
            try:
                return self.condition.wait_for(lambda: not self.held, timeout)
            finally:
                self.await_more(-1)


cpdef Requests requests_of(server):
    """The server's Requests. Made when first asked for: a server need not have been constructed."""
    cdef dict attributes = server.__dict__
    found = attributes.get("_BaseServer__requests")
    if found is None:
        found = attributes.setdefault("_BaseServer__requests", Requests())
    return found


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
        self.requests.take_over(request, threading.get_ident())
        try:
            self.function(request, client_address)
        finally:
            self.requests.release(request)
