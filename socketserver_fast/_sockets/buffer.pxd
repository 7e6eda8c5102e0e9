ctypedef struct Buffer:
    char *data
    Py_ssize_t size         # of the memory at `data`
    Py_ssize_t start, end   # of what is in it
    Py_ssize_t taken        # bytes, in all
    bint shared             # its memory is borrowed and lent

cdef enum:
    BUFFER_SIZE = 8192      # io.DEFAULT_BUFFER_SIZE until Python 3.13; 128 KiB a connection since

cdef inline Py_ssize_t held(const Buffer *buffer) noexcept:
    """How many bytes are in it."""
    return buffer.end - buffer.start


cdef inline char *front(const Buffer *buffer) noexcept:
    """The first of them."""
    return buffer.data + buffer.start


cdef int make_room(Buffer *buffer, Py_ssize_t needed) except -1
cdef Py_ssize_t move(Buffer *buffer, char *target, Py_ssize_t size) noexcept
cdef int put_back(Buffer *buffer, const char *data, Py_ssize_t size) except -1
cdef void lend(Buffer *buffer) noexcept
cdef void discard(Buffer *buffer) noexcept
