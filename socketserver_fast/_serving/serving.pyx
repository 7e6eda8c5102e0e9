# cython: language_level=3, freethreading_compatible=True
"""What one server has while it serves: the flags, the waker, who serves, what is in progress.

Only this module knows the names of the two flags that socketserver has, an Event and a bool in the
server's __dict__. Programs set and clear them by these names, so they are looked up each time.

Hot are stop_requested() and requests_of(), at each request (bench: tcp_close_16).
"""

import _socket
import select
import socket
import threading

cimport cython

from socketserver_fast._sockets.wait cimport POLLIN, SSF_NATIVE, ssf_pollfd, wait

from socketserver_fast._serving import signal_wakeup

FLAGS = {"_BaseServer__is_shut_down", "_BaseServer__shutdown_request"}

cdef object make_pair = getattr(_socket, "socketpair", socket.socketpair)


@cython.final
cdef class Serving:
    """One for each server: `requests` in progress, `loop` while it serves, whether it drains."""

    def __cinit__(self):
        self.requests = Requests()

    @cython.critical_section
    cdef Loop running_loop(self):
        return self.loop

    @cython.critical_section
    cdef int begin(self, Loop loop) except -1:
        self.loop = loop
        return 0

    @cython.critical_section
    cdef int end(self, Loop loop) except -1:
        if self.loop is loop:
            self.loop = None
        return 0


cpdef Serving serving_of(server):
    """The server's Serving. Made when first asked for: a server need not have been constructed."""
    cdef dict attributes = server.__dict__
    found = attributes.get("_socketserver_fast_serving")
    if found is None:
        found = attributes.setdefault("_socketserver_fast_serving", Serving())
    return found


cpdef Requests requests_of(server):
    """The server's requests in progress."""
    return serving_of(server).requests


cdef Loop loop_of(server):
    """The Loop of the server's running serve_forever(); None while there is none."""
    return serving_of(server).running_loop()


cpdef bint stop_requested(server) except -1:
    """Return whether serve_forever() is to return."""
    return server._BaseServer__shutdown_request


cpdef bint is_draining(server) except -1:
    """Return whether serve_forever() is to take what is queued before it returns."""
    return serving_of(server).draining


def wake(server):
    """Make a serve_forever() of this server look at its flags now. Any thread may call it."""
    cdef Loop loop = loop_of(server)
    if loop is not None:
        loop.wake()


def request_stop(server):
    """Make serve_forever() return; one that has not begun yet returns at once. Never waits."""
    server._BaseServer__shutdown_request = True
    wake(server)


def request_drain(server):
    """Make serve_forever() take what is queued, close the listener and return. Never waits.

    One that has not begun yet returns at once. A signal handler may call it.
    """
    serving_of(server).draining = True
    request_stop(server)


def give_up_drain(server):
    """Leave what is queued where it is; whether this is the first time that somebody does."""
    cdef Serving serving = serving_of(server)
    cdef bint first
    with cython.critical_section(serving):
        first = not serving.gave_up
        serving.gave_up = True
        serving.draining = False
    return first


def has_stopped(server):
    """Whether serve_forever() has returned. Takes no lock, so that a signal handler may ask."""
    return server._BaseServer__is_shut_down.is_set()


def wait_until_stopped(server, timeout=None):
    """Wait at most `timeout` seconds until serve_forever() has returned; whether it has.

    One that has not begun yet is waited for, too (bpo msg63579).
    """
    return has_stopped(server) or server._BaseServer__is_shut_down.wait(timeout)


def serving_thread(server):
    """The identifier of the thread that is in serve_forever(); None if none is."""
    cdef Loop loop = loop_of(server)
    return None if loop is None else loop.thread


def begin_in_worker(server):
    """In a new worker process: the server has not served yet, and nothing is in progress.

    Another thread may have held the lock of its Event when the parent forked.
    """
    server.__dict__.pop("_socketserver_fast_serving", None)
    server._BaseServer__is_shut_down = threading.Event()
    server._BaseServer__shutdown_request = False


@cython.final
cdef class Loop:
    """`with Loop(server) as loop:` around whatever drives a serve_forever().

    It is the server's for as long as its Event is worked on: a signal handler that calls shutdown()
    then is told that it is in the serving thread, instead of waiting for the lock of the Event.
    """

    def __init__(self, server=None):
        self.server = server
        self.thread = threading.get_ident()  # by name: gevent replaces it
        self.batch_size = 1

    def __enter__(self):
        serving_of(self.server).begin(self)
        try:
            self.server._BaseServer__is_shut_down.clear()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        cdef Serving serving = serving_of(self.server)
        self.close()
        self.server._BaseServer__shutdown_request = False
        self.server._BaseServer__is_shut_down.set()
        serving.end(self)
        self.server = None

    cpdef bint open(self) except -1:
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
        """The descriptor that is readable after a wake-up."""
        return self.waiting_end.fileno()

    cdef wake(self):
        if self.waking_end is None:
            return
        try:
            self.waking_end.send(b"\0")
        except OSError:
            pass  # full of wake-ups already, or the loop just ended

    cpdef clear(self):
        """Take the wake-ups that have come."""
        if self.waiting_end is None:
            return
        try:
            self.waiting_end.recv(4096)
        except OSError:
            pass

    cpdef close(self):
        """Free the descriptors. May be called more than once."""
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
