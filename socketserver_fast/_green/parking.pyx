# cython: language_level=3, freethreading_compatible=True
"""How greenlets wait: for cooperative sockets, for times and for other threads.

Hot is park_socket(), once for each line that is waited for (bench: green_keep_100).
"""

import _socket
import os
import socket

cimport cython
from libc.errno cimport EAGAIN, ENOSYS
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from socketserver_fast._sockets.datagram cimport address_of, has_address, ssf_packet
from socketserver_fast._green cimport hub as hub_module
from socketserver_fast._green.hub cimport UNKNOWN, Endpoint, Hub, Waiter, running, set_running
from socketserver_fast._sockets.plain cimport (
    descriptor, family_of, is_stream, kind_of, new_socket, timeout_of)
from socketserver_fast._sockets.wait cimport (
    NO_WAITING, POLLIN, POLLOUT, UNSET, WOULD_BLOCK, fail, is_ready, nanoseconds, receive_now,
    receive_parked, spend, ssf_monotonic, ssf_pollfd, use_parking, wait)
from socketserver_fast._sockets.writer cimport send_bytes

cdef extern from "_sockets/portable.h":
    const int MSG_DONTWAIT
    const int MSG_OOB
    const int MSG_ERRQUEUE "SSF_MSG_ERRQUEUE"
    const short POLLRDHUP "SSF_POLLRDHUP"
    int ssf_accept_now(int fd, ssf_packet *peer)
    int ssf_unblock(int fd)
    void ssf_block_again(int fd, int flags)
    long long ssf_wait_limit(int fd, short events)

cdef object Socket = None       # the class of the cooperative ones
cdef object RawSocket = _socket.socket
cdef object raw_close = _socket.socket.close
cdef object StdlibSocket = socket.socket
cdef object original_close = getattr(socket.socket, "_real_close", None)

cdef object INTERNET = (int(_socket.AF_INET), int(_socket.AF_INET6))

READ, WRITE = POLLIN, POLLOUT


cdef int park_socket(object sock, short events, long long *deadline) except -1:
    """Park the current greenlet, see Parker; without a running hub, block the thread."""
    cdef int fd = descriptor(sock)
    cdef Hub hub = running()
    cdef Endpoint endpoint
    cdef bint ready
    if fd < 0:
        return 1  # closed: the next system call says so
    timeout = timeout_of(sock)
    if timeout is not None and deadline[0] == UNSET:
        if <double>timeout == 0:
            return NO_WAITING
        deadline[0] = ssf_monotonic() + nanoseconds(timeout)
    if hub is None:
        if deadline[0] == UNSET:
            deadline[0] = end_of_limit(ssf_wait_limit(fd, events))
        ready = wait_in_thread(fd, events, deadline[0])
    else:
        endpoint = hub.endpoint(fd)
        if deadline[0] == UNSET:
            deadline[0] = end_of_limit(limit_of_endpoint(endpoint, events))
        ready = park_until(hub, endpoint, events, deadline[0])
    return 1 if ready else NO_WAITING if timeout is None else 0


cdef bint park_until(Hub hub, Endpoint endpoint, short events, long long deadline) except -1:
    """Park until it may be ready for `events`; false when the time was over."""
    cdef Waiter waiter
    if endpoint.take(events):
        return True
    waiter = hub.waiter(deadline)
    endpoint.add(hub, waiter, events)
    hub.park(waiter)
    return not waiter.timed_out


cdef long long limit_of_endpoint(Endpoint endpoint, short events) noexcept:
    """SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds, -1 for none; the system is asked once."""
    cdef long long *limit = &endpoint.receive_limit if events & POLLIN else &endpoint.send_limit
    if limit[0] == UNKNOWN:
        limit[0] = ssf_wait_limit(endpoint.fd, events)
    return limit[0]


cdef long long end_of_limit(long long limit) noexcept:
    """The deadline that SO_RCVTIMEO or SO_SNDTIMEO gives a wait; -1 for none."""
    return -1 if limit < 0 else ssf_monotonic() + limit


cdef int wait_in_thread(int fd, short events, long long deadline) except -1:
    cdef ssf_pollfd fds
    fds.fd = fd
    fds.events = events
    return wait(&fds, 1, -1 if deadline < 0 else max(deadline - ssf_monotonic(), 0)) > 0


cdef int pass_turn() except -1:
    cdef Hub hub = running()
    return 0 if hub is None else hub.pass_turn()


