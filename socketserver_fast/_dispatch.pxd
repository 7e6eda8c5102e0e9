from socketserver_fast._running cimport Loop

cdef object exhausted_errors, single_handle_request

cdef bint unchanged(server, str name, function)
cdef int dispatch(server, request, client_address) except -1
cdef bint batching(server)
cdef int handle_batch(server, Loop loop) except -1
cdef bint handle_ready(server, Loop loop) except -1
