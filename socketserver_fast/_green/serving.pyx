# cython: language_level=3, freethreading_compatible=True
"""Serving on a hub.

The server's own greenlet takes the requests and queues each for a greenlet of its own; it has its
turn like all others (bench: green_keep_100, green_keep_1000).
"""

import errno
import threading

import greenlet

from socketserver_fast._serving.serving import request_stop
from socketserver_fast._green import parking

cimport cython
from socketserver_fast._green.hub cimport (
    SSF_HUB, WAITING, Endpoint, Hub, Waiter, running)
from socketserver_fast._serving.backlog cimport serve_queued
from socketserver_fast._serving.dispatch cimport batching, handle_batch, serve_kept
from socketserver_fast._serving.requests cimport Requests
from socketserver_fast._serving.serving cimport (
    Loop, RETRY_NANOSECONDS, Serving, is_draining, requests_of, serving_of, stop_requested)
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, nanoseconds, ssf_monotonic, ssf_poll, ssf_pollfd)

cdef object GreenletExit = greenlet.GreenletExit
cdef object current_greenlet = greenlet.getcurrent

available = bool(SSF_HUB)

cdef enum:
    ACCEPTS_PER_TURN = 16
    CLEANUP_NANOSECONDS = 1000000000  # for what a handler does after a GreenletExit


# Requests.

@cython.final
cdef class Job:
    """A request and, from its start, its greenlet."""

    cdef object server, client_address
    cdef readonly object request
    cdef Greenlets serving
    cdef object greenlet

    def __call__(self):
        if self in self.serving.jobs:  # not ended before its start
            self.run(running())

    cdef int run(self, Hub hub) except -1:
        self.greenlet = current_greenlet()
        try:
            self.server.process_request_greenlet(self.request, self.client_address)
        except (GreenletExit, SystemExit):
            pass
        except KeyboardInterrupt as error:
            hub.fail_root(error)
        except BaseException as error:
            threading.excepthook(threading.ExceptHookArgs(
                (type(error), error, error.__traceback__, threading.current_thread())))
        finally:
            self.greenlet = None
            self.serving.end(self, hub)


@cython.final
cdef class Greenlets:
    """What a server has of its greenlets, from its first request on."""

    cdef readonly set jobs
    cdef readonly Hub hub         # where they run
    cdef Requests requests        # of the server: what drain() counts
    cdef object greenlet          # that is in serve_forever()
    cdef Waiter waiter            # of the one that takes requests
    cdef list ended               # Waiters and Events to tell that there is no job left
    cdef list stopped             # Waiters to tell that serve_forever() has stopped

    def __cinit__(self):
        self.jobs = set()
        self.ended = []
        self.stopped = []

    cdef int end(self, Job job, Hub hub) except -1:
        self.jobs.discard(job)
        self.requests.release(job.request)
        if self.waiter is not None and self.waiter.state == WAITING:
            hub.ready(self.waiter)
        if not self.jobs:
            wake_all(self.ended, hub)
        return 0


cdef int wake_all(list waiting, Hub hub) except -1:
    while waiting:
        one = waiting.pop()
        if type(one) is not Waiter:
            one.set()
        elif (<Waiter>one).state == WAITING:
            hub.ready(<Waiter>one)
    return 0


cdef Greenlets greenlets_of(server):
    cdef Serving serving = serving_of(server)
    cdef Greenlets greenlets
    if serving.greenlets is None:
        serving.greenlets = greenlets = Greenlets()
        greenlets.requests = serving.requests
    return <Greenlets>serving.greenlets


def start(server, request, client_address):
    """Process a request in a greenlet of its own; False where no hub runs that could do it."""
    cdef Hub hub = running()
    cdef Greenlets serving
    cdef Job job
    if hub is None:
        return False
    serving = greenlets_of(server)
    job = Job.__new__(Job)
    job.server = server
    job.request = request
    job.client_address = client_address
    job.serving = serving
    serving.jobs.add(job)
    # In nobody's hands: its thread is that of all the others too.
    serving.requests.hold(request)
    hub.start(job)
    return True


