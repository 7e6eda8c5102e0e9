# cython: language_level=3, freethreading_compatible=True
"""Sends responses with few system calls: by sendfile(2), and the head together with a small body.

Which files sendfile(2) may be used for, files.py knows. Collecting is hot, once for each file of
http.server (bench: threadinghttp_static_1k).
"""

import io

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE)
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSYS, EOPNOTSUPP, EOVERFLOW, ESPIPE

from socketserver_fast._sockets.plain cimport descriptor, parks, plain, timeout_of, version_of
from socketserver_fast._sockets.wait cimport (
    NO_WAITING, POLLOUT, UNSET, begin_wait, end_wait, fail, nanoseconds, park, spend, ssf_pollfd,
    wait)

cdef extern from "_sockets/portable.h" nogil:
    Py_ssize_t ssf_sendfile(int sock, int file, long long offset, size_t size)
    Py_ssize_t ssf_sendfile_now(int sock, int file, long long offset, size_t size)
    Py_ssize_t ssf_read_cached(int file, char *data, size_t size)
    long long ssf_regular_size(int file)

cdef enum:
    PIECE = 262144  # bytes, before signals and other greenlets get their turn
    MOST_COLLECTED = 65536  # bytes

cdef unsigned int unchanged_version = 0


def send(sock, file, long long offset, long long end):
    """Send the file from `offset` to `end`: up to where it was sent, and whether that is all there
    is, which it is not where the kernel refuses. The socket's timeout counts for each wait.

    The file's position is behind what was sent, also after an error.
    """
    cdef Py_ssize_t sent
    cdef int fd, source = file.fileno()
    cdef bint parking = parks(sock)
    if not plain(sock):
        file.seek(offset)
        return offset, False
    try:
        while offset < end:
            fd = descriptor(sock)
            with nogil:
                begin_wait()
                sent = send_piece(fd, source, offset, end, parking)
            offset += max(sent, 0)
            end_wait()
            PyErr_CheckSignals()
            if sent > 0:
                if parking:
                    spend()
            elif sent == -EAGAIN:
                wait_for_room(sock)
            elif sent in (-EINVAL, -ENOSYS, -EOPNOTSUPP, -EOVERFLOW, -ESPIPE):
                return offset, False
            elif sent == 0:
                break
            elif sent != -EINTR:
                fail(sent)
    finally:
        file.seek(offset)
    return offset, True


cdef inline Py_ssize_t send_piece(int fd, int file, long long offset, long long end,
                                  bint parking) noexcept nogil:
    """There is no MSG_DONTWAIT for sendfile(2), and a cooperative socket's descriptor may block."""
    cdef size_t size = <size_t>min(end - offset, <long long>PIECE)
    if parking:
        return ssf_sendfile_now(fd, file, offset, size)
    return ssf_sendfile(fd, file, offset, size)


cdef int wait_for_room(sock) except -1:
    """Wait until something more can be sent; TimeoutError, or what a send without a wait raises."""
    cdef long long deadline = UNSET
    cdef ssf_pollfd room
    cdef int ready
    if parks(sock):
        ready = park(sock, POLLOUT, &deadline)
    else:
        seconds = timeout_of(sock)
        if not seconds:  # O_NONBLOCK, or SO_SNDTIMEO ran out
            ready = NO_WAITING
        else:
            room.fd = descriptor(sock)
            room.events = POLLOUT
            ready = wait(&room, 1, nanoseconds(seconds))
    if ready == NO_WAITING:
        fail(-EAGAIN)
    if ready == 0:
        raise TimeoutError("timed out")
    return 0


def size_of(file):
    """Return the bytes of an ordinary open regular file; None for others, which may read otherwise.
    """
    raw = file.raw if type(file) is io.BufferedReader else file
    if type(raw) is not io.FileIO:
        return None
    cdef long long size = ssf_regular_size(raw.fileno())
    return size if size >= 0 else None


def cached(file, Py_ssize_t size):
    """Return the first bytes of a file; None if they are many, or not in the kernel's cache.

    Neither the file's position nor its buffer counts or changes. Like a send it keeps the GIL.
    """
    if size > MOST_COLLECTED:
        return None
    cdef bytes content = PyBytes_FromStringAndSize(NULL, size)
    if ssf_read_cached(file.fileno(), PyBytes_AS_STRING(content), size) != size:
        return None
    return content


@cython.final
cdef class Collecting:
    """Stands for a wfile and keeps what is written, until that is much or something else is asked
    of it."""

    cdef object wfile
    cdef list pieces
    cdef Py_ssize_t size

    def __cinit__(self, wfile):
        self.wfile = wfile
        self.pieces = []

    def write(self, data):
        """Keep the bytes, or send them: how many there are."""
        cdef Py_ssize_t size
        if PyBytes_CheckExact(data):
            size = PyBytes_GET_SIZE(data)
            if size <= MOST_COLLECTED - self.size:
                self.size += size
                self.pieces.append(data)
                return size
        return self.uncollected().write(data)

    def uncollected(self):
        """Send what was kept; the wfile itself."""
        if self.pieces:
            whole = b"".join(self.pieces)
            self.pieces.clear()
            self.size = 0
            self.wfile.write(whole)
        return self.wfile

    def __getattr__(self, name):
        return getattr(self.uncollected(), name)


def has_only(handler, dict codes):
    """Return whether the methods of these names have these codes; always asked with the same dict.

    Not whether they are the same functions: a module that runs as __main__ has its own.
    """
    global unchanged_version
    cdef dict own = handler.__dict__
    cls = type(handler)
    cdef unsigned int seen = version_of(cls)  # which a change of an attribute changes
    for name in codes:
        if name in own:
            return False
    if seen == unchanged_version != 0:
        return True
    for name in codes:
        if getattr(getattr(cls, name, None), "__code__", None) != codes[name]:
            return False
    unchanged_version = seen
    return True
