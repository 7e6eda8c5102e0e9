# cython: language_level=3, freethreading_compatible=True
"""Plain sockets: what of a socket.socket may be done without its Python methods, and that.

Hot are plain() and descriptor(), several times for each operation, and making, holding and closing
a connection's socket (bench: tcp_close_16, threading_keep_10; the gate counts the instructions of
`connection` and `handler`). What is saved is the lookup and call of methods that do next to
nothing; whether somebody replaced one is asked again after each change of the class.

CPython may rename what is private to it. Where a name or a field is not found no socket is plain,
and everything goes through the methods of the socket object.
"""

import _socket
import socket
import sys
import types

cdef extern from "_sockets/portable.h":
    const int SSF_NATIVE

cdef extern from *:
    """
    /* The C function of a method without arguments, so that no call has to find it again. */
    static PyCFunction ssf_without_arguments(PyObject *method) {
        PyMethodDef *definition;
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type))
            return NULL;
        definition = ((PyMethodDescrObject *)method)->d_method;
        return definition->ml_flags == METH_NOARGS ? definition->ml_meth : NULL;
    }
    """
    ctypedef object (*Method "PyCFunction")(object, void *)
    Method ssf_without_arguments(object method)

# A class's own functions, without the objects that stand for them in Python.
cdef extern from "Python.h":
    ctypedef int (*Init "initproc")(object, object, void *) except -1
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *, object, void *)
        Init tp_init
        object (*tp_descr_get)(object, object, object)
        int (*tp_descr_set)(object, object, object) except -1
        unsigned int tp_version_tag
    PyTypeObject *Py_TYPE(object)

cdef int SOCK_STREAM = socket.SOCK_STREAM
cdef object get_fileno = _socket.socket.fileno
cdef object get_timeout = _socket.socket.gettimeout
cdef Method call_fileno = ssf_without_arguments(get_fileno)
cdef Method call_gettimeout = ssf_without_arguments(get_timeout)


cdef object method_of_module(str name):
    """A method of socket.socket; False, which it never is, if somebody replaced it already."""
    method = getattr(socket.socket, name, None)
    return getattr(method, "__globals__", None) is vars(socket) and method


cdef dict plain_methods = {
    "recv_into": _socket.socket.recv_into, "sendall": _socket.socket.sendall,
    "recvfrom": _socket.socket.recvfrom, "sendto": _socket.socket.sendto,
    "__new__": _socket.socket.__new__, "__init__": method_of_module("__init__"),
    "accept": method_of_module("accept"), "makefile": method_of_module("makefile"),
    "close": method_of_module("close"), "_real_close": method_of_module("_real_close"),
    "_decref_socketios": method_of_module("_decref_socketios")}
cdef unsigned int plain_version = 0

# What makes a socket.socket, and the fields that it has beside those of _socket.socket.
cdef object RawSocket = _socket.socket
cdef Init raw_init = (<PyTypeObject *>RawSocket).tp_init
cdef object raw_close = _socket.socket.close
cdef object family = getattr(_socket.socket, "family", None)
cdef object kind = getattr(_socket.socket, "type", None)
cdef object proto = getattr(_socket.socket, "proto", None)
cdef object io_refs = getattr(socket.socket, "_io_refs", None)
cdef object is_closed = getattr(socket.socket, "_closed", None)

# Whether all of them are what they were in the versions that this was written for.
cdef bint familiar = (
    all([type(field) is types.MemberDescriptorType
         for field in (family, kind, proto, io_refs, is_closed)])
    and hasattr(socket.socket, "_real_close") and hasattr(socket.socket, "_decref_socketios"))

# The class that socket.socket was before anything replaced it, or None where gevent or eventlet
# came first: then no socket counts as plain and everything goes through the socket's methods.
cdef object Socket = socket.socket if familiar and socket.socket.__module__ == "socket" else None

# The class whose sockets park; None before socketserver_fast.green is imported.
cdef object Cooperative = None


cdef bint plain(object sock):
    """True for a socket.socket whose methods nobody replaced: one may go by its descriptor."""
    if type(sock) is not Socket:
        return familiar and parks(sock)
    return SSF_NATIVE and (version_of(Socket) == plain_version != 0 or unpatched())


cdef bint unpatched() except -1:
    """Return whether the methods of socket.socket are those that it came with."""
    global plain_version
    cdef unsigned int seen = version_of(Socket)  # which a change of an attribute changes
    for name in plain_methods:
        if getattr(Socket, name, None) is not plain_methods[name]:
            return False
    plain_version = seen
    return True


