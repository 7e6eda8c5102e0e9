"""Receives datagrams in batches."""

cdef extern from "_sockets/portable.h" nogil:
    const int SSF_BATCH
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        unsigned short ss_family
    ctypedef struct ssf_packet:
        char *data
        Py_ssize_t length
        int flags
        sockaddr_storage address
        unsigned int address_length

cdef bint batchable(object sock)
cdef bint has_address(object sock) except -1
cdef object address_of(const ssf_packet *packet)
cdef bint has_kept(server)
cdef object take_kept(server)

cdef class Batch:
    cdef object sock
    cdef int limit
    cdef bint found_nothing     # the last receive() did
    cdef char *memory
    cdef Py_ssize_t size
    cdef ssf_packet packets[16]
    cdef sockaddr_storage known[16]
    cdef list senders

    cdef int receive(self, Py_ssize_t size, int most) except -1
    cdef int note(self, int index, object server) except -1
    cdef int keep(self, int first, int end, object server) except -1
    cdef tuple request(self, int index)
    cdef object sender(self, int index)
