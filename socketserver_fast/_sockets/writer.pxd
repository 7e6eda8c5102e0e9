"""Writes to a connection, and decides when it gets TCP_NODELAY."""

cimport cython

cdef object writer_of(object connection, object writer_class)
cdef Py_ssize_t send_bytes(object sock, object b) except -1
cdef object showing(object file)
cdef Nagle nagle_of(handler, wfile)


cdef class Nagle:
    """Counts the writes and reads of a connection that may need TCP_NODELAY.

    A compiled wfile is one itself.
    """

    cdef int writes         # since the last read
    cdef bint kept          # something was read after a write: this may be a second exchange
    cdef bint undecided     # it may still be set

    cdef int set(self, sock) except -1

    @cython.final
    cdef inline int write_to(self, sock) except -1:
        """Called before a write."""
        if not self.undecided:
            return 0
        self.writes += 1
        if self.writes > 1 and (self.kept or self.writes > 2):
            self.set(sock)
        return 0

    @cython.final
    cdef inline int read_from(self, sock) except -1:
        """Called before a read."""
        if self.writes == 0 or not self.undecided:
            return 0
        if self.writes > 1:
            self.set(sock)  # this also sends what the kernel still holds back
        self.kept = True
        self.writes = 0
        return 0
