# cython: language_level=3, freethreading_compatible=True
"""serve_forever: wait for the listener or a wake-up, take what is there, dispatch it.

Hot is one turn: the wait, the accept and the calls of the hooks (bench: tcp_close_16, udp_echo_64).
Every hook is called by its name on the server, every time, because programs replace them on the
class and on the instance while the server runs. What is saved is the selector object, the detours
of socket.accept() and, while connections keep coming, the hand-over of the GIL at each wait.
"""

import _socket
import logging
import select
import selectors
import socket
import threading
import time
import types

cimport cython
from cpython.exc cimport PyErr_CheckSignals

from socketserver_fast._backlog cimport QUEUED_AT_MOST, ready, take_queued
from socketserver_fast._backlog import exhausted_errors
from socketserver_fast._datagram cimport Batch, batchable
from socketserver_fast._requests cimport Requests, requests_of
from socketserver_fast._wait cimport (
    POLLIN, POLLNVAL, SSF_NATIVE, plain, ssf_monotonic, ssf_poll, ssf_pollfd, wait)

from socketserver_fast import _signal_wakeup

cdef extern from "_portable.h" nogil:
    int ssf_die_with_parent()

cdef object logger = logging.getLogger("socketserver_fast")
cdef object Socket = socket.socket
cdef object plain_accept = socket.socket.accept
cdef object raw_accept = _socket.socket._accept
cdef object get_family = _socket.socket.family.__get__
cdef object get_type = _socket.socket.type.__get__
cdef object get_proto = _socket.socket.proto.__get__
cdef object get_timeout = _socket.socket.gettimeout
cdef object default_timeout = socket.getdefaulttimeout
cdef object monotonic = time.monotonic  # not replaced by what freezes the clock in tests
cdef object make_pair = getattr(_socket, "socketpair", socket.socketpair)
# The hooks of which UDPServer's batches do the work; see batch_instead_of().
cdef object single_get_request = None, single_handle_request = None
cdef object pool_handle_request = None  # see queue_for_pool_instead_of()

# What socketserver._ServerSelector is if nobody changed it.
cdef object plain_selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

cdef enum:
    ACCEPTS_PER_WAIT = 16            # nginx, haproxy and redis settled on 4 to 16, too
    BATCH_NANOSECONDS = 1000000      # a batch that took longer is followed by a smaller one
    RETRY_NANOSECONDS = 50000000     # out of descriptors: as long as between two tries


@cython.final
cdef class Loop:
    """What one running serve_forever has; in the server's __dict__ for as long as it runs."""

    def __cinit__(self):
        self.thread = threading.get_ident()  # by name: gevent replaces it
        self.batch_size = 1

    cdef bint open(self) except -1:
        """Make it possible to be woken; false if there are no descriptors left for that."""
        try:
            self.waiting_end, waking_end = make_pair()
        except OSError:
            return False
        self.waiting_end.setblocking(False)
        waking_end.setblocking(False)
        self.waking_end = waking_end
        self.hears_signals = _signal_wakeup.start(waking_end)
        return True

    def fileno(self):
        return self.waiting_end.fileno()

    cdef wake(self):
        if self.waking_end is None:
            return
        try:
            self.waking_end.send(b"\0")
        except OSError:
            pass  # full of wake-ups already, or the loop just ended

    cpdef clear(self):
        if self.waiting_end is None:
            return
        try:
            self.waiting_end.recv(4096)
        except OSError:
            pass

    cdef close(self):
        if self.hears_signals:
            _signal_wakeup.stop(self.waking_end)
        if self.waking_end is not None:
            self.waiting_end.close()
            self.waking_end.close()

    cdef int back_off(self) except -1:
        """Sleep, but for a wake-up, until trying to accept again makes sense."""
        cdef ssf_pollfd fd
        self.exhausted = False
        if self.rest is not None:
            self.rest(RETRY_NANOSECONDS / 1e9)
        elif SSF_NATIVE:
            fd.fd = -1 if self.waiting_end is None else self.waiting_end.fileno()
            fd.events = POLLIN
            wait(&fd, 1, RETRY_NANOSECONDS)
        elif self.waiting_end is not None:
            select.select([self.waiting_end], [], [], RETRY_NANOSECONDS / 1e9)
        return 0


