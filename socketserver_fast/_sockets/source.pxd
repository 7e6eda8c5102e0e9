"""Reads a connection into a buffer."""

cimport cython

from socketserver_fast._sockets.writer cimport Nagle

ctypedef struct Buffer:
    char *data
    Py_ssize_t size         # of the memory at data
    Py_ssize_t start, end   # of the bytes that it holds
    Py_ssize_t taken        # bytes, in total
    bint shared             # it has memory only while it holds something

cdef enum:
    BUFFER_SIZE = 8192      # io.DEFAULT_BUFFER_SIZE until Python 3.13; 128 KiB a connection since

cdef inline Py_ssize_t held(const Buffer *buffer) noexcept:
    """Return how many bytes it holds."""
    return buffer.end - buffer.start


cdef inline char *front(const Buffer *buffer) noexcept:
    """Return the first of these bytes."""
    return buffer.data + buffer.start


cdef Py_ssize_t move(Buffer *buffer, char *target, Py_ssize_t size) noexcept


cdef class Source:
    cdef object sock        # the socket; None once closed or detached
    cdef object file        # the SocketIO, once somebody has asked for `raw`
    cdef Nagle nagle        # decides about TCP_NODELAY, or None
    cdef Buffer buffer      # bytes that were read but not yet taken
    cdef bint is_detached, timed_out
    cdef bint parked        # the socket is a cooperative one
    cdef bint awaits        # a kept connection is read for its next request
    cdef bint drained       # the last read was short: the next one will have to wait
    cdef bint is_secure     # the socket speaks TLS
    cdef bint reads_much    # the last read of that was a long one

    cdef int open(self, object sock) except -1
    cdef int open_secure(self, object sock) except -1
    cdef int let_go(self) except -1
    cdef object open_file(self)
    cdef object give_up(self)

    cdef Py_ssize_t fill(self) except -2
    cdef Py_ssize_t fill_later(self) except -2
    cdef Py_ssize_t fill_kept(self) except -2
    cdef Py_ssize_t fill_parked(self) except -2
    cdef Py_ssize_t fill_secure(self) except -2
    cdef Py_ssize_t append(self, bytes data) except -1
    cdef bint has_ended(self) except -1
    cdef object read_session(self, object size, object buffer)
    cdef Py_ssize_t receive_secure(self, char *data, Py_ssize_t size) except -2
    cdef Py_ssize_t receive(self, char *data, Py_ssize_t size) except -2
    cdef Py_ssize_t receive_by_file(self, char *data, Py_ssize_t size) except -2
    cdef Py_ssize_t read_once(self, char *target, Py_ssize_t wanted) except -2
    cdef int restore(self, const char *data, Py_ssize_t size) except -1

    @cython.final
    cdef inline bint is_closed(self):
        return self.file.closed if self.file is not None else self.sock is None

    @cython.final
    cdef inline int check_open(self, str what) except -1:
        return self.refuse(what) if self.is_detached or self.is_closed() else 0

    cdef int refuse(self, str what) except -1
