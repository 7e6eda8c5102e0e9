# cython: language_level=3, freethreading_compatible=True
"""Reads, writes and waits over TLS: what the methods of ssl.SSLSocket do, without them.

Hot are read_session() and send_secure(), each once for a line that is read and answered (bench:
threadingtls_keep_10, pooltls_keep_10, greentls_keep_10). They call the object of the module _ssl
that an SSLSocket has, which spares four methods in Python and two memoryviews for each line.

A thread waits in OpenSSL's own system call, for which the GIL is released anyway; that shows as a
wait for the client, so that a pool lends the thread's turn. A greenlet may not block there: it
first waits until there is something to read, which is cheaper than an SSLWantReadError.

If an SSLSocket has no such object, after unwrap() or in another version of Python, its own methods
are called.
"""

import socket
import sys

from cpython.object cimport PyObject_GenericGetDict, PyObject_TypeCheck, PyTypeObject
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE

from socketserver_fast._sockets.plain cimport (
    descriptor, end_hold, familiar_sockets, hold, version_of)
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLOUT, SSF_NATIVE, WOULD_BLOCK, begin_wait, deadline_of, end_wait, is_ready, park,
    peek_now, spend, wait_for)

from socketserver_fast._sockets.wait import read_in_parts

# The methods of an SSLSocket that are bypassed, unless somebody replaced one of them.
cdef tuple METHODS = ("read", "write", "recv", "recv_into", "send", "sendall", "pending")
# Those of a read and of a write, which may also have been replaced for one instance.
cdef tuple READ = ("recv_into", "read")
cdef tuple WRITE = ("sendall", "send")
cdef object makefile = socket.socket.makefile
cdef set known_secure = set()  # the versions of classes whose methods are the originals

# Of the module ssl, once it is needed; a program without TLS does not import it.
cdef object Session = None  # the class of the object behind an SSLSocket; None if it is not found
cdef object SSLError, WantRead, WantWrite
cdef object END_OF_FILE

# The class of cooperative sockets with TLS; that of no socket until socketserver_fast.green is
# imported.
cdef object Cooperative = type(None)
cdef object cooperative_globals = None

# Where a cooperative one keeps its timeout while its descriptor does not block.
TIMEOUT = "_timeout_of_tls"
cdef str TIMEOUT_KEY = TIMEOUT


def let_park(kind):
    """Make `kind` the class of cooperative sockets with TLS."""
    global Cooperative, cooperative_globals
    Cooperative = kind
    cooperative_globals = kind.read.__globals__


cdef bint secure(object sock) except -1:
    """Return whether this is an SSLSocket, cooperative or not, whose methods nobody replaced."""
    kind = type(sock)
    cdef unsigned int version = version_of(kind)
    if version != 0 and version in known_secure:
        return True
    if not familiar_sockets() or not untouched(kind):
        return False
    known_secure.add(version)
    return True


cdef bint untouched(kind) except -1:
    ssl = sys.modules.get("ssl")
    if ssl is None or not (kind is getattr(ssl, "SSLSocket", None) or kind is Cooperative):
        return False
    if kind.makefile is not makefile:
        return False
    learn(ssl)
    return all([is_of(getattr(kind, name), ssl) for name in METHODS])


cdef bint is_of(method, ssl) except -1:
    """Return whether a method is a function of the module ssl, or of our own class."""
    found = getattr(method, "__globals__", None)
    return found is not None and (found is vars(ssl) or found is cooperative_globals)


cdef bint cooperates(object sock):
    """Return whether an SSLSocket is cooperative. Classes derived from that may call attempt()."""
    return PyObject_TypeCheck(sock, <PyTypeObject *>Cooperative)


cdef int learn(ssl) except -1:
    """Take from the module ssl what is needed here."""
    global Session, SSLError, WantRead, WantWrite, END_OF_FILE
    SSLError, WantRead, WantWrite = ssl.SSLError, ssl.SSLWantReadError, ssl.SSLWantWriteError
    END_OF_FILE = ssl.SSL_ERROR_EOF
    Session = getattr(sys.modules.get("_ssl"), "_SSLSocket", None)
    return 0


cdef bint is_set_on(object sock, tuple names) except -1:
    """Return whether one of these methods was replaced for this SSLSocket only."""
    cdef dict attributes = PyObject_GenericGetDict(sock, NULL)
    for name in names:
        if name in attributes:
            return True
    return False


cdef object session_of(object sock, tuple methods):
    """Return the object of _ssl that a secure() socket reads and writes by.

    None without one, or if the program has set one of these methods on the socket itself.
    """
    session = getattr(sock, "_sslobj", None)
    if session is None or type(session) is not Session or is_set_on(sock, methods):
        return None
    if cooperates(sock) and TIMEOUT_KEY not in sock.__dict__:
        if descriptor(sock) < 0:
            return None
        sock._begin()
    return session


cdef object session_to_read(object sock):
    """Return session_of() a socket that is read."""
    return session_of(sock, READ)


cdef Py_ssize_t left_of_record(object sock) except -1:
    """Return how many bytes can be read without a wait, for they are of the record read last."""
    session = session_to_read(sock)
    return 0 if session is None else session.pending()


# Reading.

cdef object read_session(object sock, object session, object size, object buffer):
    """Read once: bytes, at most `size`; or into `buffer` unless that is None, and how many.

    None if the socket has another session after a wait, or none: unwrap() or close() were called.
    """
    if cooperates(sock):
        return read_parking(sock, session, size, buffer)
    begin_wait()
    try:
        return read_now(sock, session, size, buffer)
    finally:
        end_wait()


