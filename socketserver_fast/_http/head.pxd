"""What may be done with the messages that http.server has headers in."""

cdef bint is_plain(cls) except -1
