"""Is a hook still the original? Compiled paths do the work of those that nobody replaced."""

cdef class Originals:
    cdef dict functions
    cdef unsigned int intact_version      # of the last class that has them
    cdef unsigned int replaced_version    # of the last class that has not

    cpdef bint intact(self, server) except -1
    cdef bint has_originals(self, cls) except -1

cdef Originals batching, sharing, accepting, draining
