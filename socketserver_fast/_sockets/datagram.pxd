"""Receives datagrams in batches."""

from socketserver_fast._sockets.wait cimport sockaddr_storage, ssf_packet

cdef extern from "_sockets/portable.h":
    const int SSF_BATCH

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
