# cython: language_level=3, freethreading_compatible=True
"""A listener from which the workers of a pool take requests by themselves.

Hot is take_at_once(), once for each request under load (bench: pool_close_16). It asks by poll(2)
before it accepts: another process that ends may just have made the listener blocking again.

No system has an accept() that does not wait for once: O_NONBLOCK belongs to the open socket, and so
to all processes that share it. A process that is killed leaves it behind. Without it a worker that
another process overtakes would wait for the next client, also when its server is to end.
"""

import os
import socket
import sys
from contextlib import suppress

cimport cython

from socketserver_fast._serving.dispatch cimport sharing
from socketserver_fast._sockets cimport wait as waits
from socketserver_fast._sockets.datagram cimport batchable
from socketserver_fast._sockets.plain cimport plain
from socketserver_fast._sockets.wait cimport POLLIN, POLLNVAL, SSF_NATIVE, ssf_poll, ssf_pollfd

from socketserver_fast._serving import dispatch, serving
from socketserver_fast._sockets import datagram

cdef object SOCK_DGRAM = socket.SOCK_DGRAM
# Elsewhere a connection has the non-blocking mode of its listener; see SharedListener.unblock().
cdef bint INHERITS = not sys.platform.startswith("linux")


cpdef bint unchanged(server) except -1:
    """False if anything on this server expects to be called by the serving thread."""
    if not sharing.intact(server):
        return False
    sock = server.socket
    if not SSF_NATIVE or not plain(sock):
        return False
    if sock.type != SOCK_DGRAM:
        return True
    return (batchable(sock) and 0 < server.max_packet_size <= 8192
            and not getattr(server, "reply_from_destination", False))


cdef object take(server):
    """A request and its client's address; None if another worker or process was faster."""
    sock = server.socket
    if sock.type != SOCK_DGRAM:
        taken = dispatch.take(server)
        if INHERITS and taken is not None and taken[0].gettimeout() is None:
            taken[0].setblocking(True)
        return taken
    try:
        return datagram.receive(server)
    except OSError:  # an earlier reply's ICMP answer
        return None


@cython.final
cdef class SharedListener:
    """A server's listener, and the pipe that interrupts who waits for it."""

    cdef bint open(self, server) except -1:
        """Prepare it for several threads.

        False if there are no descriptors left for that, or if it has just been closed.
        """
        try:
            self.waiting_end, self.waking_end = os.pipe()
        except OSError:
            return False
        try:
            self.blocking = self.unblock(server.socket)
        except OSError:
            self.close_pipe()
            return False
        return True

    cdef int close(self, server) except -1:
        """Leave the listener as it was. Nobody may be waiting any more."""
        self.close_pipe()
        if self.blocking:
            with suppress(OSError):  # it may be closed
                os.set_blocking(server.fileno(), True)
        return 0

    cdef int close_pipe(self) except -1:
        os.close(self.waiting_end)
        os.close(self.waking_end)
        return 0

    cdef bint unblock(self, sock) except -1:
        """A stream's accept() shall not wait when a sibling process was faster. Was it blocking?

        Python's side of the socket does not notice. Datagram sockets stay as they are, since
        handlers send through them.
        """
        if sock.type == SOCK_DGRAM or not os.get_blocking(sock.fileno()):
            return False
        os.set_blocking(sock.fileno(), False)
        return True

    cdef int interrupt(self) except -1:
        """Have wait() return, the next one if nobody waits. Any thread may call this."""
        os.write(self.waking_end, b"\0")
        return 0

    cdef bint wait(self, server) except -1:
        """Wait for a request; false if there was something else."""
        cdef ssf_pollfd fds[2]
        fds[0].fd = server.socket.fileno()
        fds[1].fd = self.waiting_end
        fds[0].events = fds[1].events = POLLIN
        fds[0].revents = fds[1].revents = 0
        waits.wait(fds, 2, -1)
        if fds[1].revents:
            os.read(self.waiting_end, 4096)
            return False
        if fds[0].revents & POLLNVAL or not unchanged(server):
            serving.wake(server)  # the serving thread decides
            return False
        return True

    cdef object take(self, server):
        """Take the request that wait() has seen; None if another process was faster."""
        taken = take(server)
        if taken is None:
            dispatch.rest_if_exhausted(server)
        return taken

    cdef bint ready(self, server) except -1:
        """Return whether a request is there now."""
        cdef ssf_pollfd fd
        fd.fd = server.socket.fileno()
        fd.events = POLLIN
        fd.revents = 0
        return ssf_poll(&fd, 1, 0) > 0 and not fd.revents & POLLNVAL

    cdef object take_at_once(self, server):
        """Take a request if one is there; None if not, or for something else."""
        if not self.ready(server) or not unchanged(server):
            return None
        return take(server)
