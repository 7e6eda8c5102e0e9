# cython: language_level=3, freethreading_compatible=True
"""Decides when a socket's own methods may be bypassed, and does what they do.

A socket is plain if it is a socket.socket and nobody replaced a method of that class. Hot are
plain() and descriptor(), several times for each operation, and making, holding and closing a
connection's socket (bench: tcp_close_16, threading_keep_10; the gate counts the instructions of
`handler` and `accept`). This saves looking up and calling methods that do next to nothing. Whether
one was replaced is checked again after each change of the class.

CPython may rename its private names. If one of them is not found no socket is plain, and everything
goes through the methods of the socket object.
"""

import _socket
import socket
import types

from libc.errno cimport ENOSYS

cdef extern from "_sockets/portable.h":
    const int SSF_NATIVE
    const int SSF_NO_GIL
    int ssf_shut_down(int fd)
    int ssf_duplicate(int fd)
    void ssf_close(int fd)

cdef extern from *:
    """
    #include <structmember.h>  /* T_INT, for Python 3.11 */

    /* Returns the C function of a method without arguments, so that calls need not look it up. */
    static PyCFunction ssf_without_arguments(PyObject *method) {
        PyMethodDef *definition;
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type))
            return NULL;
        definition = ((PyMethodDescrObject *)method)->d_method;
        return definition->ml_flags == METH_NOARGS ? definition->ml_meth : NULL;
    }

    /* Returns where in an object a member is that is a C int; -1 if it is none. */
    static Py_ssize_t ssf_offset_of_int(PyObject *member) {
        PyMemberDef *definition;
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type))
            return -1;
        definition = ((PyMemberDescrObject *)member)->d_member;
        return definition->type == T_INT ? definition->offset : -1;
    }

    static inline int ssf_int_at(PyObject *object, Py_ssize_t offset) {
        return *(int *)((char *)object + offset);
    }
    """
    ctypedef object (*Method "PyCFunction")(object, void *)
    Method ssf_without_arguments(object method)
    Py_ssize_t ssf_offset_of_int(object member)
    int ssf_int_at(object instance, Py_ssize_t offset)

# The C functions of a class, without the Python objects that wrap them.
cdef extern from "Python.h":
    ctypedef int (*Init "initproc")(object, object, void *) except -1
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *, object, void *)
        Init tp_init
        object (*tp_descr_get)(object, object, object)
        int (*tp_descr_set)(object, object, object) except -1
        unsigned int tp_version_tag
    PyTypeObject *Py_TYPE(object)
    bint PyObject_TypeCheck(object, PyTypeObject *)

cdef int SOCK_STREAM = socket.SOCK_STREAM
cdef object get_fileno = _socket.socket.fileno
cdef object get_timeout = _socket.socket.gettimeout
cdef Method call_fileno = ssf_without_arguments(get_fileno)
cdef Method call_gettimeout = ssf_without_arguments(get_timeout)


cdef object method_of_module(str name):
    """Return a method of socket.socket; False, which no method is, if it was replaced already."""
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

# How a socket.socket is made, and the fields that it adds to those of _socket.socket.
cdef object RawSocket = _socket.socket
cdef Init raw_init = (<PyTypeObject *>RawSocket).tp_init
cdef object raw_close = _socket.socket.close
cdef object family = getattr(_socket.socket, "family", None)
cdef object kind = getattr(_socket.socket, "type", None)
cdef Py_ssize_t kind_offset = ssf_offset_of_int(kind)
cdef object proto = getattr(_socket.socket, "proto", None)
cdef object io_refs = getattr(socket.socket, "_io_refs", None)
cdef object is_closed = getattr(socket.socket, "_closed", None)

# Whether all of these are as in the versions that this was written for.
cdef bint familiar = (
    all([type(field) is types.MemberDescriptorType
         for field in (family, kind, proto, io_refs, is_closed)])
    and hasattr(socket.socket, "_real_close") and hasattr(socket.socket, "_decref_socketios"))

# The stdlib's socket.socket, or None if gevent or eventlet replaced it first: then no socket is
# plain, and everything goes through the socket's methods.
cdef object Socket = socket.socket if familiar and socket.socket.__module__ == "socket" else None

# The class of cooperative sockets; None before socketserver_fast.green is imported.
cdef object Cooperative = None


cdef bint plain(object sock):
    """Return whether system calls may bypass the methods of a socket."""
    if type(sock) is not Socket:
        return familiar and parks(sock)
    return SSF_NATIVE and (version_of(Socket) == plain_version != 0 or unpatched())


