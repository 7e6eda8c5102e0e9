# cython: language_level=3, freethreading_compatible=True
"""serve_forever() on a hub.

The server's own greenlet takes the requests and starts a greenlet for each; it has its turn like
all others (bench: green_keep_100, green_keep_1000).
"""

import threading

import greenlet

from socketserver_fast._serving.serving import has_stopped, request_stop, wake
from socketserver_fast._green import parking
from socketserver_fast._green.as_threads import change_tracers, report
from socketserver_fast._green.tls import cooperative

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from socketserver_fast._green.hub cimport SSF_HUB, Endpoint, Hub, Waiter, running
from socketserver_fast._serving.dispatch cimport accepting, batching, handle_batch, serve_kept
from socketserver_fast._serving.loop cimport serve_queued
from socketserver_fast._serving.serving cimport (
    Loop, RETRY_NANOSECONDS, Requests, Serving, is_draining, serving_of, stop_requested)
from socketserver_fast._sockets.plain cimport is_stream, parks, plain
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, nanoseconds, ssf_monotonic, ssf_poll, ssf_pollfd)

cdef object GreenletExit = greenlet.GreenletExit, current_greenlet = greenlet.getcurrent
cdef object gettrace = threading.gettrace, getprofile = threading.getprofile

available = bool(SSF_HUB)

cdef enum:
    ACCEPTS_PER_TURN = 16
    ACCEPT_NANOSECONDS = 10000000     # for a get_request() that does not accept at once
    CLEANUP_NANOSECONDS = 1000000000  # for what a handler does after a GreenletExit


# Requests.

@cython.final
cdef class Job:
    """A request, or a get_request() that may have to wait for its client; and its greenlet."""

    cdef object server, request, client_address
    cdef Greenlets serving
    cdef object greenlet                # from its start to its end
    cdef bint takes                     # it is a get_request()
    cdef unsigned long long accepted    # connections before it

    @staticmethod
    cdef Job make(server, Greenlets serving, request, client_address):
        cdef Job job = Job.__new__(Job)
        job.server, job.serving = server, serving
        job.request, job.client_address = request, client_address
        serving.jobs.add(job)
        return job

    def __call__(self):
        cdef Hub hub = running()
        if self not in self.serving.jobs:
            return  # ended before its start
        self.greenlet = current_greenlet()
        try:
            self.work(hub)
        except GreenletExit:
            pass
        except KeyboardInterrupt as error:
            hub.fail_root(error)
        except BaseException as error:
            self.fail(error, hub)
        finally:
            self.greenlet = None
            self.finish(hub)

    cdef int work(self, Hub hub) except -1:
        if self.takes:
            self.server._handle_request_noblock()
            return 0
        trace, profile = gettrace(), getprofile()
        if trace is not hub.trace or profile is not hub.profile:
            change_tracers((hub.trace, hub.profile), (trace, profile))
            hub.trace, hub.profile = trace, profile
        handle = (getattr(self.server, "process_request_greenlet", None)
                  or self.server.process_request_thread)  # unpatch() was faster
        handle(self.request, self.client_address)
        return 0

    cdef int fail(self, object error, Hub hub) except -1:
        if self.takes:
            self.serving.failure = error
            wake(self.server)
        elif isinstance(error, SystemExit):
            if hub.forked:
                hub.fail_root(error)
        else:
            try:
                report(error)
            except KeyboardInterrupt as interrupt:
                hub.fail_root(interrupt)
            except BaseException as failure:
                PyErr_SetObject(type(failure), failure)
                PyErr_WriteUnraisable(threading.excepthook)
        return 0

    cdef int finish(self, Hub hub) except -1:
        self.serving.jobs.discard(self)
        if not self.takes:
            self.serving.requests.release(self.request)
        return self.serving.tell(hub)

    cdef int end(self, Hub hub) except -1:
        """Raise GreenletExit in it."""
        if self.greenlet is not None:
            hub.kill(self.greenlet)
        elif self in self.serving.jobs:
            self.finish(hub)
            if not self.takes:
                self.server.shutdown_request(self.request)
        return 0


