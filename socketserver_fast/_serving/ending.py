"""Ends a server: the bodies of BaseServer.shutdown(), drain() and serve_until_signal().

    drain
      _stop_accepting      the loop takes what is queued, closes the listener, returns
      _wait_for_requests   those in progress end by themselves
      _close_requests      only after the deadline, for those that did not
      server_close

The first two take a deadline, a value of time.monotonic() or None. Each mix-in extends the three
for its threads, child processes, greenlets or workers.
"""

import _thread
import signal
import socket
import threading
import time
import weakref
from contextlib import suppress

from socketserver_fast._serving import loop, serving
from socketserver_fast._serving.serving import requests_of
from socketserver_fast._serving.signals import Handlers
from socketserver_fast._sockets import kept, plain, wait
from socketserver_fast._sockets.log import logger

_closed = weakref.WeakSet()


def refuse_to_wait_for_itself(server, method):
    """Raise RuntimeError in the thread that is in serve_forever()."""
    if (serving.serving_thread(server) == threading.get_ident()
            and not serving.has_stopped(server)):
        raise RuntimeError(
            f"{method}() was called from the thread that runs serve_forever(), and would wait for "
            f"that to return; call it from another thread: threading.Thread(target=server.{method})"
            f".start(). A program that ends at a signal calls serve_until_signal() instead of "
            f"serve_forever().")


def shutdown(server, timeout):
    """Stop the server and wait for that: the body of BaseServer.shutdown()."""
    wait.check_time(timeout)
    refuse_to_wait_for_itself(server, "shutdown")
    serving.request_stop(server)
    return serving.wait_until_stopped(server, timeout)


def drain(server, timeout):
    """Finish what was accepted, then close the server: the body of BaseServer.drain()."""
    refuse_to_wait_for_itself(server, "drain")
    if requests_of(server).held_by(threading.get_ident()):
        raise RuntimeError(
            "drain() was called by a request, and would wait for that to finish; call it from "
            "another thread: threading.Thread(target=server.drain).start()")
    deadline = deadline_in(timeout)
    finished = False
    try:
        stopped = server._stop_accepting(deadline)
        if stopped:
            loop.serve_left(server)
        finished = server._wait_for_requests(deadline) and stopped
    finally:
        if not finished:
            give_up(server)
        server.server_close()
        kept.forget(requests_of(server))
    return finished


def give_up(server):
    """Stop waiting: leave the queue alone, and close the requests in progress.

    Two threads may reach the deadline at once; only one of them logs it.
    """
    first = serving.give_up_drain(server)
    if (count := server.requests_in_progress) and first:
        logger().warning("%s: %d requests were not finished in time and are closed",
                         type(server).__name__, count)
    server._close_requests()


def serve_until_signal(server, numbers, drain_timeout, drain):
    """Serve until a signal, then call drain(timeout): the body of serve_until_signal()."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "serve_until_signal() must be called in the main thread, in which Python runs the "
            "handlers of signals; in another one call serve_forever(), and drain() to end it")
    deadline_in(drain_timeout)
    signals = Signals(server, drain_timeout)
    try:
        for number in numbers or (signal.SIGTERM, signal.SIGINT):
            signals.install(number, signals.handle)
        server.serve_forever()
        drain(drain_timeout if signals.received is None else left(signals.deadline))
    except BaseException:
        if signals.received is not None:  # the second signal
            server._close_requests()
        raise
    finally:
        signals.restore()
        signals.ended.release()
        kept.forget(requests_of(server))
    return signals.received


class Signals(Handlers):
    """Handles the signals that end a server; `received` is the first one.

    A handler may run while the main thread holds a lock of `threading`. So it takes none, and
    starts its thread without that module.
    """

    def __init__(self, server, drain_timeout):
        super().__init__()
        self.server = server
        self.drain_timeout = drain_timeout
        self.received = self.deadline = None
        self.ended = _thread.allocate_lock()
        self.ended.acquire()

    def handle(self, number, frame):
        """Make the server end; at the second signal do what the program would have done."""
        if self.received is not None:
            self.restore()
            signal.raise_signal(number)
            return
        self.received = number
        if self.drain_timeout is not None:
            self.deadline = time.monotonic() + self.drain_timeout
            # Children do not hold up the loop, and forking beside a thread makes Python warn.
            if not hasattr(self.server, "active_children"):
                _thread.start_new_thread(self.give_up_at_the_deadline, ())
        serving.request_drain(self.server)
        kept.end(requests_of(self.server))

    def give_up_at_the_deadline(self):
        """Close a request that the main thread is busy with, so that the loop can end."""
        if not self.ended.acquire(timeout=self.drain_timeout):
            give_up(self.server)


def deadline_in(timeout):
    """Return the deadline in `timeout` seconds. ValueError, OverflowError or TypeError."""
    wait.check_time(timeout)
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError(f"a timeout is None or a number of seconds from 0 on, not {timeout!r}")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError(f"a timeout of {timeout!r} seconds is more than this system can wait")
    return time.monotonic() + timeout


def left(deadline):
    """Return the seconds until a deadline, at least 0; None if there is none."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def close_request(request):
    """Shut a connection down while its handler runs, which then reads the end of the stream.

    Its own thread closes it, so that nobody else gets its descriptor meanwhile.
    """
    with suppress(OSError, AttributeError, TypeError):
        _closed.add(request)  # first, so that was_closed() tells of it, or what follows has effect
    with suppress(OSError, AttributeError):
        if isinstance(request, socket.socket):
            # Not the method of a TLS socket, which would go on in plain text.
            plain.shut_down(request)
        else:
            request.shutdown(socket.SHUT_RDWR)


def was_closed(request):
    """Return whether close_request() was called for this socket, perhaps just before it was taken
    over by another one, and so without effect."""
    return request in _closed


def leave_listener(server, request):
    """Close the listener in the child process of a request.

    A socket for datagrams stays open: the child replies through it.
    """
    listener = getattr(server, "socket", None)
    if listener is not request and getattr(listener, "type", None) == socket.SOCK_STREAM:
        listener.close()


def join(threads, deadline):
    """Wait for threads until the deadline; return whether all have ended."""
    threads = list(threads)
    for thread in threads:
        thread.join(left(deadline))
    return not any(thread.is_alive() for thread in threads)
