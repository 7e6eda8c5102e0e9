from socketserver_fast._serving.serving cimport Loop

cdef int serve_queued(server, Loop loop) except -1
