"""Declares what one server has while it serves: a Serving, and a Loop in serve_forever()."""

cdef enum:
    RETRY_NANOSECONDS = 50000000     # out of descriptors: as long as between two tries

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
    cdef int add(self, request, unsigned long thread) except -1
    cdef Claim find(self, request)
    cdef int take_over(self, request) except -1
    cdef bint remove(self, request) except -1
    cdef void show(self) noexcept
    cdef list claims(self)
    cdef int await_more(self, int more) except -1

cdef class Loop:
    cdef object server, thread
    cdef object waiting_end, waking_end  # sockets; the latter is written to at each wake-up
    cdef object replaced        # by wake_at_signals(): what signal.set_wakeup_fd() had before
    cdef object rest            # called instead of sleeping, so that greenlets keep running
    cdef bint exhausted, reported
    cdef object batch           # of a server of datagrams, see dispatch.handle_batch()
    cdef int batch_size

    cpdef bint open(self, bint always=*) except -1
    cpdef wake_at_signals(self, bint always=*)
    cpdef ignore_signals(self)
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