def use(kind):
    """From now on sockets of the class `kind` park."""
    global Socket
    Socket = kind
    use_parking(kind, park_socket, pass_turn, accept_for_hub)


cdef object accept_for_hub(object listener):
    """Accept for dispatch.accept(); None unless it is a cooperative listener and a hub runs.

    Parks unless the listener is known to be ready: another process may have been faster.
    """
    cdef ssf_packet peer
    cdef Hub hub = running()
    cdef Endpoint endpoint
    cdef int fd, listening
    if hub is None:
        return None
    listening = descriptor(listener)
    if hub.acceptable != listening or not has_address(listener):
        return listener.accept()
    hub.acceptable = -1
    hub.accepted += 1
    endpoint = hub.endpoint(listening)
    fd = ssf_accept_now(listening, &peer)
    if fd == -ENOSYS:
        return None
    if fd < 0:
        fail(fd)
    wake(forget_descriptor(fd))  # closed behind our back, if something is known of it
    if limit_of_endpoint(endpoint, POLLIN) < 0 and limit_of_endpoint(endpoint, POLLOUT) < 0:
        hub.note(fd, -1)  # as its listener
    return new_socket(Socket, kind_of(listener), fd), address_of(&peer)


# Descriptors that go away.

def forget(sock):
    """Take a descriptor that is about to be closed or given away from every hub.

    Returns what to give to wake() afterwards. From any thread.
    """
    return forget_descriptor(descriptor(sock))


cdef list forget_descriptor(int fd):
    cdef list waiting = None
    cdef void *one = hub_module.hubs
    cdef Hub hub
    cdef Endpoint endpoint
    while one != NULL:
        hub = <Hub>one
        endpoint = hub.forget(fd)
        if endpoint is not None and endpoint.first is not None:
            waiting = (waiting or []) + [(hub, endpoint)]
        one = hub.next
    return waiting


cpdef int wake(list waiting) except -1:
    """Make those look again that waited for a descriptor that is gone now."""
    cdef Hub hub
    cdef Endpoint endpoint
    if waiting is not None:
        for hub, endpoint in waiting:
            if hub is running():
                endpoint.notify(hub, POLLIN | POLLOUT)
            else:
                hub.post(endpoint)
    return 0


def real_close(self, *arguments):
    """socket.socket._real_close, waking whoever waits for the descriptor."""
    cdef int fd = descriptor(self)
    waiting = forget_descriptor(fd)
    close = StdlibSocket._real_close
    try:
        if close is original_close and not arguments:
            raw_close(self)  # which is all that it does
        else:
            close(self, *arguments)
    finally:
        wake(waiting)
        wake(forget_descriptor(fd))  # another thread's greenlet may have asked for it meanwhile


