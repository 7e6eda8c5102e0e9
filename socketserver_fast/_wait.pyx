# cython: language_level=3, freethreading_compatible=True
"""Every wait of the compiled modules, and the socket calls that try before they wait.

A system call is tried first without waiting and with the GIL held: each release of the GIL in a
threaded server is a hand-off to another thread, and the hand-offs are what such a server costs
(bench: threading_keep_10, threading_keep_100). Only a call that would block, or that moves
more than 64 KiB, lets the other threads run.

A cooperative socket (socketserver_fast.green) is tried the same way, and then parks its greenlet by
the function that the hub has left here: nobody else knows of greenlets.

The descriptor is asked of the socket object before every call, never kept: a socket that was
closed or detached meanwhile gives -1 and so EBADF, not somebody else's connection.
"""

import _socket
import socket

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.limits cimport INT_MAX

cdef extern from "_portable.h" nogil:
    const int MSG_DONTWAIT
    Py_ssize_t ssf_recv(int fd, char *data, size_t size, int flags)
    Py_ssize_t ssf_send(int fd, const char *data, size_t size, int flags)

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

# The class that socket.socket was before anything replaced it, or None where gevent or eventlet
# came first: then no socket counts as plain and everything goes through the socket's methods.
cdef object Socket = socket.socket if socket.socket.__module__ == "socket" else None
cdef object get_fileno = _socket.socket.fileno
cdef Method call_fileno = ssf_without_arguments(get_fileno)
cdef object get_timeout = _socket.socket.gettimeout


cdef object method_of_module(str name):
    """A method of socket.socket; False, which it never is, if somebody replaced it already."""
    method = getattr(socket.socket, name, None)
    return getattr(method, "__globals__", None) is vars(socket) and method


cdef dict plain_methods = {
    "recv_into": _socket.socket.recv_into, "sendall": _socket.socket.sendall,
    "__new__": _socket.socket.__new__, "__init__": method_of_module("__init__"),
    "accept": method_of_module("accept"), "makefile": method_of_module("makefile"),
    "close": method_of_module("close"), "_real_close": method_of_module("_real_close"),
    "_decref_socketios": method_of_module("_decref_socketios")}
cdef unsigned int plain_version = 0

# What makes a socket.socket, and the fields that it has beside those of _socket.socket.
cdef object RawSocket = _socket.socket
cdef Init raw_init = (<PyTypeObject *>RawSocket).tp_init
cdef object raw_close = _socket.socket.close
cdef object family = _socket.socket.family
cdef object kind = _socket.socket.type
cdef object proto = _socket.socket.proto
cdef object io_refs = getattr(socket.socket, "_io_refs", None)
cdef object is_closed = getattr(socket.socket, "_closed", None)

# The class whose sockets park, and how; nothing of it before socketserver_fast.green is imported.
cdef object Cooperative = None
cdef Parker parker = NULL
cdef int (*yielder)() except -1

native = bool(SSF_NATIVE)

cdef enum:
    LARGEST_WITH_GIL = 65536


cdef bint plain(object sock):
    """True for a socket.socket whose methods nobody replaced: one may go by its descriptor."""
    if type(sock) is not Socket:
        return parks(sock)
    return SSF_NATIVE and (version_of(Socket) == plain_version != 0 or unpatched())


cdef bint unpatched() except -1:
    """Whether the methods of socket.socket are those that it came with."""
    global plain_version
    cdef unsigned int seen = version_of(Socket)  # which a change of an attribute changes
    for name in plain_methods:
        if getattr(Socket, name, None) is not plain_methods[name]:
            return False
    plain_version = seen
    return True


cdef int use_parker(object kind, Parker function, int (*pass_turn)() except -1) except -1:
    """From now on sockets of the class `kind` park by `function`."""
    global Cooperative, parker, yielder
    Cooperative = kind
    parker = function
    yielder = pass_turn
    return 0