cdef Loop loop_of(server):
    """What the running serve_forever of the server has; None while there is none."""
    found = server.__dict__.get("_BaseServer__loop")
    return <Loop>found if type(found) is Loop else None


def wake(server):
    """Make a serve_forever() of this server look at its flags now. Any thread may call it."""
    cdef Loop loop = loop_of(server)
    if loop is not None:
        loop.wake()


def serving_thread(server):
    """The identifier of the thread that is in serve_forever(); None if none is."""
    cdef Loop loop = loop_of(server)
    return None if loop is None else loop.thread


def end(server):
    """Make serve_forever() take what is queued, close the listener and return. Never waits.

    One that has not begun yet returns at once. A signal handler may call it.
    """
    server.__dict__["_BaseServer__draining"] = True
    server._BaseServer__shutdown_request = True
    wake(server)


def serve(server, poll_interval, selector_class, serve_by_workers=None):
    """The body of serve_forever(). A changed `selector_class` is used as the stdlib would.

    `serve_by_workers` has the workers of a pool accept; it returns true when something asks for
    this thread.
    """
    cdef Loop loop = Loop()
    server._BaseServer__is_shut_down.clear()
    server.__dict__["_BaseServer__loop"] = loop
    try:
        # gevent replaces select.poll, eventlet and some tests the selector: they want to be asked.
        if selector_class is not plain_selector or not unpatched_poll():
            serve_by_selector(server, poll_interval, selector_class, None)
        elif not loop.open():  # and the first connections may free some descriptors
            serve_by_selector(server, poll_interval, selector_class, None)
        elif SSF_NATIVE:
            if serve_by_workers is None or serve_by_workers(server, poll_interval, loop):
                serve_by_poll(server, poll_interval, loop)
        else:
            serve_by_selector(server, poll_interval, selector_class, loop)
        if "_BaseServer__draining" in server.__dict__:
            serve_queued(server, loop)
    finally:
        if server.__dict__.get("_BaseServer__loop") is loop:
            del server.__dict__["_BaseServer__loop"]
        loop.close()
        server._BaseServer__shutdown_request = False
        server._BaseServer__is_shut_down.set()


cdef int serve_queued(server, Loop loop) except -1:
    """Take the requests that the kernel has queued, close the listener, then dispatch them.

    A listener that is closed resets what is in its queue, and one that stays open queues more: so
    it is emptied first, which takes microseconds, and closed before the first handler runs.
    """
    cdef bint left = True
    if not (unchanged(server, "_handle_request_noblock", single_handle_request)
            or unchanged(server, "_handle_request_noblock", pool_handle_request)):
        for _ in range(QUEUED_AT_MOST):
            if not ready(server):
                break
            server._handle_request_noblock()
            server.service_actions()
        return 0
    while left:
        loop.clear()
        queued = []
        try:
            left = take_queued(server, queued)
        finally:
            dispatch_all(server, queued)
        if left and not queued:
            loop.back_off()
    return 0


cdef int dispatch_all(server, list queued) except -1:
    """Dispatch them in order, also after an exception in the middle: nobody else can."""
    cdef Requests requests = requests_of(server)
    failure = None
    for request, client_address in queued:
        try:
            dispatch(server, request, client_address)
            server.service_actions()
        except BaseException as error:
            if failure is None:
                failure = error
        finally:
            requests.release(request)
    if failure is not None:
        raise failure
    return 0


cdef bint unpatched_poll():
    return isinstance(getattr(select, "poll", len), types.BuiltinFunctionType)


