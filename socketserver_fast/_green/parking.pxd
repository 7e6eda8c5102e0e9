"""How greenlets wait, for serving."""

from socketserver_fast._green.hub cimport Hub

cdef int register(Hub hub) except -1