@cython.final
cdef class Greenlets:
    """The greenlets of a server, from its first request on."""

    cdef set jobs
    cdef Job newest               # that takes a request
    cdef object failure           # what get_request() raised: leaves serve_forever()
    cdef Hub hub                  # where they run
    cdef Requests requests        # of the server: what drain() counts
    cdef object greenlet          # that is in serve_forever()
    cdef list waiters             # of those that wait for the end of a request, or of serving
    cdef list all_ended           # Events to set when no request is left
    cdef int woken_by             # the listener, if it has just ended a wait; or -1

    def __cinit__(self):
        self.jobs, self.waiters, self.all_ended = set(), [], []
        self.woken_by = -1

    cdef int tell(self, Hub hub) except -1:
        """Wake who waits for news: that a request has ended, or serving."""
        while self.waiters:
            hub.rouse(<Waiter>self.waiters.pop())
        while self.all_ended and not self.jobs:
            self.all_ended.pop().set()
        return 0

    cdef bint wait_for_news(self, Hub hub, long long deadline) except -1:
        cdef Waiter waiter = hub.waiter(deadline)
        self.waiters.append(waiter)
        hub.park(waiter)
        return not waiter.timed_out

    cdef bint wait(self, Hub hub, long long deadline, Py_ssize_t own=0) except -1:
        """Wait until nothing is in progress but `own` requests; false when the time was over."""
        while len(self.jobs) > own and self.wait_for_news(hub, deadline):
            pass
        return len(self.jobs) <= own

    cdef int end(self, Hub hub, bint all) except -1:
        """End all that is in progress, or only what takes requests, which is not waited for."""
        cdef Job job
        failure = None
        for job in [one for one in self.jobs if all or (<Job>one).takes]:
            try:
                job.end(hub)
            except BaseException as error:  # a Ctrl-C, say: the others end first
                failure = error
            if job.takes:
                self.jobs.discard(job)
        self.tell(hub)
        if failure is not None:
            raise failure
        return 0

    def __call__(self):
        """End all that is in progress; posted to the hub by another thread."""
        self.end(running(), True)


cdef Greenlets greenlets_of(server):
    cdef Serving serving = serving_of(server)
    if serving.greenlets is None:
        serving.greenlets = Greenlets()
        (<Greenlets>serving.greenlets).requests = serving.requests
    return <Greenlets>serving.greenlets


def start(server, request, client_address):
    """Process a request in a greenlet of its own; False where no hub runs."""
    cdef Hub hub = running()
    cdef Greenlets serving
    if not parks(request):
        cooperative(request)
    if hub is None:
        return False
    serving = greenlets_of(server)
    serving.requests.add(request, 0)  # for no thread: all requests share this one
    hub.start(Job.make(server, serving, request, client_address))
    return True


# The server's own greenlet.

