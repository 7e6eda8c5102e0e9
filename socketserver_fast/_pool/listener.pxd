"""A listener from which the workers of a pool take requests by themselves."""

cpdef bint unchanged(server) except -1

cdef class SharedListener:
    cdef int waiting_end, waking_end
    cdef bint blocking

    cdef bint open(self, server) except -1
    cdef bint unblock(self, sock) except -1
    cdef int close(self, server) except -1
    cdef int close_pipe(self) except -1
    cdef int interrupt(self) except -1
    cdef bint wait(self, server) except -1
    cdef object take(self, server)
    cdef bint ready(self, server) except -1
    cdef object take_at_once(self, server)
