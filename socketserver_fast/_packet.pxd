"""The file of a datagram, for what sends it as the reply."""

cdef class PacketBuffer:
    cdef bytes content
    cdef Py_ssize_t position
    cdef object file
    cdef object __weakref__

    cdef object full(self)
    cdef object delegate(self, str name, tuple arguments)
    cdef Py_ssize_t left(self, object size) except -1
    cdef bytes take(self, Py_ssize_t size)
