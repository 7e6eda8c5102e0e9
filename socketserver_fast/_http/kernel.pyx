# cython: language_level=3, freethreading_compatible=True
"""sendfile(2) to plain and cooperative sockets. Which files it may be used for, files.py knows."""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSYS, EOPNOTSUPP, EOVERFLOW, ESPIPE

from socketserver_fast._sockets.plain cimport descriptor, parks, plain, timeout_of
from socketserver_fast._sockets.wait cimport (
    NO_WAITING, POLLOUT, UNSET, fail, nanoseconds, park, spend, ssf_pollfd, wait)

cdef extern from "_sockets/portable.h" nogil:
    Py_ssize_t ssf_sendfile(int sock, int file, long long offset, size_t size)
    Py_ssize_t ssf_sendfile_now(int sock, int file, long long offset, size_t size)

cdef enum:
    PIECE = 262144  # bytes, before signals and other greenlets get their turn


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
                sent = send_piece(fd, source, offset, end, parking)
            offset += max(sent, 0)
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
