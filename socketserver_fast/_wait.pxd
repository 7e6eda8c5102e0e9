"""The one place that blocks: what the reader, the writer and the loop call to read, send, wait."""

cdef extern from "_portable.h" nogil:
    const int SSF_NATIVE
    const int POLLIN
    const int POLLOUT
    const int POLLNVAL
    ctypedef struct ssf_pollfd:
        int fd
        short events
        short revents
    int ssf_poll(ssf_pollfd *fds, int count, int milliseconds)
    long long ssf_monotonic()

cdef enum:
    WOULD_BLOCK = -1

cdef bint plain(object sock)
cdef int descriptor(object sock) except? -1
cdef int fail(Py_ssize_t error) except -1
cdef int wait(ssf_pollfd *fds, int count, long long nanoseconds) except -1

cdef Py_ssize_t receive_now(object sock, char *data, Py_ssize_t size) except -2
cdef Py_ssize_t receive_waiting(object sock, char *data, Py_ssize_t size) except -2
cdef int send_all(object sock, const char *data, Py_ssize_t size) except -1
