# cython: language_level=3, freethreading_compatible=True
"""What a server has while its serve_forever() runs: a way to wake it, and what it remembers."""

import _socket
import select
import socket
import threading

cimport cython

from socketserver_fast._sockets.wait cimport POLLIN, SSF_NATIVE, ssf_pollfd, wait

from socketserver_fast._serving import signal_wakeup

cdef object make_pair = getattr(_socket, "socketpair", socket.socketpair)


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
        signal_wakeup.start(waking_end)
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
        if self.waking_end is not None:
            signal_wakeup.stop(self.waking_end)
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
