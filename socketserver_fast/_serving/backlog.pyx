# cython: language_level=3, freethreading_compatible=True
"""What the kernel has queued for a listener: taken as a whole when a server is drained.

Nothing is hot here, but the time between the last look at a queue and the close of its listener:
a connection that is made in between is reset, which its client cannot tell from a lost request.
The same happens to a handshake that is half done then. With 8 clients that connect without a pause
over loopback, 540 drains of a TCPServer reset 15 connections, 320 of a GreenletTCPServer 36. A
listener that other processes share stays open with them, and nothing is reset.

Nothing is set on the listener to hold clients off: it would stay there for those who share it if
this process were killed. listen(fd, 0) resets as many: each accept() lets the next one in.
"""

import select
import socket

from socketserver_fast._serving.dispatch cimport dispatch, exhausted_errors
from socketserver_fast._serving.originals cimport draining
from socketserver_fast._serving.requests cimport Requests
from socketserver_fast._serving.serving cimport Loop, requests_of
from socketserver_fast._sockets.datagram cimport has_kept, take_kept
from socketserver_fast._sockets.wait cimport POLLIN, POLLNVAL, SSF_NATIVE, ssf_poll, ssf_pollfd

cdef enum:
    QUEUED_AT_MOST = 65536      # the longest queue that Linux makes of a listen()

cdef object DATAGRAMS = socket.SOCK_DGRAM


cdef int serve_queued(server, Loop loop) except -1:
    """Take the requests that the kernel has queued, close the listener, then dispatch them.

    A listener that is closed resets what is in its queue, and one that stays open queues more: so
    it is emptied first, which takes microseconds, and closed before the first handler runs.
    """
    cdef bint left = True
    cdef long _
    if not draining.intact(server):
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


def serve_left(server):
    """After serve_forever(): dispatch the datagrams that an exception left over."""
    cdef Requests requests = requests_of(server)
    cdef list left = []
    while (kept := take_kept(server)) is not None:
        requests.claim(kept[0])
        left.append(kept)
    dispatch_all(server, left)


cdef int dispatch_all(server, list queued) except -1:
    """Dispatch them in order, also after an exception in the middle: nobody else can.

    But KeyboardInterrupt leaves at once, and what is left is closed.
    """
    cdef Requests requests = requests_of(server)
    failure = None
    for request, client_address in queued:
        try:
            if isinstance(failure, KeyboardInterrupt):
                server.shutdown_request(request)
                continue
            dispatch(server, request, client_address)
            server.service_actions()
        except BaseException as error:
            if failure is None or isinstance(error, KeyboardInterrupt):
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
    cdef Requests requests = requests_of(server)
    cdef long _
    listener = stream_listener(server)
    for _ in range(QUEUED_AT_MOST):
        if not ready(server):
            break
        try:
            request, client_address = server.get_request()
        except OSError as error:
            if error.errno in exhausted_errors:
                return True
        else:
            requests.claim(request)
            queued.append((request, client_address))
    if listener is not None:
        listener.close()
    return False


cdef bint ready(server) except -1:
    """Return whether a request is queued, or left over by an exception."""
    cdef ssf_pollfd fd
    if has_kept(server):
        return True
    fd.fd = server.fileno()
    fd.events = POLLIN
    fd.revents = 0
    if fd.fd < 0:
        return False
    if SSF_NATIVE:
        return ssf_poll(&fd, 1, 0) > 0 and not fd.revents & POLLNVAL
    return bool(select.select([fd.fd], [], [], 0)[0])


cdef object stream_listener(server):
    """The socket that connections come from; None for datagrams, through which replies go."""
    listener = getattr(server, "socket", None)
    return None if getattr(listener, "type", DATAGRAMS) == DATAGRAMS else listener