cdef bint unpatched() except -1:
    """Return whether the methods of socket.socket are the originals."""
    global plain_version
    cdef unsigned int seen = version_of(Socket)  # before the methods are looked at
    for name in plain_methods:
        if getattr(Socket, name, None) is not plain_methods[name]:
            return False
    plain_version = seen
    return True


cdef unsigned int version_of(object kind):
    """Return a number that changes with every attribute of a class and its bases; 0 if unknown."""
    return (<PyTypeObject *>kind).tp_version_tag


cdef int let_park(object kind) except -1:
    """Make `kind` the class of cooperative sockets."""
    global Cooperative
    Cooperative = kind
    return 0


cdef bint familiar_sockets() noexcept:
    """Return whether hold() and release() know the fields of a socket.socket and its subclasses."""
    return familiar


cdef bint parks(object sock):
    """Return whether a socket is cooperative: its greenlet waits for it, not its thread."""
    return type(sock) is Cooperative


cdef int descriptor(object sock) except? -1:
    """Return the descriptor of a plain socket; -1, without an exception, if it is closed."""
    if call_fileno != NULL and (type(sock) is Cooperative or type(sock) is Socket
                                or PyObject_TypeCheck(sock, <PyTypeObject *>RawSocket)):
        return call_fileno(sock, NULL)
    return get_fileno(sock)


cdef object timeout_of(object sock):
    """Return the timeout of a plain socket in seconds, or None."""
    if call_gettimeout != NULL and (type(sock) is Cooperative or type(sock) is Socket):
        return call_gettimeout(sock, NULL)
    return get_timeout(sock)


cdef inline object member(object descriptor, object sock):
    return Py_TYPE(descriptor).tp_descr_get(descriptor, sock, Socket)


cdef inline int set_member(object descriptor, object sock, object value) except -1:
    return Py_TYPE(descriptor).tp_descr_set(descriptor, sock, value)


cdef int family_of(object sock) except -1:
    """Return the address family of a plain socket, without making an enum member of it."""
    if not familiar:
        return sock.family
    return member(family, sock)


cdef bint is_stream(object sock) except -1:
    """Return whether a plain socket is of SOCK_STREAM.

    Records must not be read through a buffer: what does not fit would be lost.
    """
    if kind_offset >= 0:
        return ssf_int_at(sock, kind_offset) == SOCK_STREAM
    return <int>member(kind, sock) == SOCK_STREAM


cdef tuple kind_of(object sock):
    """Return family, type and protocol as integers, which a connection shares with its listener."""
    if not familiar:
        return sock.family, sock.type, sock.proto
    return member(family, sock), member(kind, sock), member(proto, sock)


cdef object new_socket(object cls, tuple kind, int fd):
    """Make a socket.socket, or one of a class derived from it, without the detours of __init__().

    It owns the descriptor, which is closed if the socket cannot be made.
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
    """Keep the descriptor of a plain socket open, as a file from makefile() does."""
    return set_member(io_refs, sock, member(io_refs, sock) + 1)


cdef int release(object sock) except -1:
    """Undo one hold(). Closes the descriptor if the socket was closed meanwhile."""
    if type(sock) is not Socket or not plain(sock):
        sock._decref_socketios()
        return 0
    return end_hold(sock)


cdef int end_hold(object sock) except -1:
    """Undo one hold() of a single read, without the method that files call for that."""
    refs = member(io_refs, sock)
    if refs > 0:
        set_member(io_refs, sock, refs - 1)
    if member(is_closed, sock):
        close(sock)
    return 0


def close(sock):
    """Close a socket; a plain one without the methods in between."""
    if type(sock) is not Socket or not plain(sock):
        sock.close()
        return
    set_member(is_closed, sock, True)
    if member(io_refs, sock) <= 0:
        raw_close(sock)


def shut_down(sock):
    """Shut a socket.socket down for both directions, unless it is closed. Any thread may call this.

    Its own thread may close it at the same time, and another connection may get its descriptor. So
    the GIL is held from the look at the descriptor to the end of the system call, unlike in
    socket.shutdown(). Without a GIL the call is made by a duplicate, which is known to be of this
    socket if that still has the descriptor afterwards.
    """
    cdef int fd = descriptor(sock), duplicate = -1
    if fd < 0:
        return
    if SSF_NO_GIL:
        duplicate = ssf_duplicate(fd)
        if duplicate >= 0:
            if descriptor(sock) == fd:
                ssf_shut_down(duplicate)
            ssf_close(duplicate)
        if duplicate != -ENOSYS:  # without a duplicate it is left alone
            return
    if ssf_shut_down(fd) == -ENOSYS:
        _socket.socket.shutdown(sock, socket.SHUT_RDWR)
