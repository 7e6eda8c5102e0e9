# cython: language_level=3, freethreading_compatible=True
"""Takes one request, or a batch of datagrams, from a listener that is ready, and dispatches it.

Hot is everything here, once for each request (bench: tcp_close_16, udp_echo_64, pool_close_16).
Every hook is called by its name on the server, every time, because programs replace them on the
class and on the instance while the server runs. A compiled path may do the work of hooks that
nobody has replaced, the originals.

Figures.handle() is called once for each request of a server with a StatisticsMixIn, which costs
3,600 instructions with all that is around it; with two times and a deque in Python it was 8,900.
"""

import _socket
import errno
import math
import socket

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR

from socketserver_fast._sockets.datagram cimport (
    Batch, address_of, batchable, has_address, ssf_packet, take_kept)
from socketserver_fast._sockets.log import logger
from socketserver_fast._sockets.plain cimport (
    descriptor, kind_of, new_socket, parks, plain, timeout_of, version_of)
from socketserver_fast._serving.serving cimport (
    Loop, RETRY_NANOSECONDS, Requests, is_draining, loop_of, requests_of, stop_requested)
from socketserver_fast._sockets.wait cimport (
    accept_now_or_wait, accept_parked, fail, ssf_monotonic)

cdef extern from "_sockets/portable.h":
    const int SSF_ACCEPTS

cdef object exhausted_errors = frozenset(
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
cdef object Socket = socket.socket
cdef object raw_accept = getattr(_socket.socket, "_accept", None)
cdef object default_timeout = socket.getdefaulttimeout

# Raised in a handler when its client has gone away or keeps silent.
DISCONNECTS = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError)

cdef enum:
    BATCH_NANOSECONDS = 1000000      # a batch that took longer is followed by a smaller one
    MOST_BOUNDS = 15
    OUTCOMES = 3
    SIZE = OUTCOMES + 1 + MOST_BOUNDS

# The upper bounds of the histogram's buckets, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
          math.inf)
cdef double bounds[MOST_BOUNDS]
bounds = BOUNDS


def handle_request_noblock(server):
    """Take one request and dispatch it: the body of _handle_request_noblock()."""
    taken = take(server)
    if taken is not None:
        request, client_address = taken
        dispatch(server, request, client_address)


def take(server):
    """Return server.get_request(), or None if that raises OSError."""
    try:
        return server.get_request()
    except OSError as error:
        if error.errno in exhausted_errors:
            report_exhausted(server, error)
    return None


def rest_if_exhausted(server):
    """Wait after a take() that failed because the process is out of descriptors."""
    cdef Loop loop = loop_of(server)
    if loop is not None and loop.exhausted:
        loop.back_off()


