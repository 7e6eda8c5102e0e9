# cython: language_level=3, freethreading_compatible=True
"""serve_forever: wait for the listener or a wake-up, have what is there dispatched.

Hot is one turn (bench: tcp_close_16, udp_echo_64). What is saved is the selector object and, while
connections keep coming, the hand-over of the GIL at each wait.
"""

import select
import selectors
import time
import types

from cpython.exc cimport PyErr_CheckSignals

from socketserver_fast._serving.backlog cimport serve_queued
from socketserver_fast._serving.dispatch cimport handle_ready, serve_kept
from socketserver_fast._serving.serving cimport Loop, is_draining, stop_requested
from socketserver_fast._sockets.datagram cimport has_kept
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, SSF_NATIVE, nanoseconds, ssf_poll, ssf_pollfd, wait)

cdef object monotonic = time.monotonic  # not replaced by what freezes the clock in tests

# What socketserver._ServerSelector is if nobody changed it.
cdef object plain_selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

cdef enum:
    ACCEPTS_PER_WAIT = 16            # nginx, haproxy and redis settled on 4 to 16, too


def serve(server, poll_interval, selector_class, serve_by_workers=None):
    """The body of serve_forever(). A changed `selector_class` is used as the stdlib would.

    `serve_by_workers` has the workers of a pool accept; it returns true when something asks for
    this thread.
    """
    cdef Loop loop
    with Loop(server) as loop:
        if has_kept(server):
            serve_kept(server)
        # gevent replaces select.poll, eventlet and some tests the selector: they want to be asked.
        if selector_class is not plain_selector or not unpatched_poll():
            serve_by_selector(server, poll_interval, selector_class, None)
        elif not loop.open():  # and the first connections may free some descriptors
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
    cdef ssf_pollfd fds[2]
    cdef long long interval
    cdef int burst = 0
    if stop_requested(server):
        return 0
    interval = nanoseconds(poll_interval)
    fds[0].fd = listening_descriptor(server)
    fds[1].fd = loop.fileno()
    fds[0].events = fds[1].events = POLLIN
    while not stop_requested(server):
        if burst > 0 and ssf_poll(fds, 1, 0) > 0:
            burst -= 1
            PyErr_CheckSignals()
        else:
            burst = ACCEPTS_PER_WAIT
            fds[0].fd = server.fileno()
            if fds[0].fd < 0:
                return 0  # closed while serving
            fds[0].revents = fds[1].revents = 0
            wait(fds, 2, interval)
            if stop_requested(server):  # bpo-35017: no request after shutdown()
                return 0
            if fds[1].revents:
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


cdef int serve_by_selector(server, poll_interval, selector_class, Loop loop) except -1:
    """As the stdlib serves; with a `loop` also woken by it and resting when out of descriptors."""
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
    """server.fileno(), refused as selectors refuses it."""
    try:
        fd = int(server.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {server!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def handle_request(server, selector_class):
    """The body of handle_request(): one request, or handle_timeout() when none came in time."""
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