def forked():
    """Leave the hubs, in a forked child, to its parent.

    The two share the pollers, so nothing that is closed here may be taken from them.
    """
    cdef Hub hub
    while hub_module.hubs != NULL:
        hub = <Hub>hub_module.hubs
        hub.forked = True  # only the current greenlet goes on
        hub.turn.clear()
        hub.queue.clear()
        hub.index = 0
        hub_module.hubs = hub.next
    set_running(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


# Calls that may have to wait.

def is_hub_running():
    """Return whether a hub runs on this thread."""
    return running() is not None


def accepted():
    """Note that a connection was accepted, which the listener was ready for."""
    cdef Hub hub = running()
    hub.accepted += 1


def limit_of(sock, short events):
    """SO_RCVTIMEO or SO_SNDTIMEO in seconds."""
    limit = ssf_wait_limit(descriptor(sock), events)
    return float("inf") if limit < 0 else limit / 1e9


def is_ended(sock):
    """Return whether the other side sends nothing more, as far as the system tells."""
    return POLLRDHUP == 0 or is_ready(descriptor(sock), POLLRDHUP)


def wait_for(sock, short events):
    """Park until a socket is ready to READ or WRITE; false if its timeout is over first."""
    cdef long long deadline = UNSET
    cdef int ready = 1
    while ready == 1 and descriptor(sock) >= 0 and not is_ready(descriptor(sock), events):
        ready = park_socket(sock, events, &deadline)
    return ready == 1


def at_once(sock, function, *arguments):
    """Call function(sock, *arguments) without waiting, where there is no MSG_DONTWAIT.

    A blocking descriptor is non-blocking during the call.
    """
    cdef int fd = descriptor(sock), flags
    if fd < 0:
        return function(sock, *arguments)
    flags = ssf_unblock(fd)
    if flags < 0:
        fail(flags)
    try:
        return without_timeout(sock, fd, function, arguments)
    finally:
        ssf_block_again(fd, flags)


cdef object without_timeout(sock, int fd, function, tuple arguments):
    """Call it by another socket of the same descriptor: one with a timeout would wait by itself."""
    if not timeout_of(sock):
        return function(sock, *arguments)
    twin = RawSocket(*kind_of(sock), fd)
    try:
        twin.setblocking(False)
        return function(twin, *arguments)
    finally:
        twin.detach()


def blocks(sock, int flags):
    """Return whether a call with these flags waits without a timeout, and a hub runs meanwhile."""
    if running() is None or timeout_of(sock) is not None:
        return False
    return not (flags & MSG_DONTWAIT or flags & MSG_OOB and is_stream(sock)
                or flags & MSG_ERRQUEUE and family_of(sock) in INTERNET)


def attempt(sock, short events, int flags, function, limit=None):
    """Call function(sock, flags) until it does not block, parking in between.

    `limit` is what is left of the socket's timeout, in seconds.
    """
    if blocks(sock, flags):
        return attempt_blocking(sock, events, flags | MSG_DONTWAIT, function)
    timeout = timeout_of(sock)
    if running() is None or not timeout:
        return function(sock, flags)
    limit = timeout if limit is None else limit
    return attempt_timed(sock, events, flags, function, ssf_monotonic() + nanoseconds(limit))


cdef object attempt_blocking(sock, short events, int flags, function):
    cdef long long deadline = UNSET
    while True:
        try:
            result = function(sock, flags)
        except BlockingIOError:
            if park_socket(sock, events, &deadline) != 1:
                raise
        else:
            spend()
            return result


cdef object attempt_timed(sock, short events, int flags, function, long long deadline):
    """Wait first, as CPython does. The descriptor does not block, but `sock` itself would wait."""
    cdef int fd
    while True:
        fd = descriptor(sock)
        if fd < 0 or is_ready(fd, events):
            try:
                result = at_once(sock, function, flags)
            except BlockingIOError:
                pass
            else:
                spend()
                return result
        if park_socket(sock, events, &deadline) == 0:
            raise TimeoutError("timed out")


def send_whole(sock, data, int flags, function):
    """Call function(sock, data, flags), if the socket blocks until all of `data` is sent.

    Returns how much was sent.
    """
    whole = blocks(sock, flags)
    sent = attempt(sock, POLLOUT, flags, lambda sock, flags: function(sock, data, flags))
    if not whole:
        return sent
    with memoryview(data) as view:
        return sent if sent == view.nbytes else send_rest(sock, view, sent, flags, function)


def send_rest(sock, view, sent, flags, function):
    """Send the rest, for send_whole(), of what a stream has taken a part of."""
    with view.cast("B") as octets:
        while sent < len(octets):
            with octets[sent:] as rest:
                try:
                    sent += attempt(
                        sock, POLLOUT, flags, lambda sock, flags: function(sock, rest, flags))
                except OSError:
                    break  # the next call says why
    return sent


def recv(self, bufsize, flags=0):
    """socket.socket.recv, parking."""
    cdef Py_ssize_t got, size = bufsize  # whose __index__() may do anything
    if flags or size < 0:
        return self._recv_by_flags(size, flags)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    got = receive_now(self, PyBytes_AS_STRING(data), size)
    if got == WOULD_BLOCK:
        got = receive_parked(self, PyBytes_AS_STRING(data), size)
        if got == WOULD_BLOCK:
            fail(-EAGAIN)
    else:
        spend()
    return data if got == size else data[:got]


def sendall(self, data, flags=0):
    """socket.socket.sendall, parking."""
    if flags:
        self._sendall_by_flags(data, flags)
    else:
        send_bytes(self, data)


# Times and threads.

def sleep(double seconds):
    """Park for that long; False where no hub runs."""
    cdef Hub hub = running()
    if hub is None:
        return False
    hub.park(hub.waiter(ssf_monotonic() + nanoseconds(seconds)))
    return True


def wait_for_call(submit):
    """Call submit(done) and park until any thread calls done(...); False where no hub runs."""
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