cdef inline object read_now(sock, session, size, buffer):
    hold(sock)  # `session` knows only the number of the descriptor, and reads several times
    try:
        return session.read(size) if buffer is None else session.read(size, buffer)
    except SSLError as error:
        if error.args[0] == END_OF_FILE and sock.suppress_ragged_eofs:
            return b"" if buffer is None else 0
        raise
    finally:
        end_hold(sock)


cdef object read_parking(sock, session, size, buffer):
    """read_session() of a cooperative socket."""
    timeout = sock.__dict__.get(TIMEOUT_KEY)
    cdef long long deadline = deadline_of(timeout)
    cdef short events = 0
    if timeout != 0 and not session.pending() and not is_ready(descriptor(sock), POLLIN):
        events = POLLIN
    while True:
        if events and not wait_until(sock, events, deadline):
            raise TimeoutError("The read operation timed out")
        if events and session_to_read(sock) is not session:
            return None
        try:
            result = read_now(sock, session, size, buffer)
        except WantRead:
            if timeout == 0:
                raise
            events = POLLIN
        except WantWrite:
            if timeout == 0:
                raise
            events = POLLOUT
        else:
            spend()
            return result


cdef bint has_ended(object sock, object session) except -1:
    """Wait until there is something to read; return whether that is the end of the connection.

    Reading it would have OpenSSL send an alert instead of the close_notify that follows when the
    server ends an idle connection.
    """
    cdef char data
    cdef Py_ssize_t got = WOULD_BLOCK
    cdef long long deadline
    if not sock.suppress_ragged_eofs or not (SSF_NATIVE or cooperates(sock)):
        return False
    timeout = sock.gettimeout()
    deadline = deadline_of(timeout)
    while timeout != 0 and not session.pending():
        got = peek_now(sock, &data)
        if got != WOULD_BLOCK:
            break
        if not wait_until(sock, POLLIN, deadline):
            raise TimeoutError("The read operation timed out")
    return got == 0


# Writing.

cdef Py_ssize_t send_secure(object sock, object b) except -1:
    """Send all of `b` through a secure() socket. Returns how many bytes."""
    cdef Py_ssize_t sent = 0
    if session_of(sock, WRITE) is None:
        return send_by_method(sock, b)
    if PyBytes_CheckExact(b) and PyBytes_GET_SIZE(b) > 0:
        sent = send_some(sock, b)
        if sent == PyBytes_GET_SIZE(b):
            return sent
    with memoryview(b) as view, view.cast("B") as octets:
        while sent < len(octets):
            with octets[sent:] as rest:
                sent += send_some(sock, rest)
    return sent


cdef Py_ssize_t send_by_method(object sock, object b) except -1:
    sock.sendall(b)
    with memoryview(b) as whole:
        return whole.nbytes


cdef Py_ssize_t send_some(object sock, object data) except -1:
    """Send a part of `data`, as much as OpenSSL takes at once. Returns how many bytes."""
    if cooperates(sock):
        return send_parking(sock, data)
    begin_wait()
    try:
        return write(sock, data)
    finally:
        end_wait()


cdef Py_ssize_t send_parking(sock, data) except -1:
    try:
        sent = write(sock, data)
    except (WantRead, WantWrite):
        return attempt(sock, sock.__dict__.get(TIMEOUT_KEY), write, sock, data)
    spend()
    return sent


cpdef object write(sock, data):
    """Write once. Each time this asks for the session, which may be gone after a wait."""
    session = session_of(sock, WRITE)
    return sock.send(data) if session is None else session.write(data)


# Waiting.

# What ssl calls an operation that has timed out, where that is not what it waits for.
cdef dict NAMES = {"do_handshake": "handshake", "read": "read", "write": "write", "send": "write"}


def call(sock, seconds, method):
    """Call do_handshake() or unwrap() of an SSLSocket, which must not take longer than `seconds`.

    The thread does not wait in OpenSSL but here, so that a pool lends its turn. What a class of the
    program does in these methods is its own, and is called as it is. The socket's timeout is
    another one afterwards.
    """
    if not SSF_NATIVE or not is_original(sock, method.__name__):
        sock.settimeout(seconds)
        return method()
    sock.settimeout(0)
    return read_in_parts(attempt, sock, seconds, method)


cdef bint is_original(sock, name) except -1:
    """Return whether this is a method of an SSLSocket that is not cooperative."""
    ssl = sys.modules["ssl"]
    return type(sock) is ssl.SSLSocket and (
        getattr(getattr(ssl.SSLSocket, name), "__globals__", None) is vars(ssl))


def attempt(sock, seconds, function, *arguments):
    """Call function(*arguments) until it need not wait for the client; wait in between.

    It is a method of an SSLSocket whose descriptor does not block. TLS says what it waits for: it
    may have to read in order to write. A cooperative socket parks the greenlet. TimeoutError after
    `seconds`, unless that is None; if it is 0, what the call raises.
    """
    cdef long long deadline = deadline_of(seconds)
    cdef short events
    if WantRead is None:
        learn(sys.modules["ssl"])
    while True:
        try:
            result = function(*arguments)
        except (WantRead, BlockingIOError):
            if seconds == 0:
                raise
            events = POLLIN
        except WantWrite:
            if seconds == 0:
                raise
            events = POLLOUT
        else:
            if cooperates(sock):
                spend()
            return result
        if not wait_until(sock, events, deadline):
            waited_for = "read" if events == POLLIN else "write"
            what = NAMES.get(function.__name__, waited_for)
            raise TimeoutError(f"The {what} operation timed out")


cdef bint wait_until(sock, short events, long long deadline) except -1:
    """Wait for `events` until the deadline; return whether they may be there."""
    if descriptor(sock) < 0:
        return True  # it is closed, as the next call finds out
    if cooperates(sock):
        return park(sock, events, &deadline) == 1
    return wait_for(sock, events, deadline)
