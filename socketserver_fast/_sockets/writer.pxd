"""What sends a whole bytes-like object through a cooperative socket."""

cdef Py_ssize_t send_bytes(object sock, object b) except -1
