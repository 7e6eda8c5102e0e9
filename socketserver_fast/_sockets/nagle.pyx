# cython: language_level=3, freethreading_compatible=True
"""When a connection gets TCP_NODELAY: before a second write without a read in between.

Of two small writes the kernel holds back the second until the client acknowledges the first, and a
client that waits for the rest does so 40 ms later (gh-108736). A handler that writes once for each
read never meets this, and pays no system call for it.

Neither does a connection that ends after two writes: closing it sends what is held back. So the
first exchange only gets TCP_NODELAY with a third write, or when the handler reads again, which then
sends what is held back.
"""

import socket
import socketserver

cimport cython

from socketserver_fast._sockets.plain cimport version_of

cdef object Socket = socket.socket
cdef tuple INTERNET = (socket.AF_INET, socket.AF_INET6)
cdef str ATTRIBUTE = "disable_nagle_algorithm"

# The classes whose False is the default; whoever else says False has decided.
cdef list bases = [socketserver.BaseRequestHandler, socketserver.StreamRequestHandler]
cdef unsigned int undecided_version = 0


def add_bases(*classes):
    """These have the default too."""
    bases.extend(classes)


cdef Nagle nagle_of(handler):
    """What a handler's rfile and wfile share; None if it or its class says False itself."""
    if version_of(type(handler)) == undecided_version != 0 or undecided(handler):
        return Nagle.__new__(Nagle)
    return None


cdef bint undecided(handler) except -1:
    """Whether a handler inherits the default. The instance is only asked when somebody's own code
    may have set it there: that costs 2,000 instructions."""
    global undecided_version
    cls = type(handler)
    cdef unsigned int seen = version_of(cls)  # which a change of an attribute changes
    if provider(cls, ATTRIBUTE) not in bases:
        return False
    if provider(cls, "__init__") not in bases or provider(cls, "setup") not in bases:
        return ATTRIBUTE not in getattr(handler, "__dict__", ())
    undecided_version = seen
    return True


cdef object provider(cls, str name):
    """The class that an attribute is inherited from."""
    for base in cls.__mro__:
        if name in vars(base):
            return base


@cython.freelist(64)
cdef class Nagle:
    def before_write(self, sock):
        """What a compiled wfile does by itself."""
        self.write_to(sock)

    cdef int set(self, sock) except -1:
        self.is_done = True
        if isinstance(sock, Socket) and sock.family in INTERNET:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            except OSError:
                pass  # the client is gone, or it is another protocol
        return 0
