"""Which workers of a pool may run."""

from socketserver_fast._sockets.wait cimport ssf_waits
from socketserver_fast._pool.workers cimport Workers

cdef class Turn:
    cdef ssf_waits waits
    cdef Turns pool
    cdef object server, worker
    cdef long served

    cdef int resume(self) except -1

cdef class Turns(Workers):
    cdef readonly bint serving  # serve_forever() runs: idle workers stay
    cdef set running
    cdef object defaults, returning, stalled
    cdef int lent, extra
    cdef object descriptors  # connections that the limit of descriptors allows
    cdef Py_ssize_t limit
    cdef long served
    cdef double looked, moved
    cdef int brief  # how many looks more come soon one after the other
    cdef set reported

    cdef bint free(self, server) except -1
    cdef bint may_hire(self, server) except -1
    cdef object setting(self, server, str name)
    cdef object most(self, server)
    cdef int set_limit(self, server) except -1
    cdef long count_served(self) except -1
    cdef int end_turn(self, server, Turn turn) except -1
    cdef int let_return(self, server) except -1
    cdef int look(self, server, bint wanted) except -1
    cdef double moment(self) except -1
    cdef bint has_room(self, server) except -1
    cdef bint lend_turns(self) except -1
    cdef int lend(self, Turn turn) except -1
    cdef int notice_stall(self, server, double now) except -1
    cdef int report(self, server) except -1
