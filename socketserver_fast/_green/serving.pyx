# cython: language_level=3, freethreading_compatible=True
"""Serving on a hub.

The server's own greenlet takes the requests and queues each for a greenlet of its own; it has its
turn like all others (bench: green_keep_100, green_keep_1000).
"""

import errno
import math
import sys
import threading

import greenlet

from socketserver_fast._serving.serving import request_stop, wake
from socketserver_fast._green import parking
from socketserver_fast._green.sockets import cooperative

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from socketserver_fast._green.hub cimport (
    SSF_HUB, WAITING, Endpoint, Hub, Waiter, running)
from socketserver_fast._serving.backlog cimport serve_queued
from socketserver_fast._serving.dispatch cimport batching, handle_batch, serve_kept
from socketserver_fast._serving.originals cimport accepting
from socketserver_fast._serving.requests cimport Requests
from socketserver_fast._serving.serving cimport (
    Loop, RETRY_NANOSECONDS, Serving, is_draining, serving_of, stop_requested)
from socketserver_fast._sockets.plain cimport plain
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, nanoseconds, ssf_monotonic, ssf_poll, ssf_pollfd)

cdef object GreenletExit = greenlet.GreenletExit
cdef object current_greenlet = greenlet.getcurrent

cdef object gettrace = threading.gettrace
cdef object getprofile = threading.getprofile

available = bool(SSF_HUB)

cdef enum:
    ACCEPTS_PER_TURN = 16
    LONGEST_WAIT = 0x7fffffff         # milliseconds, of poll(2)
    ACCEPT_NANOSECONDS = 10000000     # for a get_request() that does not accept at once
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
            trace_as_a_new_thread(hub)
            self.server.process_request_greenlet(self.request, self.client_address)
        except (GreenletExit, SystemExit):
            pass
        except KeyboardInterrupt as error:
            hub.fail_root(error)
        except BaseException as error:
            report(error, hub)
        finally:
            self.greenlet = None
            self.serving.end(self, hub)


cdef int report(object error, Hub hub) except -1:
    """Hand an error to threading.excepthook; where that fails, go on as a thread would."""
    try:
        try:
            threading.excepthook(threading.ExceptHookArgs(
                (type(error), error, error.__traceback__, threading.current_thread())))
        except Exception:
            sys.excepthook(*sys.exc_info())
    except KeyboardInterrupt as interrupt:
        hub.fail_root(interrupt)
    except BaseException as failure:
        PyErr_SetObject(type(failure), failure)
        PyErr_WriteUnraisable(threading.excepthook)
    return 0


cdef int trace_as_a_new_thread(Hub hub) except -1:
    """What threading.settrace() and setprofile() have set is for threads that begin, and so for
    requests. Whatever else this thread is traced by stays."""
    trace, profile = gettrace(), getprofile()
    if trace is not hub.trace:
        if sys.gettrace() is hub.trace:
            sys.settrace(trace)
        hub.trace = trace
    if profile is not hub.profile:
        if sys.getprofile() is hub.profile:
            sys.setprofile(profile)
        hub.profile = profile
    return 0


@cython.final
cdef class Greenlets:
    """What a server has of its greenlets, from its first request on."""

    cdef readonly set jobs
    cdef set takings              # that are in get_request()
    cdef Taking newest
    cdef object failure           # what get_request() raised: leaves serve_forever()
    cdef readonly Hub hub         # where they run
    cdef Requests requests        # of the server: what drain() counts
    cdef object greenlet          # that is in serve_forever()
    cdef Waiter waiter            # of the one that takes requests
    cdef list ended               # Waiters and Events to tell that there is no job left
    cdef list stopped             # Waiters to tell that serve_forever() has stopped

    def __cinit__(self):
        self.jobs = set()
        self.takings = set()
        self.ended = []
        self.stopped = []

    cdef int end(self, Job job, Hub hub) except -1:
        self.jobs.discard(job)
        self.requests.release(job.request)
        return self.tell(hub)

    cdef int tell(self, Hub hub) except -1:
        """Wake who waits for the end of one job, or of all."""
        if self.waiter is not None and self.waiter.state == WAITING:
            hub.ready(self.waiter)
        if not self.busy():
            wake_all(self.ended, hub)
        return 0

    cdef bint busy(self):
        return len(self.jobs) > 0 or len(self.takings) > 0


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
        hub = serving.hub if serving.hub is not None and serving.busy() else Hub()
        if hub.thread != threading.get_ident():
            raise RuntimeError("requests of this server wait in another thread")
        hub.enter()
    try:
        serving.hub = hub
        serving.greenlet = current_greenlet()
        with watching(server, hub):
            try:
                serve_in(server, poll_interval, hub, serving)
            except BaseException:
                if not waits_for_requests(server):
                    end_all(hub, serving)
                raise
            finish(server, hub, serving)
    finally:
        serving.greenlet = None
        if outer is None:
            leave(server, hub, None, serving)


