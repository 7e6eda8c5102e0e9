"""A batch of datagrams, for the loop."""

cdef extern from "_portable.h" nogil:
    const int SSF_BATCH
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        pass
    ctypedef struct ssf_packet:
        char *data
        Py_ssize_t length
        sockaddr_storage address
        unsigned int address_length

cdef bint batchable(object sock)

cdef class Batch:
    cdef char *memory
    cdef Py_ssize_t size
    cdef ssf_packet packets[16]

    cdef int receive(self, object sock, Py_ssize_t size, int most) except -1
    cdef tuple request(self, int index, object sock)