cdef unsigned int version_of(object kind):
    """What changes with every attribute of a class and of its bases; 0 if that is not known."""
    return (<PyTypeObject *>kind).tp_version_tag


cdef int let_park(object kind) except -1:
    """From now on sockets of the class `kind` are those that park."""
    global Cooperative
    Cooperative = kind
    return 0


cdef bint parks(object sock):
    """True for a cooperative socket: it is not waited for by its thread but by its greenlet."""
    return type(sock) is Cooperative


cdef int descriptor(object sock) except? -1:
    """The descriptor of a plain socket now; -1, without an exception, when it is closed."""
    if call_fileno != NULL and (type(sock) is Cooperative or type(sock) is Socket):
        return call_fileno(sock, NULL)
    return get_fileno(sock)


cdef object timeout_of(object sock):
    """The timeout of a plain socket in seconds, or None."""
    if call_gettimeout != NULL and (type(sock) is Cooperative or type(sock) is Socket):
        return call_gettimeout(sock, NULL)
    return get_timeout(sock)


cdef inline object member(object descriptor, object sock):
    return Py_TYPE(descriptor).tp_descr_get(descriptor, sock, Socket)


cdef inline int set_member(object descriptor, object sock, object value) except -1:
    return Py_TYPE(descriptor).tp_descr_set(descriptor, sock, value)


cdef int family_of(object sock) except -1:
    """A plain socket's address family, without making an enum member of it."""
    if not familiar:
        return sock.family
    return member(family, sock)


cdef bint is_stream(object sock) except -1:
    """Whether a plain socket is of SOCK_STREAM: what is left of a record is lost to a buffer."""
    return <int>member(kind, sock) == SOCK_STREAM


cdef tuple kind_of(object sock):
    """What a connection has in common with its listener: family, type and protocol, as integers."""
    if not familiar:
        return sock.family, sock.type, sock.proto
    return member(family, sock), member(kind, sock), member(proto, sock)


cdef object new_socket(object cls, tuple kind, int fd):
    """A socket.socket, or what derives from it, without the ways round of its __init__().

    It owns the descriptor, which is closed if it cannot be made.
    """
    try:
        if not familiar:
            return cls(*kind, fd)
        sock = (<PyTypeObject *>cls).tp_new(<PyTypeObject *>cls, (), NULL)
        raw_init(sock, kind + (fd,), NULL)
    except BaseException:
        _socket.close(fd)
        raise
    set_member(io_refs, sock, 0)
    set_member(is_closed, sock, False)
    return sock


cdef int hold(object sock) except -1:
    """Keep the descriptor of a plain socket open, as a file does that is made of it."""
    return set_member(io_refs, sock, member(io_refs, sock) + 1)


cdef int release(object sock) except -1:
    """Undo one hold(); the descriptor goes if the socket was closed meanwhile."""
    if type(sock) is not Socket or not plain(sock):
        sock._decref_socketios()
        return 0
    refs = member(io_refs, sock)
    if refs > 0:
        set_member(io_refs, sock, refs - 1)
    if member(is_closed, sock):
        close(sock)
    return 0


def close(sock):
    """sock.close(); of a plain one without the methods in between."""
    if type(sock) is not Socket or not plain(sock):
        sock.close()
        return
    set_member(is_closed, sock, True)
    if member(io_refs, sock) <= 0:
        raw_close(sock)


# TLS.

# What is bypassed of an SSLSocket, and so must not have been replaced.
cdef tuple TLS_METHODS = ("read", "write", "recv_into", "send", "sendall")
cdef object makefile = socket.socket.makefile
cdef object SocketIO = socket.SocketIO
cdef object raw_readinto = SocketIO.readinto
cdef set known_secure = set()  # the versions of classes that were found to be as they came


cdef bint secure(object sock) except -1:
    """True for an ssl.SSLSocket, a cooperative one too, whose methods nobody replaced."""
    kind = type(sock)
    cdef unsigned int version = version_of(kind)  # which a change of an attribute changes
    if version != 0 and version in known_secure:
        return True
    if not secure_untouched(kind):
        return False
    known_secure.add(version_of(kind))
    return True


cdef bint secure_untouched(kind) except -1:
    ssl = sys.modules.get("ssl")
    green = sys.modules.get("socketserver_fast._green.sockets")
    if ssl is None or not (kind is getattr(ssl, "SSLSocket", None)
                           or green is not None and kind is green.TLSSocket):
        return False
    if kind.makefile is not makefile or SocketIO.readinto is not raw_readinto:
        return False
    homes = vars(ssl), vars(green) if green is not None else None
    return all([getattr(getattr(kind, name), "__globals__", None) in homes for name in TLS_METHODS])
