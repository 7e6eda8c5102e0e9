from socketserver_fast._running cimport Loop

cdef int serve_queued(server, Loop loop) except -1
