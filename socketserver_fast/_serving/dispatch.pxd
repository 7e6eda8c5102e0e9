from socketserver_fast._serving.serving cimport Loop

cdef object exhausted_errors

cdef int dispatch(server, request, client_address) except -1
cdef bint batching(server)
cdef int handle_batch(server, Loop loop) except -1
cdef bint handle_ready(server, Loop loop) except -1
cdef int serve_kept(server) except -1