cdef bint waits_for_requests(server) except -1:
    return server.block_on_close and not getattr(server, "daemon_threads", False)


cdef int leave(server, Hub hub, Hub outer, Greenlets serving) except -1:
    """Stop running the hub; without requests that somebody waits for it has served its time."""
    if sys.gettrace() is hub.trace is not None:
        sys.settrace(None)
    if sys.getprofile() is hub.profile is not None:
        sys.setprofile(None)
    hub.leave(outer)
    if not serving.busy() or not waits_for_requests(server):
        serving.hub = None
        hub.close()
    return 0


cdef int serve_in(server, poll_interval, Hub hub, Greenlets serving) except -1:
    cdef Loop loop
    try:
        with Loop(server) as loop:
            loop.rest = parking.sleep
            if not loop.open():
                raise OSError(errno.EMFILE, "no descriptors left to serve")
            try:
                cooperative(server.socket)  # for get_request(), and what handlers send by
                serve_kept(server)
                take_requests(server, poll_interval, hub, serving, loop)
                if is_draining(server):
                    serve_queued(server, loop)
            finally:
                hub.forget(loop.fileno())
    finally:
        serving.waiter = serving.newest = serving.failure = None
        wake_all(serving.stopped, hub)
    return 0


cdef long long interval_of(poll_interval) except? -2:
    """A poll_interval in nanoseconds, refused as selectors refuses it; -1 for none."""
    if poll_interval is None:
        return -1
    if poll_interval <= 0:
        return 0
    milliseconds = math.ceil(poll_interval * 1e3)
    if milliseconds > LONGEST_WAIT:
        raise OverflowError("timeout is too large")
    return milliseconds * 1000000


cdef int take_requests(server, poll_interval, Hub hub, Greenlets serving, Loop loop) except -1:
    cdef long long interval
    cdef ssf_pollfd fds[2]
    cdef int burst = ACCEPTS_PER_TURN
    fds[0].events = fds[1].events = POLLIN
    fds[1].fd = loop.fileno()
    if stop_requested(server):
        return 0
    if server.fileno() < 0:
        raise ValueError(f"Invalid file descriptor: {server.fileno()}")
    interval = interval_of(poll_interval)
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
        if fds[0].fd >= 0 and fds[0].revents:
            if take_request(server, hub, serving, loop, fds[0].fd):
                burst = 1  # it was many requests already
            if serving.failure is not None:
                raise serving.failure
            if loop.exhausted:
                loop.exhausted = False
                wait_for_request(hub, serving, -1, fds[1].fd, RETRY_NANOSECONDS)
            server.service_actions()
            burst -= 1
            if burst == 0:
                burst = ACCEPTS_PER_TURN
                hub.pass_turn()
        elif serving.failure is not None:
            raise serving.failure
        elif not fds[1].revents:
            burst = ACCEPTS_PER_TURN
            if not wait_for_request(hub, serving, fds[0].fd, fds[1].fd, interval):
                if not stop_requested(server):
                    server.service_actions()
    return 0


cdef bint take_request(server, Hub hub, Greenlets serving, Loop loop, int fd) except -1:
    """Take what made the listener ready; true if that was many datagrams."""
    if connections_at_most(server) is None and batching(server):
        handle_batch(server, loop)
        return True
    if may_park(server):
        take_in_greenlet(server, hub, serving)
        return False
    hub.acceptable = fd
    try:
        server._handle_request_noblock()
    finally:
        hub.acceptable = -1
    return False


cdef bint may_park(server):
    """Return whether get_request() may wait for its client: a TLS handshake, say."""
    return not plain(server.socket) or not accepting.intact(server)


