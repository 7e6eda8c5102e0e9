# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False
"""The file that a datagram's rfile and wfile are.

Hot is what every packet does with them (bench: udp_echo_64, pyperf_datagram): opening both, one
read, one write, and taking the reply out. They keep the bytes that they were given instead of
copying them, and have no __dict__ until somebody sets an attribute.
"""

import io
import sys

cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE)
from libc.string cimport memchr

# A BytesIO that is closed refuses everything; since Python 3.14 it looks at the argument first.
cdef bint CLOSED_FIRST = sys.version_info < (3, 14)


cdef inline Py_ssize_t count(object size) except? -2:
    """A size argument as BytesIO takes it: an integer, or None for "no limit"."""
    return -1 if size is None else size


cdef bytes bytes_of(object data):
    """A copy of a bytes-like object."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_CONTIG_RO)
    try:
        return PyBytes_FromStringAndSize(<const char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


@cython.final
@cython.freelist(8)
cdef class PacketBuffer:
    """A datagram's rfile or wfile: an io.BytesIO in all that it does.

    Reading, reading a line, the first write and getvalue() of bytes are done here and copy no more
    than they must; everything else makes a real BytesIO of it first.
    """

    cdef bytes content
    cdef Py_ssize_t position
    cdef object file
    cdef object __weakref__

    def __cinit__(self):
        self.content = b""  # for __new__() without __init__()

    def __init__(self, initial_bytes=b""):
        if not PyBytes_CheckExact(initial_bytes):
            initial_bytes = io.BytesIO(initial_bytes).getvalue()
        self.file = None
        self.position = 0
        self.content = initial_bytes

    def __reduce__(self):
        """A copy, or what was pickled, is a BytesIO."""
        return io.BytesIO, (), self.full().__getstate__()

    cdef object full(self):
        """The BytesIO that does the rest."""
        if self.file is None:
            file = io.BytesIO(self.content)
            file.seek(self.position)
            self.keep(file)
        return self.file

    @cython.critical_section
    cdef int keep(self, object file) except -1:
        if self.file is None:  # else another thread was faster
            self.file = file
        return 0

    cdef object delegate(self, str name, tuple arguments):
        return getattr(self.full(), name)(*arguments)

    cdef Py_ssize_t left(self, Py_ssize_t wanted) noexcept:
        """How many bytes a read of as many as `wanted` gives."""
        cdef Py_ssize_t left = max(PyBytes_GET_SIZE(self.content) - self.position, 0)
        return left if wanted < 0 else min(wanted, left)

    cdef bytes take(self, Py_ssize_t size):
        cdef bytes content = self.content
        cdef Py_ssize_t start = self.position
        self.position += size
        if size == PyBytes_GET_SIZE(content):
            return content
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(content) + start, size)

    @cython.critical_section
    def read(self, size=-1):
        """At most `size` bytes, all that is left without one."""
        cdef Py_ssize_t wanted = count(size)  # first: an __index__() may use this file
        if self.file is not None:
            return self.delegate("read", (wanted,))
        return self.take(self.left(wanted))

    @cython.critical_section
    def readline(self, size=-1):
        """The next line with its newline, at most `size` bytes."""
        cdef Py_ssize_t wanted = count(size)
        if self.file is not None:
            return self.delegate("readline", (wanted,))
        cdef Py_ssize_t left = self.left(wanted)
        cdef const char *start = PyBytes_AS_STRING(self.content) + self.position
        cdef const char *newline = <const char *>memchr(start, 10, left)
        return self.take(left if newline == NULL else newline + 1 - start)

    @cython.critical_section
    def write(self, b):
        """Write the bytes-like `b` at the position; how many bytes."""
        if not PyBytes_CheckExact(b):
            if CLOSED_FIRST and self.file is not None:
                self.delegate("tell", ())  # ValueError if it is closed
            b = bytes_of(b)  # first: a __buffer__() may use this file, and BytesIO would crash
        if self.file is None and not self.content and not self.position:
            self.content = b
            self.position = PyBytes_GET_SIZE(b)
            return self.position
        return self.delegate("write", (b,))

    @cython.critical_section
    def getvalue(self):
        """All that it holds, as bytes."""
        return self.content if self.file is None else self.delegate("getvalue", ())

    def __iter__(self):
        iter(self.full())
        return self

    def __next__(self):
        return next(self.full())

    def __enter__(self):
        self.full().__enter__()
        return self

    def __exit__(self, *details):
        self.full().close()

    def __getattr__(self, name):
        return getattr(self.full(), name)

    def __setattr__(self, name, value):
        setattr(self.full(), name, value)

    def __delattr__(self, name):
        delattr(self.full(), name)


io.BufferedIOBase.register(PacketBuffer)


def open_packet(packet):
    """PacketBuffer(packet), without what a class costs to call."""
    cdef PacketBuffer buffer
    if not PyBytes_CheckExact(packet):
        return PacketBuffer(packet)
    buffer = PacketBuffer.__new__(PacketBuffer)
    buffer.content = packet
    return buffer
