# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""A reader's buffer: memory that is made when it is needed, and grows for as long as a line needs.

Of shared buffers only those exist that are in use. An empty one is lent to whoever needs one next,
so that idle connections have none and busy ones share what the processor has at hand. They are for
greenlets, which exist under the GIL only, and that guards this.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.string cimport memcpy, memmove

cdef enum:
    SPARE_BUFFERS = 16

cdef char *spare[SPARE_BUFFERS]
cdef int spares = 0


cdef int make_room(Buffer *buffer, Py_ssize_t needed) except -1:
    """Room for `needed` bytes behind the end."""
    cdef Py_ssize_t used = held(buffer)
    cdef Py_ssize_t size = max(buffer.size, BUFFER_SIZE)
    if used == 0:
        buffer.start = buffer.end = 0
        if size > BUFFER_SIZE >= needed:  # a long line is over
            return resize(buffer, BUFFER_SIZE)
    if buffer.size - buffer.end >= needed:
        return 0
    if used > 0:  # there may be no memory yet, and memmove() wants some even for nothing
        memmove(buffer.data, front(buffer), used)
    buffer.start = 0
    buffer.end = used
    while size - used < needed:
        size *= 2
    return resize(buffer, size) if size != buffer.size else 0


cdef int resize(Buffer *buffer, Py_ssize_t size) except -1:
    global spares
    cdef char *data
    if buffer.shared and spares > 0 and buffer.data == NULL and size == BUFFER_SIZE:
        spares -= 1
        data = spare[spares]
    else:
        data = <char *>PyMem_RawRealloc(buffer.data, size)
        if data == NULL:
            raise MemoryError
    buffer.data = data
    buffer.size = size
    return 0


cdef void lend(Buffer *buffer) noexcept:
    """Leave an empty shared buffer to others."""
    global spares
    if held(buffer) > 0:
        return
    if buffer.data != NULL and buffer.size == BUFFER_SIZE and spares < SPARE_BUFFERS:
        spare[spares] = buffer.data
        spares += 1
        buffer.data = NULL
    discard(buffer)


cdef void discard(Buffer *buffer) noexcept:
    PyMem_RawFree(buffer.data)
    buffer.data = NULL
    buffer.size = buffer.start = buffer.end = 0


cdef Py_ssize_t move(Buffer *buffer, char *target, Py_ssize_t size) noexcept:
    """Move what is in it, at most `size` bytes, to `target`: how many."""
    size = min(size, held(buffer))
    if size > 0:
        memcpy(target, front(buffer), size)
        buffer.start += size
        buffer.taken += size
    return size


cdef int put_back(Buffer *buffer, const char *data, Py_ssize_t size) except -1:
    """Put what was moved out, but can't be used, before the rest."""
    cdef Py_ssize_t used = held(buffer)
    if size == 0:
        return 0
    make_room(buffer, size)
    memmove(front(buffer) + size, front(buffer), used)
    memcpy(front(buffer), data, size)
    buffer.end += size
    buffer.taken -= size
    return 0
