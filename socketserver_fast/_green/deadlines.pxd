"""The deadlines, for the hub."""

cdef class Deadline:
    cdef object owner
    cdef long long time         # of ssf_monotonic()
    cdef Py_ssize_t place       # in the heap; -1 when not in it

cdef class Deadlines:
    cdef list heap

    cdef Deadline add(self, long long time, object owner)
    cdef int remove(self, Deadline deadline) except -1
    cdef Deadline first(self)

    cdef int rise(self, Deadline deadline, Py_ssize_t place) except -1
    cdef int sink(self, Deadline deadline, Py_ssize_t place) except -1
