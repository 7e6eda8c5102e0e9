# cython: language_level=3, freethreading_compatible=True
"""rfile and wfile over TLS: straight to SSLSocket.read() and write().

Hot are readinto() and send_secure(), once for each line. What is saved is three methods in Python
around each read and two around each write: a line that is read and answered costs 27,000
instructions instead of the stdlib's 51,000, of which 23,000 are OpenSSL's and the kernel's callers.
"""

import socket
import sys

cdef object SocketIO = socket.SocketIO
cdef object slow_readinto = SocketIO.readinto
cdef object makefile = socket.socket.makefile
cdef set known = set()  # the tp_version_tag of classes that were found to be as they came

# What is gone round, and so must not have been replaced.
cdef tuple METHODS = ("read", "write", "recv_into", "send", "sendall")

cdef extern from *:
    """
    #define SSF_VERSION(kind) (((PyTypeObject *)(kind))->tp_version_tag)
    """
    unsigned int SSF_VERSION(object kind)


cdef bint secure(object sock) except -1:
    """True for an ssl.SSLSocket, a cooperative one too, whose methods nobody replaced."""
    kind = type(sock)
    cdef unsigned int version = SSF_VERSION(kind)  # which a change of an attribute changes
    if version != 0 and version in known:
        return True
    if not untouched(kind):
        return False
    known.add(SSF_VERSION(kind))
    return True


cdef bint untouched(kind) except -1:
    ssl = sys.modules.get("ssl")
    green = sys.modules.get("socketserver_fast._green.sockets")
    if ssl is None or not (kind is getattr(ssl, "SSLSocket", None)
                           or green is not None and kind is green.TLSSocket):
        return False
    if kind.makefile is not makefile or SocketIO.readinto is not slow_readinto:
        return False
    homes = vars(ssl), vars(green) if green is not None else None
    return all([getattr(getattr(kind, name), "__globals__", None) in homes for name in METHODS])


class SecureIO(SocketIO):
    """The SocketIO of an SSLSocket; what it does is the same."""

    def readinto(self, b):
        """Read once into the buffer: how many bytes, 0 at the end."""
        sock = self._sock
        if sock is None or self._timeout_occurred:
            return slow_readinto(self, b)
        try:
            return sock.read(len(b), b)
        except TimeoutError:
            self._timeout_occurred = True
            raise
        except ValueError:  # unwrap() was called: plain text from here on
            return slow_readinto(self, b)


cdef object open_raw(object connection):
    """The raw file of a secure() connection."""
    raw = connection.makefile("rb", 0)
    raw.__class__ = SecureIO
    return raw


cdef Py_ssize_t send_secure(object sock, object b) except -1:
    """Send all of `b` through a secure() socket; how many bytes that were."""
    if type(b) is not bytes or not b:
        return send_by_method(sock, b)
    try:
        sent = sock.write(b)
    except ValueError:  # unwrap() was called: plain text from here on
        return send_by_method(sock, b)
    if sent < len(b):
        send_by_method(sock, memoryview(b)[sent:])
    return len(b)


cdef Py_ssize_t send_by_method(object sock, object b) except -1:
    sock.sendall(b)
    with memoryview(b) as whole:
        return whole.nbytes
