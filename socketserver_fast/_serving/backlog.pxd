from socketserver_fast._serving.running cimport Loop

cdef int serve_queued(server, Loop loop) except -1