cdef unsigned int version_of(object kind):
    """What changes with every attribute of a class and of its bases; 0 if that is not known."""
    return (<PyTypeObject *>kind).tp_version_tag


cdef bint parks(object sock):
    """True for a cooperative socket: it is not waited for by its thread but by its greenlet."""
    return type(sock) is Cooperative


cdef int park(object sock, short events, long long *deadline) except -1:
    """Wait for a cooperative socket; see Parker."""
    return parker(sock, events, deadline)


cdef int spend() except -1:
    """Count an operation that did not wait; after ALLOWANCE of them others get their turn."""
    global allowance
    allowance -= 1
    return 0 if allowance > 0 else yielder()


cdef int descriptor(object sock) except? -1:
    """The descriptor of a plain socket now; -1, without an exception, when it is closed."""
    if call_fileno != NULL and (type(sock) is Cooperative or type(sock) is Socket):
        return call_fileno(sock, NULL)
    return get_fileno(sock)


cdef inline object member(object descriptor, object sock):
    return Py_TYPE(descriptor).tp_descr_get(descriptor, sock, Socket)


cdef inline int set_member(object descriptor, object sock, object value) except -1:
    return Py_TYPE(descriptor).tp_descr_set(descriptor, sock, value)


cdef int family_of(object sock) except -1:
    """A plain socket's address family, without making an enum member of it."""
    return member(family, sock)


cdef tuple kind_of(object sock):
    """What a connection has in common with its listener: family, type and protocol, as integers."""
    return member(family, sock), member(kind, sock), member(proto, sock)


cdef object new_socket(object cls, tuple kind, int fd):
    """A socket.socket, or what derives from it, without the ways round of its __init__()."""
    sock = (<PyTypeObject *>cls).tp_new(<PyTypeObject *>cls, (), NULL)
    raw_init(sock, kind + (fd,), NULL)
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


cdef int fail(Py_ssize_t error) except -1:
    """Raise the OSError of a system call that returned -errno."""
    (&errno)[0] = <int>-error
    PyErr_SetFromErrno(OSError)
    return -1


cdef long long nanoseconds(seconds) except? -2:
    """A timeout in seconds for wait(): None is no limit, nothing and less is no wait."""
    if seconds is None:
        return -1
    if seconds <= 0:
        return 0
    return <long long>(min(<double>seconds, 9e9) * 1e9)


