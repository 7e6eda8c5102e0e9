from socketserver_fast._serving.serving cimport Loop

cdef object exhausted_errors

# Accepts for a hub, whose sockets never block; None for a listener that is not a hub's.
ctypedef object (*Accept)(object listener)

cdef int accept_by(Accept function) except -1
cdef int dispatch(server, request, client_address) except -1
cdef bint batching(server)
cdef int handle_batch(server, Loop loop) except -1
cdef bint handle_ready(server, Loop loop) except -1
cdef int serve_kept(server) except -1
