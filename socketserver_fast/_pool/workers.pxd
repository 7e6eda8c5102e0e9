"""The threads of a pool: started, idle, woken, joined."""

cdef class Workers:
    cdef object lock, changed, make_worker
    cdef list workers, idle, closing
    cdef int generation, number, watched

    cpdef reset(self)
    cdef int tell(self) except -1
    cdef int await_change(self, seconds=*) except -1
    cdef object hire(self, server)
    cdef bint start(self, worker) except -1
    cdef int count_in(self, worker) except -1
    cdef dismiss(self, worker)
    cdef int wake_one(self) except -1
    cdef int wake_all(self) except -1
    cdef bint sleep(self, worker, seconds) except -1
