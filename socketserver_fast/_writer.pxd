"""What sends a whole bytes-like object, for the writer and for cooperative sockets."""

cdef Py_ssize_t send_to(object sock, object b) except -1