# The server's greenlet.

def serve(server, poll_interval, watching):
    """The body of serve_forever(); watching(server, hub) is a context manager around it."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub outer = running(), hub = outer
    if hub is None:
        hub = serving.hub if serving.hub is not None and serving.jobs else Hub()
        if hub.thread != threading.get_ident():
            raise RuntimeError("requests of this server wait in another thread")
        hub.enter()
    try:
        serving.hub = hub
        serving.greenlet = current_greenlet()
        with watching(server, hub):
            serve_in(server, nanoseconds(poll_interval), hub, serving)
            finish(server, hub, serving)
    finally:
        serving.greenlet = None
        if outer is None:
            leave(hub, None, serving)


cdef int leave(Hub hub, Hub outer, Greenlets serving) except -1:
    """Stop running the hub; without requests it has served its time."""
    hub.leave(outer)
    if not serving.jobs:
        serving.hub = None
        hub.close()
    return 0


cdef int serve_in(server, long long interval, Hub hub, Greenlets serving) except -1:
    cdef Loop loop
    cdef Endpoint listener = Endpoint()
    try:
        with Loop(server) as loop:
            loop.rest = parking.sleep
            if not loop.open():
                raise OSError(errno.EMFILE, "no descriptors left to serve")
            listener.kind = ()
            serve_kept(server)
            take_requests(server, interval, hub, serving, loop, listener)
            if is_draining(server):
                serve_queued(server, loop)
    finally:
        listener.kind = None
        serving.waiter = None
        wake_all(serving.stopped, hub)
    return 0


cdef int take_requests(server, long long interval, Hub hub, Greenlets serving, Loop loop,
                       Endpoint listener) except -1:
    cdef Endpoint waking = Endpoint()
    cdef ssf_pollfd fds[2]
    cdef int burst = ACCEPTS_PER_TURN
    fds[0].events = fds[1].events = POLLIN
    fds[1].fd = loop.fileno()
    if stop_requested(server):
        return 0
    if server.fileno() < 0:
        raise ValueError(f"Invalid file descriptor: {server.fileno()}")
    while not stop_requested(server):
        fds[0].fd = server.fileno()
        if fds[0].fd < 0:
            return 0  # closed while serving
        if is_full(server, serving):
            fds[0].fd = -1
        ssf_poll(fds, 2, 0)
        if fds[1].revents:
            loop.clear()
        if fds[0].revents & POLLNVAL:
            return 0
        if fds[0].fd >= 0 and listener.fd != fds[0].fd:
            hub.watch(listener, fds[0].fd)
        if fds[0].fd >= 0 and fds[0].revents:
            if server.max_connections is None and batching(server):
                handle_batch(server, loop)
                burst = 1  # it was many requests already
            else:
                server._handle_request_noblock()
            if loop.exhausted:
                loop.exhausted = False
                wait_for_request(hub, serving, listener, -1, waking, fds[1].fd, RETRY_NANOSECONDS)
            server.service_actions()
            burst -= 1
            if burst == 0:
                burst = ACCEPTS_PER_TURN
                hub.pass_turn()
        elif not fds[1].revents:
            burst = ACCEPTS_PER_TURN
            if not wait_for_request(hub, serving, listener, fds[0].fd, waking, fds[1].fd, interval):
                if not stop_requested(server):
                    server.service_actions()
    return 0


cdef bint is_full(server, Greenlets serving) except -1:
    most = server.max_connections
    return most is not None and len(serving.jobs) >= most


cdef bint wait_for_request(Hub hub, Greenlets serving, Endpoint listener, int fd, Endpoint waking,
                           int waking_fd, long long interval) except -1:
    """Wait for the listener (if `fd` is not -1), for loop.wake() or, without a listener, for the
    end of a request; false when the time was over."""
    cdef Waiter waiter
    if waking.hub is None:
        hub.watch(waking, waking_fd)
    if fd >= 0 and listener.pending:
        listener.pending = 0
        return True
    if waking.pending & POLLIN:
        waking.pending = 0
        return True
    waiter = hub.waiter(-1 if interval < 0 else ssf_monotonic() + interval)
    waking.add(waiter, POLLIN)
    if fd >= 0:
        listener.add(waiter, POLLIN)
    else:
        serving.waiter = waiter
    hub.root_waiter = waiter
    hub.park(waiter)
    serving.waiter = None
    return not waiter.timed_out


cdef int finish(server, Hub hub, Greenlets serving) except -1:
    """After serving: wait for the requests in progress, or end them."""
    cdef Job job
    if server.block_on_close and not getattr(server, "daemon_threads", False):
        wait_for_jobs(hub, serving, -1)
        return 0
    for job in list(serving.jobs):
        end_request(hub, job)
    wait_for_jobs(hub, serving, ssf_monotonic() + CLEANUP_NANOSECONDS)
    return 0


cdef int end_request(Hub hub, Job job) except -1:
    """Raise GreenletExit in the request's handler."""
    if job.greenlet is not None:
        hub.kill(job.greenlet)
    elif job in job.serving.jobs:
        job.serving.end(job, hub)  # not started yet
        job.server.shutdown_request(job.request)
    return 0