cdef report_exhausted(server, error):
    """Tell the loop to back off, and log why, once for each serve_forever()."""
    cdef Loop loop = loop_of(server)
    if loop is None or loop.waking_end is None:
        return
    loop.exhausted = True
    if not loop.reported:
        loop.reported = True
        logger().warning("%s cannot accept connections: %s; it tries again every %d ms",
                         type(server).__name__, error, RETRY_NANOSECONDS // 1000000)


cdef int dispatch(server, request, client_address) except -1:
    """Process a request, in progress until this returns; a mix-in may claim it for longer."""
    cdef Requests requests = requests_of(server)
    requests.claim(request)
    try:
        process(server, request, client_address)
    finally:
        requests.release(request)
    return 0


cdef int process(server, request, client_address) except -1:
    """Verify a request and process it; an Exception goes to handle_error()."""
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


def accept(listener, server):
    """Accept as listener.accept() does, but without its detours if that is a plain socket."""
    if not plain(listener) or socket.socket is not Socket:
        return listener.accept()
    if parks(listener):
        accepted = accept_parked(listener)
        if accepted is not None:
            return accepted
    timeout = timeout_of(listener)
    if timeout is None and SSF_ACCEPTS and has_address(listener):
        return accept_blocking(listener, server)
    if raw_accept is None:
        return listener.accept()
    fd, address = raw_accept(listener)
    connection = new_socket(Socket, kind_of(listener), fd)
    # Some systems let the connection inherit the listener's non-blocking mode (bpo-7995).
    if timeout and default_timeout() is None:
        connection.setblocking(True)
    return connection, address


cdef tuple accept_blocking(listener, server):
    """Accept from a listener that blocks.

    If other processes accept from it, too, one of them may take the connection that made it ready.
    Then this one waits for the next connection, or for a signal whose handler stops the server. In
    a drain it raises BlockingIOError instead.
    """
    cdef bint waits = not is_draining(server)
    cdef ssf_packet peer
    cdef int listening = descriptor(listener), fd
    while True:
        fd = accept_now_or_wait(listening, &peer, waits)
        if fd >= 0:
            return new_socket(Socket, kind_of(listener), fd), address_of(&peer)
        if fd != -EINTR:
            fail(fd)
        PyErr_CheckSignals()
        if loop_of(server) is not None and stop_requested(server):
            fail(-EAGAIN)
        listening = descriptor(listener)


cdef bint batching(server):
    """Return whether packets of this server may be received in batches."""
    return (receiving.intact(server) and batchable(server.socket)
            and 0 < server.max_packet_size <= 65536
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
        if stop_requested(server) or not batching(server):
            break
    return True


cdef int handle_batch(server, Loop loop) except -1:
    """Receive several datagrams at once and dispatch them in order; return how many.

    Each one received is dispatched, even after a shutdown() in the middle, since the kernel has it
    no more. An exception that leaves the loop, such as KeyboardInterrupt, leaves at once; the
    server keeps the rest for its next serve_forever() or get_request(). The batch grows only while
    handlers are fast, so that the loop stays prompt, and packets that have to wait do so in the
    kernel, where other processes can take them.
    """
    cdef long long started = ssf_monotonic()
    cdef int received, index = 0
    cdef Batch batch = loop.batch
    if batch is None or batch.sock is not server.socket:
        batch = loop.batch = Batch(server.socket)
        loop.batch_size = 1
    received = batch.receive(server.max_packet_size, loop.batch_size)
    try:
        for index in range(received):
            try:
                dispatch(server, batch.request(index), batch.sender(index))
            finally:
                batch.note(index, server)
            if index < received - 1:
                server.service_actions()
    except BaseException:
        batch.keep(index + 1, received, server)
        raise
    if received > 0 and ssf_monotonic() - started > BATCH_NANOSECONDS:
        loop.batch_size = 1
    elif received == loop.batch_size:
        loop.batch_size = <int>min(loop.batch_size * 2, batch.limit)
    return received


cdef int serve_kept(server) except -1:
    """Dispatch the datagrams that an exception left over, as if they had come now."""
    while not stop_requested(server):
        kept = take_kept(server)
        if kept is None:
            break
        dispatch(server, kept[0], kept[1])
        server.service_actions()
    return 0


# Originals.

@cython.final
cdef class Originals:
    """Knows which functions count as the originals of some hooks.

    What it found out about a class holds until that or one of its bases changes.
    """

    def __cinit__(self):
        self.functions = {}

    cdef int declare(self, dict hooks) except -1:
        for name, function in hooks.items():
            self.functions.setdefault(name, []).append(function)
        self.intact_version = self.replaced_version = 0
        return 0

    cdef bint intact(self, server) except -1:
        """Return whether all of these hooks are originals on this server."""
        cdef unsigned int version = version_of(type(server))
        cdef dict attributes
        if version == 0 or version != self.intact_version:
            if version != 0 and version == self.replaced_version:
                return False
            if not self.inherited(type(server)):
                self.replaced_version = version_of(type(server))
                return False
            self.intact_version = version_of(type(server))
        attributes = server.__dict__
        for name in self.functions:
            if name in attributes:
                return False
        return True

    cdef bint inherited(self, cls) except -1:
        for name, functions in self.functions.items():
            if getattr(cls, name, None) not in <list>functions:
                return False
        return True


receiving = Originals()  # with these a server may receive packets in batches
sharing = Originals()    # with these the worker threads of a pool may accept by themselves
accepting = Originals()  # with these get_request() waits for nothing but the listener
draining = Originals()   # with these drain() may take all that is queued before it dispatches


def declare_originals(str what, **hooks):
    """Count each function as an original of the hook with that name.

    `what` is one of the names above. The public modules, which define the hooks, call this.
    """
    cdef Originals originals = {"receiving": receiving, "sharing": sharing,
                                "accepting": accepting, "draining": draining}[what]
    originals.declare(hooks)


# Statistics.

@cython.final
cdef class Figures:
    """Adds up how requests ended, their seconds, and a histogram. Any thread may call it."""

    cdef double sums[SIZE]
    cdef readonly int count  # requests since take()

    def handle(self, function, request, client_address):
        """Call function(request, client_address); note how long it took and how it ended."""
        cdef long long started = ssf_monotonic()
        try:
            function(request, client_address)
        except BaseException as error:
            self.note((ssf_monotonic() - started) / 1e9,
                      2 if isinstance(error, DISCONNECTS) else 1)
            raise
        self.note((ssf_monotonic() - started) / 1e9, 0)

    @cython.critical_section
    cpdef note(self, double seconds, int outcome):
        """Add one request: 0 finished, 1 failed, 2 disconnected."""
        cdef int place = 0
        while seconds > bounds[place]:
            place += 1
        self.sums[outcome] += 1
        self.sums[OUTCOMES] += seconds
        self.sums[OUTCOMES + 1 + place] += 1
        self.count += 1

    @cython.critical_section
    def take(self):
        """Return the sums since the last take(), as a list."""
        cdef int place
        taken = [self.sums[place] for place in range(SIZE)]
        for place in range(SIZE):
            self.sums[place] = 0
        self.count = 0
        return taken
