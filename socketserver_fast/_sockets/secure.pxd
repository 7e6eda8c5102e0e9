"""Reads, writes and waits over TLS."""

cdef bint secure(object sock) except -1
cdef bint cooperates(object sock)
cdef bint is_set_on(object sock, tuple names) except -1
cdef object session_to_read(object sock)
cdef Py_ssize_t left_of_record(object sock) except -1
cdef object read_session(object sock, object session, object size, object buffer)
cdef bint has_ended(object sock, object session) except -1
cdef Py_ssize_t send_secure(object sock, object b) except -1