cdef bint wait_for_jobs(Hub hub, Greenlets serving, long long deadline) except -1:
    """Wait until no request is left; false when the time was over."""
    cdef Waiter waiter
    while serving.jobs:
        waiter = hub.waiter(deadline)
        serving.ended.append(waiter)
        hub.root_waiter = waiter
        hub.park(waiter)
        if waiter.timed_out:
            return not serving.jobs
    return True


# Ending.

def stop(server, timeout):
    """shutdown() from a greenlet of the server's own hub: whether it has stopped in time; None if
    this is another thread, which has to wait as for every server."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = running()
    cdef Waiter waiter
    if (hub is None or serving.hub is not hub or serving.greenlet is None
            or serving.greenlet is current_greenlet()):
        return None
    request_stop(server)
    waiter = hub.waiter(-1 if timeout is None else ssf_monotonic() + nanoseconds(timeout))
    serving.stopped.append(waiter)
    hub.park(waiter)
    return not waiter.timed_out


def runs_here(server):
    """Whether the caller is a greenlet of the hub that serves."""
    cdef Hub hub = running()
    return hub is not None and hub is greenlets_of(server).hub


def join(server, timeout):
    """Wait until the server has no request in progress but the caller's own; False when `timeout`
    seconds were over first, or when they wait in a thread that does not run them any more."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = running(), outer
    cdef long long deadline = -1 if timeout is None else ssf_monotonic() + nanoseconds(timeout)
    if not serving.jobs:
        return True
    if hub is not None and hub is serving.hub:
        return join_in_greenlet(hub, serving, deadline)
    if serving.greenlet is None:
        if serving.hub is None or serving.hub.thread != threading.get_ident():
            return False
        outer = serving.hub.enter()
        try:
            return wait_for_jobs(serving.hub, serving, deadline)
        finally:
            leave(serving.hub, outer, serving)
    event = threading.Event()
    serving.ended.append(event)
    return not serving.jobs or event.wait(timeout)


cdef object join_in_greenlet(Hub hub, Greenlets serving, long long deadline):
    """From one of the requests itself: the others."""
    current = current_greenlet()
    own = 0
    for job in serving.jobs:
        own += (<Job>job).greenlet is current
    while len(serving.jobs) > own:
        if deadline >= 0 and ssf_monotonic() > deadline:
            return False
        hub.sleep(5000000)
    return True


def end_requests(server):
    """Raise GreenletExit in the handlers of all requests in progress, from any thread."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = serving.hub  # which may end meanwhile
    if serving.jobs and hub is not None:
        hub.post(End.make(serving))


@cython.final
cdef class End:
    """A job that ends others."""

    cdef Greenlets serving

    @staticmethod
    cdef End make(Greenlets serving):
        cdef End end = End.__new__(End)
        end.serving = serving
        return end

    def __call__(self):
        for job in list(self.serving.jobs):
            end_request(running(), job)
