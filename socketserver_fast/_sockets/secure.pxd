"""Reads, writes and waits over TLS."""

cdef bint secure(object sock) except -1
cdef bint cooperates(object sock)
cdef object session_of(object sock)
cdef object read_session(object sock, object session, object size, object buffer)
cdef bint has_ended(object sock, object session) except -1
cdef Py_ssize_t send_secure(object sock, object b) except -1
