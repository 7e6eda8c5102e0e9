# cython: language_level=3, freethreading_compatible=True
"""What the kernel has queued for a listener: taken as a whole when a server is drained.

Nothing is hot here, but the time between the last look at a queue and the close of its listener:
a connection that is made in between is reset, which its client cannot tell from a lost request.
A handshake that takes longer than HANDSHAKE_MILLISECONDS, from far away, is still cut short.
"""

import select
import socket

from socketserver_fast._serving.dispatch cimport (
    dispatch, exhausted_errors, single_handle_request, unchanged)
from socketserver_fast._serving.requests cimport Requests, requests_of
from socketserver_fast._serving.running cimport Loop
from socketserver_fast._sockets.wait cimport POLLIN, POLLNVAL, SSF_NATIVE, ssf_poll, ssf_pollfd

cdef extern from "_sockets/portable.h" nogil:
    int ssf_has_filter(int fd)
    int ssf_hold_off(int fd, int on)

cdef enum:
    QUEUED_AT_MOST = 65536      # the longest queue that Linux makes of a listen()
    HANDSHAKE_MILLISECONDS = 10  # for connections that are half made

cdef object DATAGRAMS = socket.SOCK_DGRAM
cdef object pool_handle_request = None  # see queue_for_pool_instead_of()


def queue_for_pool_instead_of(handle_request_noblock):
    """Name the hook that, found unchanged, lets drain() queue requests for a pool's workers."""
    global pool_handle_request
    pool_handle_request = handle_request_noblock


cdef int serve_queued(server, Loop loop) except -1:
    """Take the requests that the kernel has queued, close the listener, then dispatch them.

    A listener that is closed resets what is in its queue, and one that stays open queues more: so
    it is emptied first, which takes microseconds, and closed before the first handler runs.
    """
    cdef bint left = True
    cdef long _
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


cdef bint take_queued(server, list queued) except -1:
    """Take what waits and close the listener; true when the descriptors did not suffice for that.

    The requests in `queued` are claimed, also when an exception came after them.
    """
    cdef bint left, held_off
    listener = stream_listener(server)
    held_off = listener is not None and hold_off(listener)
    try:
        left = receive_queued(server, queued)
    finally:
        if held_off:  # also before it is closed: the program may share it with others
            ssf_hold_off(listener.fileno(), False)
    if listener is not None and not left:
        close(server, listener)
    return left


cdef bint receive_queued(server, list queued) except -1:
    """Receive until nothing is ready; true when the descriptors did not suffice for that."""
    cdef Requests requests = requests_of(server)
    cdef long _
    for _ in range(QUEUED_AT_MOST):
        if not ready(server, HANDSHAKE_MILLISECONDS):
            break
        try:
            request, client_address = server.get_request()
        except OSError as error:
            if error.errno in exhausted_errors:
                return True
        else:
            requests.claim(request)
            queued.append((request, client_address))
    return False


cdef bint ready(server, int milliseconds=0) except -1:
    """Whether a request is queued, or comes within so many milliseconds."""
    cdef ssf_pollfd fd
    cdef int found
    fd.fd = server.fileno()
    fd.events = POLLIN
    fd.revents = 0
    if fd.fd < 0:
        return False
    if SSF_NATIVE:
        with nogil:
            found = ssf_poll(&fd, 1, milliseconds)
        return found > 0 and not fd.revents & POLLNVAL
    return bool(select.select([fd.fd], [], [], milliseconds / 1e3)[0])


cdef object stream_listener(server):
    """The socket that connections come from; None for datagrams, through which replies go."""
    listener = getattr(server, "socket", None)
    return None if getattr(listener, "type", DATAGRAMS) == DATAGRAMS else listener


cdef bint hold_off(listener) except -1:
    """Keep new connections from coming while the queue is emptied; whether that works.

    It does for TCP on Linux, unless the program has a filter of its own there or has locked it.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return not ssf_has_filter(listener.fileno()) and ssf_hold_off(listener.fileno(), True) == 0


cdef int close(server, listener) except -1:
    """Close it at once after its queue was found empty: what comes in between is reset."""
    if getattr(server, "active_children", None):
        # The children have copies of it, and would let the kernel queue on until they end.
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    listener.close()
    return 0
