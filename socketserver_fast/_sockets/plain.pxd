"""Decides when a socket's own methods may be bypassed, and does what they do."""

cdef bint plain(object sock)
cdef bint familiar_sockets() noexcept
cdef bint parks(object sock)
cdef int let_park(object kind) except -1
cdef unsigned int version_of(object kind)
cdef int descriptor(object sock) except? -1
cdef object timeout_of(object sock)
cdef int family_of(object sock) except -1
cdef bint is_stream(object sock) except -1
cdef tuple kind_of(object sock)
cdef object new_socket(object cls, tuple kind, int fd)
cdef int hold(object sock) except -1
cdef int release(object sock) except -1
cdef int end_hold(object sock) except -1
