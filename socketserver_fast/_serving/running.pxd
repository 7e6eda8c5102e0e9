from socketserver_fast._sockets.datagram cimport Batch

cdef enum:
    RETRY_NANOSECONDS = 50000000     # out of descriptors: as long as between two tries

cdef class Loop:
    cdef object waiting_end, waking_end, thread
    cdef object rest            # in the place of a sleep, where there is something else to do
    cdef bint exhausted, reported
    cdef Batch batch
    cdef int batch_size

    cdef bint open(self) except -1
    cdef wake(self)
    cpdef clear(self)
    cdef close(self)
    cdef int back_off(self) except -1

cdef Loop loop_of(server)
