# cython: language_level=3, freethreading_compatible=True
"""How greenlets wait: for cooperative sockets, for times and for other threads.

Hot is park_socket(), once for each line that is waited for (bench: green_keep_100).
"""

import _socket
import ssl

cimport cython
from libc.errno cimport ENOSYS
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from socketserver_fast._sockets.datagram cimport address_of, has_address, ssf_packet
from socketserver_fast._serving.dispatch cimport accept_by
from socketserver_fast._green.hub cimport Endpoint, Hub, Waiter, endpoint_of, running, set_endpoint
from socketserver_fast._sockets.plain cimport descriptor, kind_of, new_socket
from socketserver_fast._sockets.wait cimport (
    NO_WAITING, POLLIN, POLLOUT, UNSET, WOULD_BLOCK, fail, nanoseconds, receive_now,
    receive_waiting, spend, ssf_monotonic, ssf_pollfd, use_parker, wait)
from socketserver_fast._sockets.writer cimport send_bytes

cdef extern from "_sockets/portable.h":
    int ssf_accept(int fd, ssf_packet *peer, bint blocking)

cdef object Socket = None       # the class of the cooperative ones
cdef object default_timeout = _socket.getdefaulttimeout
cdef object get_timeout = _socket.socket.gettimeout
cdef object set_blocking = _socket.socket.setblocking
cdef object plain_send = _socket.socket.send
cdef object plain_recv = _socket.socket.recv
cdef object WantRead = ssl.SSLWantReadError
cdef object WantWrite = ssl.SSLWantWriteError

READ, WRITE = POLLIN, POLLOUT


cdef int park_socket(object sock, short events, long long *deadline) except -1:
    """The Parker of cooperative sockets. Where no hub runs the thread waits."""
    cdef int fd = descriptor(sock)
    if fd < 0:
        return 1  # closed: the next system call says so
    cdef Endpoint endpoint = endpoint_of(fd)
    if endpoint is None:
        endpoint = Endpoint()
        set_endpoint(fd, endpoint)
    if deadline[0] == UNSET:
        if endpoint.timeout == 0:
            return NO_WAITING
        deadline[0] = -1 if endpoint.timeout < 0 else ssf_monotonic() + endpoint.timeout
    cdef Hub hub = running()
    if hub is None:
        return wait_in_thread(fd, events, deadline[0])
    return hub.wait(endpoint, fd, events, deadline[0])


cdef int wait_in_thread(int fd, short events, long long deadline) except -1:
    cdef ssf_pollfd fds
    fds.fd = fd
    fds.events = events
    return wait(&fds, 1, -1 if deadline < 0 else max(deadline - ssf_monotonic(), 0)) > 0


cdef int pass_turn() except -1:
    cdef Hub hub = running()
    if hub is None:
        return 0
    return hub.pass_turn()


def use(kind):
    """From now on sockets of the class `kind` park."""
    global Socket
    Socket = kind
    use_parker(kind, park_socket, pass_turn)
    accept_by(accept_for_hub)


cdef object accept_for_hub(object listener):
    """What dispatch.accept() gives for the listener of a server on this hub: a socket that parks,
    made with one system call."""
    cdef ssf_packet peer
    cdef Endpoint endpoint = endpoint_of(descriptor(listener))
    cdef int fd
    if (endpoint is None or endpoint.kind is None or endpoint.hub is not running()
            or not has_address(listener)):
        return None
    fd = ssf_accept(endpoint.fd, &peer, False)
    if fd == -ENOSYS:
        return None
    if fd < 0:
        fail(fd)
    if not endpoint.kind:
        endpoint.kind = kind_of(listener)
    return connection_of(fd, endpoint.kind), address_of(&peer)


cdef object connection_of(int fd, tuple kind):
    """The Socket of a descriptor that does not block, without the ways round of its __init__()."""
    cdef Endpoint endpoint = Endpoint.__new__(Endpoint)
    connection = new_socket(Socket, kind, fd)
    timeout = default_timeout()
    if timeout is not None:
        set_blocking(connection, False)
        endpoint.timeout = nanoseconds(timeout)
    set_endpoint(fd, endpoint)
    return connection