cdef int serve_by_poll(server, poll_interval, Loop loop) except -1:
    cdef ssf_pollfd fds[2]
    cdef long long interval = nanoseconds(poll_interval)
    cdef int burst = 0
    if server._BaseServer__shutdown_request:
        return 0
    fds[0].fd = listening_descriptor(server)
    fds[1].fd = loop.fileno()
    fds[0].events = fds[1].events = POLLIN
    while not server._BaseServer__shutdown_request:
        if burst > 0 and ssf_poll(fds, 1, 0) > 0:
            burst -= 1
            PyErr_CheckSignals()
        else:
            burst = ACCEPTS_PER_WAIT
            fds[0].fd = server.fileno()
            if fds[0].fd < 0:
                return 0  # closed while serving
            fds[0].revents = fds[1].revents = 0
            wait(fds, 2, interval)
            if server._BaseServer__shutdown_request:  # bpo-35017: no request after shutdown()
                return 0
            if fds[1].revents:
                loop.clear()
                if not fds[0].revents:
                    continue
        if fds[0].revents & POLLNVAL:
            return 0  # closed while serving, behind the socket object's back
        if fds[0].revents:
            if handle_ready(server, loop):
                burst = 0
                continue
            if loop.exhausted:
                loop.back_off()
        server.service_actions()
    return 0


cdef int serve_by_selector(server, poll_interval, selector_class, Loop loop) except -1:
    """As the stdlib serves; with a `loop` also woken by it and resting when out of descriptors."""
    if server._BaseServer__shutdown_request:
        return 0
    with selector_class() as selector:
        selector.register(server, selectors.EVENT_READ)
        if loop is not None:
            selector.register(loop, selectors.EVENT_READ)
        while not server._BaseServer__shutdown_request:
            try:
                keys = selector.select(poll_interval)
            except OSError:  # from select() on Windows, once the listener is closed
                if loop is None or server.fileno() >= 0:
                    raise
            if server._BaseServer__shutdown_request:
                return 0
            if loop is not None:
                if server.fileno() < 0:
                    return 0  # closed while serving
                if keys:
                    loop.clear()
                    keys = [key for key, _ in keys if key.fileobj is server]
                    if not keys:
                        continue
            if keys:
                server._handle_request_noblock()
                if loop is not None and loop.exhausted:
                    loop.back_off()
            server.service_actions()
    return 0


cdef long long nanoseconds(seconds) except? -2:
    """A timeout in seconds for wait(): None is no limit, nothing and less is no wait."""
    if seconds is None:
        return -1
    if seconds <= 0:
        return 0
    return <long long>(min(<double>seconds, 9e9) * 1e9)