cdef int wait(ssf_pollfd *fds, int count, long long nanoseconds) except -1:
    """Let other threads run until a descriptor is ready: how many are, 0 when the time is over.

    Negative `nanoseconds` wait without end. Signal handlers run, and what they raise is raised.
    """
    cdef long long deadline = ssf_monotonic() + nanoseconds
    cdef long long left = nanoseconds
    cdef int milliseconds, ready
    while True:
        # Rounded up, as selectors does: waking early would be one more turn for nothing.
        milliseconds = -1 if nanoseconds < 0 else <int>min((left + 999999) // 1000000, INT_MAX)
        with nogil:
            ready = ssf_poll(fds, count, milliseconds)
        PyErr_CheckSignals()
        if ready >= 0:
            return ready
        if ready != -EINTR:
            fail(ready)
        left = max(deadline - ssf_monotonic(), 0)


cdef bint wait_for(object sock, short events, long long deadline) except -1:
    """Wait until `sock` is ready for `events` or the deadline has passed (then false)."""
    cdef ssf_pollfd fds
    fds.fd = descriptor(sock)
    fds.events = events
    return wait(&fds, 1, max(deadline - ssf_monotonic(), 0)) > 0


cdef Py_ssize_t receive_now(object sock, char *data, Py_ssize_t size) except -2:
    """Bytes received (0 at the end of the stream), or WOULD_BLOCK. Never waits."""
    cdef Py_ssize_t got
    while True:
        got = ssf_recv(descriptor(sock), data, size, MSG_DONTWAIT)
        if got >= 0:
            return got
        if got == -EAGAIN:
            return WOULD_BLOCK
        if got != -EINTR:
            fail(got)
        PyErr_CheckSignals()


cdef Py_ssize_t receive_waiting(object sock, char *data, Py_ssize_t size) except -2:
    """Bytes received, waiting for them as the socket's timeout says; WOULD_BLOCK if it is 0.

    Other threads run meanwhile, so `data` must be memory that only the caller uses.
    """
    if parks(sock):
        return receive_parked(sock, data, size)
    cdef object seconds = get_timeout(sock)
    cdef Py_ssize_t got
    cdef long long deadline
    cdef int fd
    if seconds is not None:
        deadline = ssf_monotonic() + <long long>(<double>seconds * 1e9)
        while True:
            got = receive_now(sock, data, size)
            if got != WOULD_BLOCK or seconds == 0:
                return got
            if not wait_for(sock, POLLIN, deadline):
                raise TimeoutError("timed out")
    while True:
        fd = descriptor(sock)
        with nogil:
            got = ssf_recv(fd, data, size, 0)
        if got >= 0:
            return got
        if got == -EAGAIN:  # SO_RCVTIMEO ran out, or somebody set O_NONBLOCK by hand
            return WOULD_BLOCK
        if got != -EINTR:
            fail(got)
        PyErr_CheckSignals()


cdef Py_ssize_t receive_parked(object sock, char *data, Py_ssize_t size) except -2:
    """receive_waiting() of a cooperative socket that has nothing now."""
    cdef long long deadline = UNSET
    cdef Py_ssize_t got = WOULD_BLOCK
    cdef int ready
    while got == WOULD_BLOCK:
        ready = park(sock, POLLIN, &deadline)
        if ready == NO_WAITING:
            return WOULD_BLOCK
        if ready == 0:
            raise TimeoutError("timed out")
        got = receive_now(sock, data, size)
    return got


cdef int send_all(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data`; the socket's timeout counts for the whole of it."""
    cdef Py_ssize_t sent = 0
    if size <= LARGEST_WITH_GIL:
        sent = ssf_send(descriptor(sock), data, size, MSG_DONTWAIT)
        if sent == size:
            return spend() if parks(sock) else 0
        if sent < 0:
            if sent != -EINTR and sent != -EAGAIN:
                fail(sent)
            sent = 0
    if parks(sock):
        return send_parking(sock, data + sent, size - sent)
    return send_waiting(sock, data + sent, size - sent)


cdef int send_parking(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data`, parking the greenlet while there is no room for it."""
    cdef long long deadline = UNSET
    cdef Py_ssize_t sent
    cdef int ready = 1
    while size > 0:
        sent = ssf_send(descriptor(sock), data, size, MSG_DONTWAIT)
        if sent >= 0:
            data += sent
            size -= sent
        elif sent == -EAGAIN:
            ready = park(sock, POLLOUT, &deadline)
            if ready == 0:
                raise TimeoutError("timed out")
            if ready == NO_WAITING:
                fail(sent)
        elif sent == -EINTR:
            PyErr_CheckSignals()
        else:
            fail(sent)
    return spend()


cdef int send_waiting(object sock, const char *data, Py_ssize_t size) except -1:
    """Send all of `data` while other threads run."""
    cdef object seconds = get_timeout(sock)
    cdef long long deadline = 0
    cdef int flags = 0, fd
    cdef Py_ssize_t sent
    if seconds is not None:
        deadline = ssf_monotonic() + <long long>(<double>seconds * 1e9)
        flags = MSG_DONTWAIT
    while True:
        fd = descriptor(sock)
        with nogil:
            sent = ssf_send(fd, data, size, flags)
        PyErr_CheckSignals()
        if sent >= 0:
            data += sent
            size -= sent
            if size == 0:
                return 0
        elif sent == -EAGAIN:
            if seconds is None or seconds == 0:
                fail(sent)
            if not wait_for(sock, POLLOUT, deadline):
                raise TimeoutError("timed out")
        elif sent != -EINTR:
            fail(sent)
