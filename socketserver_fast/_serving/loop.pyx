# cython: language_level=3, freethreading_compatible=True
"""Runs serve_forever(): waits for the listener or a wake-up, and dispatches what is there.

Hot is one turn (bench: tcp_close_16, udp_echo_64). What is saved is the selector object and, while
connections keep coming, the hand-over of the GIL at each wait.

A server that is drained ends with serve_queued(), which takes what the kernel has queued. The time
between its last look at the queue and the close of the listener counts: a connection that is made
in between is reset, which its client cannot tell from a lost request. The same happens to a
handshake that is half done then. With 8 clients that connect without a pause over loopback, 540
drains of a TCPServer reset 15 connections, 320 of a GreenletTCPServer 36. A listener that other
processes share stays open with them, and nothing is reset.

Nothing is set on the listener to hold clients off: it would stay there for those who share it if
this process were killed. listen(fd, 0) resets as many: each accept() lets the next one in.
"""

import select
import selectors
import socket
import time
import types

from cpython.exc cimport PyErr_CheckSignals

from socketserver_fast._serving.dispatch cimport (
    dispatch, draining, exhausted_errors, handle_ready, serve_kept)
from socketserver_fast._serving.serving cimport (
    Loop, Requests, is_draining, requests_of, stop_requested)
from socketserver_fast._sockets.datagram cimport has_kept, take_kept
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, SSF_NATIVE, nanoseconds, ssf_poll, ssf_pollfd, wait)

cdef object monotonic = time.monotonic  # kept, since tests freeze the clock by replacing it

# socketserver._ServerSelector, if nobody has replaced it.
cdef object plain_selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

cdef enum:
    ACCEPTS_PER_WAIT = 16            # nginx, haproxy and redis settled on 4 to 16, too
    QUEUED_AT_MOST = 65536           # the longest queue that Linux makes of a listen()

cdef object DATAGRAMS = socket.SOCK_DGRAM


def serve(server, poll_interval, selector_class, serve_by_workers=None):
    """Serve until the server is told to stop: the body of serve_forever().

    A `selector_class` that is not the stdlib's default is used as the stdlib uses it.
    `serve_by_workers` lets the worker threads of a pool accept; it returns true when something
    needs this thread.
    """
    cdef Loop loop
    with Loop(server) as loop:
        if has_kept(server):
            serve_kept(server)
        # gevent replaces select.poll, eventlet and some tests the selector: use what they gave.
        if selector_class is not plain_selector or not unpatched_poll():
            serve_by_selector(server, poll_interval, selector_class, None)
        elif not loop.open():  # the first connections may free some descriptors
            serve_by_selector(server, poll_interval, selector_class, None)
        elif SSF_NATIVE:
            if serve_by_workers is None or serve_by_workers(server, poll_interval, loop):
                serve_by_poll(server, poll_interval, loop)
        else:
            serve_by_selector(server, poll_interval, selector_class, loop)
        if is_draining(server):
            serve_queued(server, loop)


cdef bint unpatched_poll():
    return isinstance(getattr(select, "poll", len), types.BuiltinFunctionType)


cdef int serve_by_poll(server, poll_interval, Loop loop) except -1:
    cdef ssf_pollfd fds[2]  # of the listener, and of wake-ups
    cdef long long interval
    cdef int burst = 0
    if stop_requested(server):
        return 0
    interval = nanoseconds(poll_interval)
    fds[0].fd = listening_descriptor(server)
    fds[1].fd = loop.fileno()
    fds[0].events = fds[1].events = POLLIN
    while await_turn(server, fds, &burst, interval):
        if fds[1].revents:
            fds[1].revents = 0
            loop.clear()
            if not fds[0].revents:
                continue
        if fds[0].revents & POLLNVAL:
            return 0  # closed while serving, behind the socket object's back
        if fds[0].revents:
            if handle_ready(server, loop):
                burst = 0
                continue
            if loop.exhausted:
                loop.back_off()
        server.service_actions()
    return 0


