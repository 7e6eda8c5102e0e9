"""Declares the dispatch of requests, and which hooks are still the originals."""

from socketserver_fast._serving.serving cimport Loop

cdef object exhausted_errors

cdef int dispatch(server, request, client_address) except -1
cdef bint batching(server)
cdef int handle_batch(server, Loop loop) except -1
cdef bint handle_ready(server, Loop loop) except -1
cdef int serve_kept(server) except -1

cdef class Originals:
    cdef dict functions                   # of each hook's name, a list
    cdef unsigned int intact_version      # of the last class that has only originals
    cdef unsigned int replaced_version    # of the last class that has others

    cdef int declare(self, dict hooks) except -1
    cdef bint intact(self, server) except -1
    cdef bint inherited(self, cls) except -1

cdef Originals receiving, sharing, accepting, draining