cdef int listening_descriptor(server) except -1:
    """server.fileno(), refused as selectors refuses it."""
    try:
        fd = int(server.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {server!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def handle_request(server, selector_class):
    """The body of handle_request(): one request, or handle_timeout() when none came in time."""
    timeouts = [t for t in (server.socket.gettimeout(), server.timeout) if t is not None]
    left = min(timeouts) if timeouts else None
    deadline = None if left is None else monotonic() + left
    with selector_class() as selector:
        selector.register(server, selectors.EVENT_READ)
        while not selector.select(left):
            if deadline is not None:
                left = deadline - monotonic()
                if left < 0:
                    return server.handle_timeout()
    return server._handle_request_noblock()


def handle_request_noblock(server):
    """The body of _handle_request_noblock(): take one request and dispatch it."""
    taken = take(server)
    if taken is not None:
        request, client_address = taken
        dispatch(server, request, client_address)


def take(server):
    """server.get_request(), or None where that raises OSError."""
    try:
        return server.get_request()
    except OSError as error:
        if error.errno in exhausted_errors:
            report_exhausted(server, error)
    return None


def rest_if_exhausted(server):
    """After a failed take(): if that was for want of descriptors, wait before the next one."""
    cdef Loop loop = loop_of(server)
    if loop is not None and loop.exhausted:
        loop.back_off()


cdef report_exhausted(server, error):
    """Tell the loop to rest, and the log why; once for each serve_forever()."""
    cdef Loop loop = loop_of(server)
    if loop is None or loop.waking_end is None:
        return
    loop.exhausted = True
    if not loop.reported:
        loop.reported = True
        logger.warning("%s cannot accept connections: %s; it tries again every %d ms",
                       type(server).__name__, error, RETRY_NANOSECONDS // 1000000)


cdef int dispatch(server, request, client_address) except -1:
    """Process a request that counts as one in progress until then; a mix-in may prolong that."""
    cdef Requests requests = requests_of(server)
    requests.claim(request)
    try:
        process(server, request, client_address)
    finally:
        requests.release(request)
    return 0


cdef int process(server, request, client_address) except -1:
    """Verify a request and process it; what it raises goes to handle_error."""
    if not server.verify_request(request, client_address):
        server.shutdown_request(request)
        return 0
    try:
        server.process_request(request, client_address)
    except BaseException as error:
        if isinstance(error, Exception):
            server.handle_error(request, client_address)
            server.shutdown_request(request)
            return 0
        server.shutdown_request(request)
        raise
    return 0


def accept(listener):
    """listener.accept(), without its detours where it is a plain socket.socket."""
    if not plain(listener) or socket.socket is not Socket or Socket.accept is not plain_accept:
        return listener.accept()
    fd, address = raw_accept(listener)
    connection = Socket(get_family(listener), get_type(listener), get_proto(listener), fd)
    # Some systems let the connection inherit the listener's non-blocking mode (bpo-7995).
    if get_timeout(listener) and default_timeout() is None:
        connection.setblocking(True)
    return connection, address


def batch_instead_of(get_request, handle_request_noblock):
    """Name the two hooks that, found unchanged on a server, let it receive in batches."""
    global single_get_request, single_handle_request
    single_get_request = get_request
    single_handle_request = handle_request_noblock


def queue_for_pool_instead_of(handle_request_noblock):
    """Name the hook that, found unchanged, lets drain() queue requests for a pool's workers."""
    global pool_handle_request
    pool_handle_request = handle_request_noblock


cdef bint unchanged(server, str name, function):
    return getattr(type(server), name) is function and name not in server.__dict__


cdef bint batching(server):
    """Whether nothing about this server keeps its packets from being received in batches."""
    return (unchanged(server, "get_request", single_get_request)
            and unchanged(server, "_handle_request_noblock", single_handle_request)
            and batchable(server.socket) and 0 < server.max_packet_size <= 65536
            and not getattr(server, "reply_from_destination", False))


cdef bint handle_ready(server, Loop loop) except -1:
    """Take what made the listener ready: a connection, or all datagrams that are waiting.

    Returns whether it is known that nothing is left; then service_actions() was called, too.
    """
    if not batching(server):
        server._handle_request_noblock()
        return False
    while handle_batch(server, loop) > 0:
        server.service_actions()
        PyErr_CheckSignals()
        if server._BaseServer__shutdown_request or not batching(server):
            break
    return True


cdef int handle_batch(server, Loop loop) except -1:
    """Receive several datagrams at once and dispatch them in order: how many.

    Each one received is dispatched, also after a shutdown() or an exception in the middle: nobody
    could see it any more. How many are taken grows only while their handlers are fast, so that the
    loop stays prompt and slow work stays in the kernel, where other processes can get at it.
    """
    cdef long long started = ssf_monotonic()
    cdef int received, index
    failure = None
    if loop.batch is None or loop.batch.sock is not server.socket:
        loop.batch = Batch(server.socket)
        loop.batch_size = 1
    received = loop.batch.receive(server.max_packet_size, loop.batch_size)
    for index in range(received):
        try:
            try:
                dispatch(server, loop.batch.request(index), loop.batch.sender(index))
            finally:
                loop.batch.note(index, server)
            if index < received - 1:
                server.service_actions()
        except BaseException as error:
            if failure is None:
                failure = error
    if received > 0 and ssf_monotonic() - started > BATCH_NANOSECONDS:
        loop.batch_size = 1
    elif received == loop.batch_size:
        loop.batch_size = <int>min(loop.batch_size * 2, loop.batch.limit)
    if failure is not None:
        raise failure
    return received


def die_with_parent():
    """Have the kernel kill this process when the thread that forked it ends; whether it can."""
    return ssf_die_with_parent() == 0
