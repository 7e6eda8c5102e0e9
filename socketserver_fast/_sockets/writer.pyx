# cython: language_level=3, freethreading_compatible=True
"""Writes to a stream without a buffer: the compiled wfile, whose write() sends everything at once.

Hot are write(), once for each answer, and opening and closing, once for each connection (bench:
threading_keep_10, tcp_close_16; the gate counts the instructions of `write` and `handler`). This
saves a Python method around each write, and the bookkeeping of io.IOBase.

TCP_NODELAY is set before a second write without a read in between. Of two small writes the kernel
holds back the second until the client acknowledges the first, and a client that waits for the rest
does so 40 ms later (gh-108736). A handler that writes once for each read never needs it, and makes
no system call for it. Nor does a connection that ends after two writes need it: closing it sends
what is held back. So in the first exchange TCP_NODELAY is set before a third write, or when the
handler reads again, and that sends what is held back.
"""

import io
import socket
import socketserver

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE

from socketserver_fast._sockets.plain cimport plain, version_of
from socketserver_fast._sockets.secure cimport secure, send_secure
from socketserver_fast._sockets.wait cimport begin_wait, end_wait, send_all

cdef extern from "_sockets/portable.h":
    void SSF_DROP_DICT(SocketWriter instance)
    bint SSF_HAS_DICT(SocketWriter instance)


cdef object SocketIO = socket.SocketIO
cdef object raw_readinto = SocketIO.readinto
cdef object raw_write = SocketIO.write

# The members of a writer class that a SocketWriter replaces, except write().
MEMBERS = [name for name in dir(io.BufferedIOBase) if name[0] != "_" and name != "write"] + [
    "__new__", "__init__", "__del__", "__enter__", "__exit__", "__iter__", "__next__"]

cdef object plain_write = None
cdef dict members = {}          # of each class that SocketWriter stands in for
cdef unsigned int untouched_version = 0


cdef object writer_of(object connection, object writer_class):
    """Return the unbuffered wfile of a connection: a SocketWriter, or writer_class(connection)."""
    cdef SocketWriter compiled
    if (plain(connection) or secure(connection)) and isinstance(writer_class, type) and (
            version_of(writer_class) == untouched_version != 0 or untouched(writer_class)):
        compiled = SocketWriter.__new__(SocketWriter)
        compiled.sock = connection
        return compiled
    return writer_class(connection)


def begin_write(SocketWriter wfile):
    """Return the socket of a wfile, for sending in another way that counts as a write()."""
    return wfile.begin()


def stand_for(cls, write):
    """Register SocketWriter as a stand-in for `cls`, while nobody has replaced a method of that.

    `write` is the write() that it has then, the original one or another.
    """
    global plain_write
    plain_write = write
    members[cls] = {name: getattr(cls, name) for name in MEMBERS}
    cls.register(SocketWriter)


cdef bint untouched(cls) except -1:
    global untouched_version
    cdef unsigned int seen = version_of(cls)  # before the members are looked at
    cdef dict found = members.get(cls)
    if found is None or cls.write is not plain_write:
        return False
    for name in found:
        if getattr(cls, name, None) is not found[name]:
            return False
    untouched_version = seen
    return True


def send(sock, b):
    """Send all of the bytes-like object `b`. Returns how many bytes. Raises as sock.sendall().
    """
    return send_to(sock, b)


cdef Py_ssize_t send_to(object sock, object b) except -1:
    if not plain(sock):
        if secure(sock):
            return send_secure(sock, b)
        sock.sendall(b)
        with memoryview(b) as whole:
            return whole.nbytes
    return send_bytes(sock, b)


cdef Py_ssize_t send_bytes(object sock, object b) except -1:
    """send() to the descriptor, whatever methods the socket has."""
    cdef Py_buffer view
    if PyBytes_CheckExact(b):
        send_all(sock, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))
        return PyBytes_GET_SIZE(b)
    PyObject_GetBuffer(b, &view, PyBUF_SIMPLE)
    try:
        send_all(sock, <const char *>view.buf, view.len)
        return view.len
    finally:
        PyBuffer_Release(&view)


