# cython: language_level=3, freethreading_compatible=True
"""Holds what one server has while it serves: flags, requests in progress, the running loop.

Only this module knows the names of the two flags that socketserver has, an Event and a bool in the
server's __dict__. Programs set and clear them by these names, so they are looked up each time.

Hot are stop_requested(), claim() and release(), once for each request in the thread that accepts
it, and the latter two once more in the thread that handles it (bench: tcp_close_16,
threading_close_16).
"""

import _socket
import select
import signal
import socket
import threading

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.dict cimport PyDict_Size
from cpython.pythread cimport PyThread_get_thread_ident

from socketserver_fast._sockets.wait cimport POLLIN, SSF_NATIVE, ssf_pollfd, wait

FLAGS = {"_BaseServer__is_shut_down", "_BaseServer__shutdown_request"}

cdef object make_pair = getattr(_socket, "socketpair", socket.socketpair)
cdef object set_wakeup_fd = signal.set_wakeup_fd
cdef bint drains = False  # whether any server was ever drained, so that accept() need not look
cdef set wakened = set()  # descriptors of loops that signals wake; a forked child leaves them alone


@cython.final
cdef class Claim:
    """Holds one request, how often it was claimed, and the thread that works on it, if any."""


@cython.final
cdef class Requests:
    """Counts the requests of a server that were accepted and are not finished.

    Any thread may call any method. Whoever works on a request claims it, and releases it
    afterwards. Before it goes on to another thread it is claimed for that one, so that it counts as
    one request and is never missed.
    """

    def __cinit__(self):
        self.others = {}  # those that came while there was one, by their id()
        self.condition = threading.Condition()

    @cython.critical_section
    def __len__(self):
        return len(self.others) + (self.only is not None)

    cpdef claim(self, request):
        """Count the request as in progress; the calling thread works on it."""
        self.add(request, PyThread_get_thread_ident())

    cpdef release(self, request):
        """Undo one claim(); after the last one the request is finished."""
        if self.remove(request):
            with self.condition:
                self.condition.notify_all()

    @cython.critical_section
    cdef int add(self, request, unsigned long thread) except -1:
        """Claim for a thread, or with 0 for none: all greenlets share one."""
        cdef Claim claim = self.find(request)
        if claim is None:
            claim = self.spare
            self.spare = None
            if claim is None:
                claim = Claim.__new__(Claim)
            claim.request = request
            if self.only is None:
                self.only = claim
            else:
                self.others[<size_t><void *>request] = claim
        claim.thread = thread
        claim.count += 1
        if self.published != NULL:
            self.show()
        return 0

    cdef Claim find(self, request):
        if self.only is not None and self.only.request is request:
            return self.only
        return self.others.get(<size_t><void *>request) if self.others else None

    @cython.critical_section
    cdef int take_over(self, request) except -1:
        """Note that the calling thread works on this claimed request now."""
        cdef Claim claim = self.find(request)
        if claim is not None:
            claim.thread = PyThread_get_thread_ident()
        return 0

    @cython.critical_section
    cdef bint remove(self, request) except -1:
        """Undo one claim(); return whether a wait() has to be told that no request is left."""
        cdef Claim claim = self.find(request)
        if claim is None:
            return False
        claim.count -= 1
        if claim.count == 0:
            claim.request = None
            if claim is self.only:
                self.only = None
                self.spare = claim
            else:
                del self.others[<size_t><void *>request]
        elif claim.thread == <unsigned long>PyThread_get_thread_ident():
            claim.thread = 0  # on its way to another thread, which has not begun yet
        if self.published != NULL:
            self.show()
        return self.waiting > 0 and self.only is None and not self.others

    def publish(self, memory):
        """Keep the number of requests in `memory` as well from now on, as a float64."""
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        self.published = <double *>self.memory.buf

    cdef void show(self) noexcept:
        self.published[0] = PyDict_Size(self.others) + (self.only is not None)

    cdef list claims(self):
        cdef list claims = list(self.others.values())
        if self.only is not None:
            claims.append(self.only)
        return claims

    @cython.critical_section
    def requests(self):
        """Return a list of those in progress."""
        return [(<Claim>claim).request for claim in self.claims()]

    @cython.critical_section
    def held_by(self, thread):
        """Return whether the thread with this identifier works on one of them.

        The greenlets of gevent have identifiers of their own, and so never do.
        """
        return any([(<Claim>claim).thread == thread for claim in self.claims()])

    @cython.critical_section
    cdef int await_more(self, int more) except -1:
        self.waiting += more
        return 0

    def wait(self, timeout=None):
        """Wait until there is none, at most `timeout` seconds; return whether there is none."""
        with self.condition:
            self.await_more(1)
            try:
                return self.condition.wait_for(lambda: not len(self), timeout)
            finally:
                self.await_more(-1)


@cython.final
cdef class Claimed:
    """Calls `function`, whose name it has, in a new thread, and releases the request afterwards."""

    cdef Requests requests
    cdef object function
    cdef readonly str __name__

    def __init__(self, Requests requests, function):
        self.requests = requests
        self.function = function
        self.__name__ = getattr(function, "__name__", "process_request_thread")

    def __call__(self, request, client_address):
        self.requests.take_over(request)
        try:
            self.function(request, client_address)
        finally:
            self.requests.release(request)