def serve(server, poll_interval, watching):
    """Serve until shutdown(), within the context manager watching(server, hub)."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub outer = running(), hub = outer
    if hub is None:
        hub = hub_for(serving)
        hub.enter()
    try:
        serving.hub = hub
        serving.greenlet = current_greenlet()
        with watching(server, hub):
            try:
                serve_in(server, poll_interval, hub, serving)
                finish(server, hub, serving)
            except BaseException:
                if not waits_for_requests(server) and not hub.forked:
                    end_all(hub, serving)
                raise
    finally:
        serving.greenlet = None
        if outer is None:
            leave(server, hub, None, serving)


cdef Hub hub_for(Greenlets serving):
    """Return a new hub, or the one in which requests of the server still wait."""
    if serving.hub is None or not serving.jobs:
        return Hub()
    if serving.hub.thread != threading.get_ident():
        raise RuntimeError("requests of this server wait in another thread")
    return serving.hub


cdef bint waits_for_requests(server) except -1:
    return server.block_on_close and not getattr(server, "daemon_threads", False)


cdef int leave(server, Hub hub, Hub outer, Greenlets serving) except -1:
    """Stop running the hub, and close it unless somebody waits for requests in it."""
    change_tracers((hub.trace, hub.profile), (None, None))
    hub.leave(outer)
    if not serving.jobs or not waits_for_requests(server):
        serving.hub = None
        hub.close()
    return 0


cdef int serve_in(server, poll_interval, Hub hub, Greenlets serving) except -1:
    cdef Loop loop
    try:
        with Loop(server) as loop:
            loop.rest = parking.sleep
            loop.waking_end = hub.loop.waking_end  # what wakes the server wakes its hub
            try:
                cooperative(server.socket)  # for get_request(), and what handlers send by
                serve_kept(server)
                take_requests(server, poll_interval, hub, serving, loop)
                if is_draining(server):
                    serve_queued(server, loop)
            finally:
                loop.waking_end = None  # which stays open
    finally:
        serving.newest = serving.failure = None
        serving.tell(hub)
    return 0


cdef int finish(server, Hub hub, Greenlets serving) except -1:
    """Wait for the requests in progress, or end them."""
    if not waits_for_requests(server) and not is_draining(server):
        return end_all(hub, serving)
    if not is_draining(server):
        serving.end(hub, False)
    serving.wait(hub, -1)
    return 0


cdef int end_all(Hub hub, Greenlets serving) except -1:
    serving.end(hub, True)
    serving.wait(hub, ssf_monotonic() + CLEANUP_NANOSECONDS)
    return 0


# Taking requests.

cdef int take_requests(server, poll_interval, Hub hub, Greenlets serving, Loop loop) except -1:
    cdef long long interval
    cdef int fd, events, burst = ACCEPTS_PER_TURN
    if stop_requested(server):
        return 0
    if server.fileno() < 0:
        raise ValueError(f"Invalid file descriptor: {server.fileno()}")
    interval = nanoseconds(poll_interval)
    while not stop_requested(server):
        fd = server.fileno()
        if fd < 0:
            return 0  # closed while serving
        most = getattr(server, "max_connections", None)  # which unpatch() may have taken away
        if most is not None and len(serving.jobs) >= most:
            fd = -1
        events = events_of(server, serving, fd)
        if events & POLLNVAL:
            return 0
        if events:
            burst -= take_request(server, hub, serving, loop, fd)
            server.service_actions()
            if burst <= 0:
                burst = ACCEPTS_PER_TURN
                hub.pass_turn()
        else:
            burst = ACCEPTS_PER_TURN
            if not wait_for_request(hub, serving, fd, interval) and not stop_requested(server):
                server.service_actions()
        if serving.failure is not None:
            raise serving.failure
    return 0


cdef int events_of(server, Greenlets serving, int fd) except -1:
    """Poll the listener, unless it has just ended a wait. Its successor may have its number."""
    cdef bint woken = fd >= 0 and fd == serving.woken_by
    cdef ssf_pollfd fds = [fd, POLLIN, 0]
    serving.woken_by = -1
    if woken and parks(server.socket) and plain(server.socket) and is_stream(server.socket):
        return POLLIN
    ssf_poll(&fds, 1, 0)
    return fds.revents


cdef int take_request(server, Hub hub, Greenlets serving, Loop loop, int fd) except -1:
    """Take what made the listener ready; how much of a turn that was."""
    if batching(server) and getattr(server, "max_connections", None) is None:
        handle_batch(server, loop)
        return ACCEPTS_PER_TURN  # since it was many datagrams
    # A get_request() that is not ours may wait for its client: for a TLS handshake, say.
    if not plain(server.socket) or not accepting.intact(server):
        take_in_greenlet(server, hub, serving)
    else:
        hub.acceptable = fd
        try:
            server._handle_request_noblock()
        finally:
            hub.acceptable = -1
    if loop.exhausted:
        loop.exhausted = False
        wait_for_request(hub, serving, -1, RETRY_NANOSECONDS)
    return 1


cdef int take_in_greenlet(server, Hub hub, Greenlets serving) except -1:
    """Take a request in a greenlet of its own; the next one may begin when it has accepted."""
    cdef Job newest = serving.newest
    if newest is not None and newest in serving.jobs and newest.accepted == hub.accepted:
        return hub.park(hub.waiter(ssf_monotonic() + ACCEPT_NANOSECONDS))
    serving.newest = newest = Job.make(server, serving, None, None)
    newest.takes, newest.accepted = True, hub.accepted
    hub.start(newest)
    hub.pass_turn()
    if serving.failure is not None:
        raise serving.failure
    return 0


cdef bint wait_for_request(Hub hub, Greenlets serving, int fd, long long interval) except -1:
    """Wait for the listener or a wake-up, if `fd` is -1 for the end of a request; false when the
    time was over."""
    cdef Endpoint listener = None if fd < 0 else hub.endpoint(fd)
    cdef Waiter waiter
    if listener is not None and listener.take(POLLIN):
        return True
    waiter = hub.waiter(-1 if interval < 0 else ssf_monotonic() + interval)
    if listener is not None:
        listener.add(hub, waiter, POLLIN)
    else:
        serving.waiters.append(waiter)
    hub.roused.append(waiter)
    try:
        hub.park(waiter)
    finally:
        hub.roused.remove(waiter)
        if listener is None and waiter in serving.waiters:
            serving.waiters.remove(waiter)
    if listener is not None and not waiter.events & POLLIN:
        serving.woken_by = fd
    return not waiter.timed_out


# Ending.

def stop(server, timeout):
    """Stop the server from a greenlet of its hub; returns whether it has stopped in time.

    Returns None if another thread calls it, which has to wait as for every server.
    """
    cdef Greenlets serving = greenlets_of(server)
    cdef long long deadline = -1 if timeout is None else ssf_monotonic() + nanoseconds(timeout)
    if not runs_here(server) or serving.greenlet is None or serving.greenlet is current_greenlet():
        return None
    request_stop(server)
    while not has_stopped(server):
        if not serving.wait_for_news(running(), deadline):
            return has_stopped(server)
    return True


def runs_here(server):
    """Return whether the caller is a greenlet of the hub that serves."""
    cdef Hub hub = running()
    return hub is not None and hub is greenlets_of(server).hub


def join(server, timeout):
    """Wait until the server has no request in progress but the caller's own.

    Returns False if `timeout` seconds were over first, or if no thread runs the requests any more.
    """
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = running(), outer
    cdef long long deadline = -1 if timeout is None else ssf_monotonic() + nanoseconds(timeout)
    if not serving.jobs or serving.hub is not None and serving.hub.forked:
        return True
    if hub is not None and hub is serving.hub:
        current = current_greenlet()
        return serving.wait(
            hub, deadline, sum([(<Job>job).greenlet is current for job in serving.jobs]))
    if serving.greenlet is not None:
        event = threading.Event()
        serving.all_ended.append(event)
        return not serving.jobs or event.wait(timeout)
    hub = serving.hub
    if hub is None or hub.thread != threading.get_ident():
        return False
    outer = hub.enter()
    try:
        return serving.wait(hub, deadline)
    finally:
        leave(server, hub, outer, serving)


def end_requests(server):
    """Raise GreenletExit in the handlers of all requests in progress. Any thread may call it."""
    cdef Greenlets serving = greenlets_of(server)
    cdef Hub hub = serving.hub  # which may end meanwhile
    if serving.jobs and hub is not None:
        hub.post(serving)