def adopt(sock):
    """Begin with a socket that parks: its timeout becomes the hub's business."""
    cdef Endpoint endpoint = Endpoint()
    endpoint.timeout = nanoseconds(get_timeout(sock))
    set_blocking(sock, False)
    set_endpoint(descriptor(sock), endpoint)


def forget(sock):
    """The descriptor is about to be closed or given away: who waits for it shall look."""
    cdef int fd = descriptor(sock)
    if fd >= 0:
        set_endpoint(fd, None)


def set_timeout(sock, value):
    """sock.settimeout() of a socket that parks."""
    if value is not None:
        value = float(value)
        if value < 0:
            raise ValueError("Timeout value out of range")
    set_blocking(sock, False)  # OSError for a closed one
    cdef Endpoint endpoint = endpoint_of(descriptor(sock))
    if endpoint is None:
        endpoint = Endpoint()
        set_endpoint(descriptor(sock), endpoint)
    endpoint.timeout = nanoseconds(value)


def timeout_of(sock):
    """sock.gettimeout() of a socket that parks."""
    cdef Endpoint endpoint = endpoint_of(descriptor(sock))
    return None if endpoint is None or endpoint.timeout < 0 else endpoint.timeout / 1e9


def wait_for(sock, short events, seconds=-1):
    """Park until a socket may be ready: READ or WRITE. TimeoutError after its timeout."""
    cdef long long deadline = UNSET
    cdef int ready = park_socket(sock, events, &deadline)
    if ready == 0:
        raise TimeoutError("timed out")
    return ready != NO_WAITING


def attempt(sock, short events, function, *arguments):
    """function(*arguments), again whenever the socket may be ready, as long as it would block.

    TLS says itself what it waits for: it may have to read in order to write.
    """
    cdef long long deadline = UNSET
    cdef int ready
    while True:
        try:
            result = function(*arguments)
        except BlockingIOError:
            pass
        except WantRead:
            events = POLLIN
        except WantWrite:
            events = POLLOUT
        else:
            spend()
            return result
        ready = park_socket(sock, events, &deadline)
        if ready == 0:
            raise TimeoutError("timed out")
        if ready == NO_WAITING:
            return function(*arguments)


def recv(self, bufsize, flags=0):
    """socket.socket.recv, parking."""
    cdef Py_ssize_t size, got
    if flags or bufsize < 0:
        return attempt(self, POLLIN, plain_recv, self, bufsize, flags)
    size = bufsize
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    got = receive_now(self, PyBytes_AS_STRING(data), size)
    if got == WOULD_BLOCK:
        got = receive_waiting(self, PyBytes_AS_STRING(data), size)
        if got == WOULD_BLOCK:
            return plain_recv(self, bufsize)  # raises what a non-blocking socket does
    else:
        spend()
    return data if got == size else data[:got]


def sendall(self, data, flags=0):
    """socket.socket.sendall, parking."""
    if not flags:
        send_bytes(self, data)
        return
    with memoryview(data) as view, view.cast("B") as octets:
        sent = 0
        while sent < len(octets):
            sent += attempt(self, POLLOUT, plain_send, self, octets[sent:], flags)


# Times and threads.

def sleep(double seconds):
    """Park for so long; False where no hub runs."""
    cdef Hub hub = running()
    if hub is None:
        return False
    hub.sleep(nanoseconds(seconds))
    return True


def wait_for_call(submit):
    """Park until what submit(done) has started calls done(...), from any thread; False where no hub
    runs."""
    cdef Hub hub = running()
    cdef Waiter waiter
    if hub is None:
        return False
    waiter = hub.waiter(-1)
    submit(Done.make(hub, waiter))
    hub.park(waiter)
    return True


@cython.final
cdef class Done:
    cdef Hub hub
    cdef Waiter waiter

    @staticmethod
    cdef Done make(Hub hub, Waiter waiter):
        cdef Done done = Done.__new__(Done)
        done.hub = hub
        done.waiter = waiter
        return done

    def __call__(self, *unused):
        self.hub.post(self.waiter)