@cython.final
cdef class Serving:
    """Holds what a server has while it serves: its requests, its Loop, whether it drains."""

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
    """Return the server's Serving, made on first use: a server need not have been constructed."""
    cdef dict attributes = server.__dict__
    found = attributes.get("_socketserver_fast_serving")
    if found is None:
        found = attributes.setdefault("_socketserver_fast_serving", Serving())
    return found


cpdef Requests requests_of(server):
    """Return the server's requests in progress."""
    return serving_of(server).requests


cdef Loop loop_of(server):
    """Return the Loop of the server's running serve_forever(), or None."""
    return serving_of(server).running_loop()


cpdef bint stop_requested(server) except -1:
    """Return whether serve_forever() has been told to return."""
    return server._BaseServer__shutdown_request


cpdef bint is_draining(server) except -1:
    """Return whether serve_forever() has been told to take what is queued first."""
    return drains and serving_of(server).draining


def wake(server):
    """Make this server's serve_forever() check its flags now. Any thread may call it."""
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
    global drains
    drains = True
    serving_of(server).draining = True
    request_stop(server)


def give_up_drain(server):
    """Stop taking what is queued; return whether this is the first call."""
    cdef Serving serving = serving_of(server)
    cdef bint first
    with cython.critical_section(serving):
        first = not serving.gave_up
        serving.gave_up = True
        serving.draining = False
    return first


def has_stopped(server):
    """Return whether serve_forever() has returned. Takes no lock: a signal handler may ask."""
    return server._BaseServer__is_shut_down.is_set()


def wait_until_stopped(server, timeout=None):
    """Wait at most `timeout` seconds until serve_forever() has returned; return whether it has.

    One that has not begun yet is waited for, too (bpo msg63579).
    """
    return has_stopped(server) or server._BaseServer__is_shut_down.wait(timeout)


def serving_thread(server):
    """Return the identifier of the thread that is in serve_forever(), or None."""
    cdef Loop loop = loop_of(server)
    return None if loop is None else loop.thread


def begin_in_worker(server):
    """Make the server of a new worker process one that has not served yet.

    Another thread of the parent may have held the lock of its Event during the fork.
    """
    server.__dict__.pop("_socketserver_fast_serving", None)
    server._BaseServer__is_shut_down = threading.Event()
    server._BaseServer__shutdown_request = False


@cython.final
cdef class Loop:
    """Marks a server as serving, and can be woken: `with Loop(server):` is around every driver.

    It is set before the server's Event is touched and removed afterwards. So a signal handler that
    calls shutdown() meanwhile gets an error instead of waiting for the lock of the Event.
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

    cpdef bint open(self, bint always=False) except -1:
        """Make wake() work; return False if there are no descriptors left for that.

        `always` is what wake_at_signals() is told.
        """
        try:
            self.waiting_end, waking_end = make_pair()
        except OSError:
            return False
        self.waiting_end.setblocking(False)
        waking_end.setblocking(False)
        self.waking_end = waking_end
        self.wake_at_signals(always)
        return True

    cpdef wake_at_signals(self, bint always=False):
        """Have the interpreter wake this loop at every signal.

        Python runs the handler of a signal between two of its own steps. For a signal that comes
        just before a poll(2) that would be after the next wake-up. Works in the main thread only
        and, unless `always`, only if the program does not use signal.set_wakeup_fd() itself.
        """
        cdef int fd = self.waking_end.fileno()
        previous = swap_wakeup_fd(fd)
        if previous is None or previous == fd:
            return
        if previous != -1 and not always:
            swap_wakeup_fd(previous)
            return
        self.replaced = previous
        wakened.add(fd)

    cpdef ignore_signals(self):
        """Undo wake_at_signals(). What has taken its place meanwhile stays."""
        cdef int fd = self.waking_end.fileno()
        if fd not in wakened:
            return
        wakened.discard(fd)
        current = swap_wakeup_fd(-1)
        if current is not None:
            swap_wakeup_fd(self.replaced if current == fd else current)

    def fileno(self):
        """Return the descriptor that is readable after a wake-up."""
        return self.waiting_end.fileno()

    cdef wake(self):
        if self.waking_end is None:
            return
        try:
            self.waking_end.send(b"\0")
        except OSError:
            pass  # full of wake-ups already, or the loop just ended

    cpdef clear(self):
        """Remove the wake-ups that have arrived."""
        if self.waiting_end is None:
            return
        try:
            self.waiting_end.recv(4096)
        except OSError:
            pass

    cpdef close(self):
        """Free the descriptors. May be called more than once."""
        if self.waking_end is not None:
            self.ignore_signals()
            self.waiting_end.close()
            self.waking_end.close()

    cdef int back_off(self) except -1:
        """Sleep until it makes sense to accept again, or until a wake-up."""
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


cdef object swap_wakeup_fd(fd):
    """Return signal.set_wakeup_fd(fd), or None where it cannot be set."""
    try:
        return set_wakeup_fd(fd, warn_on_full_buffer=False)
    except (ValueError, OSError):  # not in the main thread; a descriptor that was closed
        return None


def forget_signals():
    """Stop signals of a forked child from waking the loops of its parent."""
    if wakened:
        current = swap_wakeup_fd(-1)
        if current is not None and current not in wakened:
            swap_wakeup_fd(current)
        wakened.clear()
