"""What the hub shares with the loop: the wake-up, and taking what made a listener ready."""

from socketserver_fast._datagram cimport Batch

cdef class Loop:
    cdef object waiting_end, waking_end, thread
    cdef object rest            # in the place of a sleep, where there is something else to do
    cdef bint exhausted, reported, hears_signals
    cdef Batch batch
    cdef int batch_size

    cdef bint open(self) except -1
    cdef wake(self)
    cpdef clear(self)
    cdef close(self)
    cdef int back_off(self) except -1

cdef long long nanoseconds(seconds) except? -2
cdef bint batching(server)
cdef int handle_batch(server, Loop loop) except -1
cdef int serve_queued(server, Loop loop) except -1