cdef int take_in_greenlet(server, Hub hub, Greenlets serving) except -1:
    """Take a request in a greenlet of its own, which the server does not wait for any longer once
    it has accepted."""
    cdef Taking newest = serving.newest
    if newest is not None and newest in serving.takings and newest.accepted == hub.accepted:
        hub.sleep(ACCEPT_NANOSECONDS)
        return 0
    serving.newest = newest = Taking.__new__(Taking)
    newest.server = server
    newest.serving = serving
    newest.accepted = hub.accepted
    serving.takings.add(newest)
    hub.start(newest)
    hub.pass_turn()
    return 0


@cython.final
cdef class Taking:
    """A job that takes one request."""

    cdef object server, greenlet
    cdef Greenlets serving
    cdef unsigned long long accepted

    def __call__(self):
        cdef Hub hub = running()
        if self not in self.serving.takings:
            return  # ended before its start
        self.greenlet = current_greenlet()
        try:
            self.server._handle_request_noblock()
        except GreenletExit:
            pass
        except KeyboardInterrupt as error:
            hub.fail_root(error)
        except BaseException as error:
            self.serving.failure = error
            wake(self.server)
        finally:
            self.greenlet = None
            self.serving.takings.discard(self)
            self.serving.tell(hub)


cdef object connections_at_most(server):
    """max_connections, which unpatch() may have taken away while the server runs."""
    return getattr(server, "max_connections", None)


cdef bint is_full(server, Greenlets serving) except -1:
    most = connections_at_most(server)
    return most is not None and len(serving.jobs) + len(serving.takings) >= most


cdef bint wait_for_request(Hub hub, Greenlets serving, int fd, int waking_fd,
                           long long interval) except -1:
    """Wait for the listener (if `fd` is not -1), for loop.wake() or, without a listener, for the
    end of a request; false when the time was over."""
    cdef Endpoint waking = hub.endpoint(waking_fd)
    cdef Endpoint listener = None if fd < 0 else hub.endpoint(fd)
    cdef Waiter waiter
    if (listener is not None and listener.take(POLLIN)) or waking.take(POLLIN):
        return True
    waiter = hub.waiter(-1 if interval < 0 else ssf_monotonic() + interval)
    waking.add(hub, waiter, POLLIN)
    if listener is not None:
        listener.add(hub, waiter, POLLIN)
    else:
        serving.waiter = waiter
    hub.park(waiter)
    serving.waiter = None
    return not waiter.timed_out


cdef int finish(server, Hub hub, Greenlets serving) except -1:
    """After serving: wait for the requests in progress, or end them."""
    if not waits_for_requests(server) and not is_draining(server):
        return end_all(hub, serving)
    if not is_draining(server):
        end_takings(hub, serving)
    wait_for_jobs(hub, serving, -1)
    return 0


cdef int end_all(Hub hub, Greenlets serving) except -1:
    end_takings(hub, serving)
    for job in list(serving.jobs):
        end_request(hub, job)
    wait_for_jobs(hub, serving, ssf_monotonic() + CLEANUP_NANOSECONDS)
    return 0


cdef int end_takings(Hub hub, Greenlets serving) except -1:
    """Raise GreenletExit in every get_request() that waits for its client."""
    cdef Taking taking
    for taking in list(serving.takings):
        if taking.greenlet is not None:
            hub.kill(taking.greenlet)
        serving.takings.discard(taking)
    return serving.tell(hub)


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
    while serving.busy():
        waiter = hub.waiter(deadline)
        serving.ended.append(waiter)
        hub.park(waiter)
        if waiter.timed_out:
            return not serving.busy()
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
    """Return whether the caller is a greenlet of the hub that serves."""
    cdef Hub hub = running()
    return hub is not None and hub is greenlets_of(server).hub


def join(server, timeout):
    """Wait until the server has no request in progress but the caller's own; False when `timeout`
    seconds were over first, or when they wait in a thread that does not run them any more."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = running(), outer
    cdef long long deadline = -1 if timeout is None else ssf_monotonic() + nanoseconds(timeout)
    if not serving.busy():
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
            leave(server, serving.hub, outer, serving)
    event = threading.Event()
    serving.ended.append(event)
    return not serving.busy() or event.wait(timeout)


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
    if serving.busy() and hub is not None:
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
        end_takings(running(), self.serving)
        for job in list(self.serving.jobs):
            end_request(running(), job)
