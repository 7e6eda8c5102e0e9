"""Which requests of a server were accepted and are not finished."""

cdef class Requests:
    cdef dict held
    cdef int waiting
    cdef object condition

    cpdef claim(self, request)
    cpdef release(self, request)
    cdef add(self, request, thread)
    cdef take_over(self, request, thread)
    cdef bint remove(self, request) except -1
    cdef bint await_more(self, int more) except -1

cpdef Requests requests_of(server)
