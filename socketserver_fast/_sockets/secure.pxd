"""ssl.SSLSocket whose own read() and write() may be called directly."""

cdef bint secure(object sock) except -1
cdef object open_raw(object connection)
cdef Py_ssize_t send_secure(object sock, object b) except -1
