"""What one server has while it serves: one Serving, and a Loop for as long as serve_forever() runs."""

from socketserver_fast._serving.requests cimport Requests
from socketserver_fast._sockets.datagram cimport Batch

cdef enum:
    RETRY_NANOSECONDS = 50000000     # out of descriptors: as long as between two tries

cdef class Loop:
    cdef object server, waiting_end, thread
    cdef readonly object waking_end  # written to at each wake-up, and at each signal
    cdef object rest            # called instead of sleeping, so that greenlets keep running
    cdef bint exhausted, reported
    cdef Batch batch
    cdef int batch_size

    cpdef bint open(self) except -1
    cdef wake(self)
    cpdef clear(self)
    cpdef close(self)
    cdef int back_off(self) except -1

cdef class Serving:
    cdef readonly Requests requests
    cdef Loop loop
    cdef bint draining, gave_up
    cdef object greenlets       # a GreenletMixIn's

    cdef Loop running_loop(self)
    cdef int begin(self, Loop loop) except -1
    cdef int end(self, Loop loop) except -1

cpdef Serving serving_of(server)
cpdef Requests requests_of(server)
cdef Loop loop_of(server)
cpdef bint stop_requested(server) except -1
cpdef bint is_draining(server) except -1
