"""Writing to a connection, and when it gets TCP_NODELAY."""

cimport cython

cdef object writer_of(object connection, object writer_class, Nagle nagle)
cdef object buffered_writer_of(object connection, object wbufsize, Nagle nagle)
cdef Py_ssize_t send_bytes(object sock, object b) except -1
cdef Nagle nagle_of(handler)


@cython.final
cdef class Nagle:
    cdef int writes         # since the last read
    cdef bint kept          # this may be a second exchange: something was read after a write
    cdef bint is_done       # set, or it cannot be

    cdef int set(self, sock) except -1

    cdef inline int write_to(self, sock) except -1:
        """Before a write."""
        if self.is_done:
            return 0
        self.writes += 1
        if self.writes > 1 and (self.kept or self.writes > 2):
            self.set(sock)
        return 0

    cdef inline int read_from(self, sock) except -1:
        """Before a read."""
        if self.is_done or self.writes == 0:
            return 0
        if self.writes > 1:
            self.set(sock)  # which also sends what the kernel still holds back
        self.kept = True
        self.writes = 0
        return 0