@cython.final
cdef class SocketWriter(Nagle):
    """The writing end of a connected, plain socket.socket: an io.BufferedIOBase without a buffer.

    close() only marks it: the socket stays open, and write() still sends, as in the stdlib.
    """

    cdef object sock
    cdef bint is_closed
    cdef dict __dict__
    cdef object __weakref__

    def __cinit__(self):
        SSF_DROP_DICT(self)

    def __init__(self, sock):
        self._sock = sock

    @property
    def _sock(self):
        """The socket that is written to. May be replaced."""
        return self.target()

    @_sock.setter
    @cython.critical_section
    def _sock(self, sock):
        self.sock = sock

    @cython.critical_section
    cdef inline object target(self):
        return self.sock

    cdef inline object begin(self):
        """Return the socket for a write, which this counts as."""
        sock = self.target()
        self.write_to(sock)
        return sock

    def write(self, b):
        """Send all of the bytes-like object `b`. Returns how many bytes.

        Raises TimeoutError when the socket's timeout, in seconds for the whole of `b`, is over,
        BrokenPipeError or ConnectionResetError when the client is gone.
        """
        return send_to(self.begin(), b)

    def writelines(self, lines):
        """Write each of the lines."""
        self.check_open()
        for line in lines:
            self.write(line)

    cdef int check_open(self) except -1:
        if self.is_closed:
            raise ValueError("I/O operation on closed file.")
        return 0

    @property
    def closed(self):
        """Return whether it is closed."""
        return self.is_closed

    def close(self):
        """Mark it as closed. The socket stays open."""
        try:
            if SSF_HAS_DICT(self) and not self.is_closed:
                self.flush()  # may be an attribute of the instance
        finally:
            self.is_closed = True

    def flush(self):
        """Do nothing. ValueError if it is closed."""
        self.check_open()

    def fileno(self):
        """Return the descriptor of the socket."""
        return self.target().fileno()

    def isatty(self):
        """Return False."""
        self.check_open()
        return False

    def readable(self):
        """Return False."""
        return False

    def writable(self):
        """Return True."""
        return True

    def seekable(self):
        """Return False."""
        return False

    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, *details):
        self.close()

    def __iter__(self):
        self.check_open()
        return self

    def __next__(self):
        self.read()

    def read(self, size=-1):
        """Raise io.UnsupportedOperation: read from rfile instead."""
        raise io.UnsupportedOperation("read")

    def readline(self, size=-1):
        """Raise io.UnsupportedOperation."""
        self.read()

    def readlines(self, hint=-1):
        """Raise io.UnsupportedOperation."""
        self.check_open()
        self.read()

    def readinto(self, buffer):
        """Raise io.UnsupportedOperation."""
        self.read()

    def read1(self, size=-1):
        """Raise io.UnsupportedOperation."""
        raise io.UnsupportedOperation("read1")

    def readinto1(self, buffer):
        """Raise io.UnsupportedOperation."""
        self.read1()

    def detach(self):
        """Raise io.UnsupportedOperation."""
        raise io.UnsupportedOperation("detach")

    def seek(self, offset, whence=0):
        """Raise io.UnsupportedOperation."""
        raise io.UnsupportedOperation("seek")

    def tell(self):
        """Raise io.UnsupportedOperation."""
        self.seek(0)

    def truncate(self, size=None):
        """Raise io.UnsupportedOperation."""
        raise io.UnsupportedOperation("truncate")


io.BufferedIOBase.register(SocketWriter)


# TCP_NODELAY.

cdef object Socket = socket.socket
cdef tuple INTERNET = (socket.AF_INET, socket.AF_INET6)
cdef str ATTRIBUTE = "disable_nagle_algorithm"

# The classes whose False is the default. A False anywhere else is a decision.
cdef list bases = [socketserver.BaseRequestHandler, socketserver.StreamRequestHandler]
cdef unsigned int undecided_version = 0


def add_bases(*classes):
    """Add classes that have the default."""
    bases.extend(classes)


cdef Nagle nagle_of(handler, wfile):
    """Return what sets TCP_NODELAY for this wfile; None if its handler has decided."""
    cdef Nagle nagle
    if not (version_of(type(handler)) == undecided_version != 0 or undecided(handler)):
        return None
    nagle = wfile if type(wfile) is SocketWriter else watch(wfile)
    nagle.undecided = True
    return nagle


cdef Nagle watch(wfile):
    """Have a wfile that is not compiled tell a Nagle of its writes."""
    cdef Nagle nagle = Nagle.__new__(Nagle)
    if type(wfile) in members:
        wfile._nagle = nagle
    elif type(wfile) is io.BufferedWriter and type(wfile.raw) is ShowingSocketIO:
        wfile.raw._nagle = nagle
    return nagle


cdef object showing(file):
    """Make the waits of a file from makefile() show, as those of the compiled files do."""
    buffered = type(file) is io.BufferedReader or type(file) is io.BufferedWriter
    raw = file.raw if buffered else file
    if type(raw) is SocketIO:
        raw.__class__ = ShowingSocketIO
    return file


class ShowingSocketIO(SocketIO):
    """The raw file of a buffered wfile, and of an rfile that is not compiled."""

    _nagle = None

    def readinto(self, b):
        """Read once into `b`: how many bytes, or None if that needs a wait and none is allowed."""
        begin_wait()
        try:
            return raw_readinto(self, b)
        finally:
            end_wait()

    def write(self, b):
        """Send the part of `b` that fits. Returns how many bytes, None if that is none."""
        if self._nagle is not None:
            before_write(self._nagle, self._sock)
        begin_wait()
        try:
            return raw_write(self, b)
        finally:
            end_wait()


def before_write(Nagle nagle, sock):
    """Count a write by a wfile that is not compiled, before it."""
    nagle.write_to(sock)


cdef bint undecided(handler) except -1:
    """Return whether a handler inherits the default.

    The instance is only looked at if a method of its class may have set the attribute there: that
    costs 2,000 instructions.
    """
    global undecided_version
    cls = type(handler)
    cdef unsigned int seen = version_of(cls)  # before the attributes are looked at
    if provider(cls, ATTRIBUTE) not in bases:
        return False
    if provider(cls, "__init__") not in bases or provider(cls, "setup") not in bases:
        return ATTRIBUTE not in getattr(handler, "__dict__", ())
    undecided_version = seen
    return True


cdef object provider(cls, str name):
    """Return the class that an attribute is inherited from."""
    for base in cls.__mro__:
        if name in vars(base):
            return base


cdef class Nagle:
    @cython.final
    cdef int set(self, sock) except -1:
        self.undecided = False
        if isinstance(sock, Socket) and sock.family in INTERNET:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            except OSError:
                pass  # the client is gone, or it is another protocol
        return 0
