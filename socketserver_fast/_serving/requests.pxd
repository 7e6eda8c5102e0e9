"""Which requests of a server were accepted and are not finished."""

cdef class Claim:
    cdef object request
    cdef unsigned long thread
    cdef int count

cdef class Requests:
    cdef Claim only, spare
    cdef dict others
    cdef int waiting
    cdef object condition
    cdef double *published
    cdef Py_buffer memory

    cpdef claim(self, request)
    cpdef release(self, request)
    cdef int add(self, request) except -1
    cdef Claim find(self, request)
    cdef int hold(self, request) except -1
    cdef int take_over(self, request) except -1
    cdef bint remove(self, request) except -1
    cdef void show(self) noexcept
    cdef list claims(self)
    cdef int await_more(self, int more) except -1
