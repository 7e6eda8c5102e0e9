cdef int await_request(sock) except -1
cdef int stop_awaiting(sock) except -1