cdef bint await_turn(server, ssf_pollfd *fds, int *burst, long long interval) except -1:
    """Wait for a request, a wake-up or the end of `interval`; return False if the loop ends.

    `burst` is how often the listener may be ready without a wait that lets other threads run.
    """
    if stop_requested(server):
        return False
    if burst[0] > 0 and ssf_poll(fds, 1, 0) > 0:
        burst[0] -= 1
        PyErr_CheckSignals()
        return True
    burst[0] = ACCEPTS_PER_WAIT
    fds[0].fd = server.fileno()
    if fds[0].fd < 0:
        return False  # closed while serving
    fds[0].revents = fds[1].revents = 0
    wait(fds, 2, interval)
    return not stop_requested(server)  # bpo-35017: no request after shutdown()


cdef int serve_by_selector(server, poll_interval, selector_class, Loop loop) except -1:
    """Serve as the stdlib does; a `loop` wakes it up, and has it back off when exhausted."""
    if stop_requested(server):
        return 0
    with selector_class() as selector:
        selector.register(server, selectors.EVENT_READ)
        if loop is not None:
            selector.register(loop, selectors.EVENT_READ)
        while not stop_requested(server):
            try:
                keys = selector.select(poll_interval)
            except OSError:  # from select() on Windows, once the listener is closed
                if loop is None or server.fileno() >= 0:
                    raise
            if stop_requested(server):
                return 0
            if loop is not None:
                if server.fileno() < 0:
                    return 0  # closed while serving
                if keys:
                    loop.clear()
                    keys = [key for key, _ in keys if key.fileobj is server]
                    if not keys:
                        continue
            if keys:
                server._handle_request_noblock()
                if loop is not None and loop.exhausted:
                    loop.back_off()
            server.service_actions()
    return 0


cdef int listening_descriptor(server) except -1:
    """Return server.fileno(); ValueError, as from selectors, if that is no descriptor."""
    try:
        fd = int(server.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {server!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def handle_request(server, selector_class):
    """Handle one request, or call handle_timeout() if none comes: the body of handle_request()."""
    if has_kept(server):
        return server._handle_request_noblock()
    timeouts = [t for t in (server.socket.gettimeout(), server.timeout) if t is not None]
    left = min(timeouts) if timeouts else None
    deadline = None if left is None else monotonic() + left
    with selector_class() as selector:
        selector.register(server, selectors.EVENT_READ)
        while not selector.select(left):
            if deadline is not None:
                left = deadline - monotonic()
                if left < 0:
                    return server.handle_timeout()
    return server._handle_request_noblock()


cdef int serve_queued(server, Loop loop) except -1:
    """Take the requests that the kernel has queued, close the listener, then dispatch them.

    A listener that is closed resets what is in its queue, and one that stays open queues more: so
    it is emptied first, which takes microseconds, and closed before the first handler runs.
    """
    cdef bint left = True
    cdef long _
    if not draining.intact(server):
        for _ in range(QUEUED_AT_MOST):
            if not is_draining(server) or not ready(server):  # drain() gives up at its deadline
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
    """Dispatch the datagrams that an exception left over, after serve_forever()."""
    cdef Requests requests = requests_of(server)
    cdef list left = []
    while (kept := take_kept(server)) is not None:
        requests.claim(kept[0])
        left.append(kept)
    dispatch_all(server, left)


cdef int dispatch_all(server, list queued) except -1:
    """Dispatch all of them in order, even if one raises an exception: nobody else can.

    After KeyboardInterrupt the rest is closed without being handled.
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
    """Move what is queued to `queued` and close the listener.

    Returns whether something is left because the process ran out of descriptors. The requests in
    `queued` are claimed, even if an exception ends this early.
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
    """Return the socket that connections come from; None for datagrams, whose replies use it."""
    listener = getattr(server, "socket", None)
    return None if getattr(listener, "type", DATAGRAMS) == DATAGRAMS else listener
