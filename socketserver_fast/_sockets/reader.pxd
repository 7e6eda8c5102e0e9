"""Reads more from an rfile than its methods do."""

# Returns how many bytes at the front of a buffer are complete, or one of these two.
ctypedef Py_ssize_t (*Scanner)(const char *data, Py_ssize_t size, void *state) noexcept nogil
cdef enum:
    INCOMPLETE = 0
    NOT_PLAIN = -1

cdef bytes take_scanned(object file, Scanner scan, void *state)
