"""What the thread in serve_forever() does for a pool.

Where the workers accept by themselves it keeps the time: service_actions() and the flags at each
tick. It looks after the workers, and takes over where a hook was replaced by code that expects this
thread.
"""

import contextvars
import os
import select
import socket
import sys
import time
from contextlib import suppress

from socketserver_fast._pool.pool import unchanged
from socketserver_fast._pool.silence import AVAILABLE, Silence
from socketserver_fast._serving.serving import requests_of, stop_requested
from socketserver_fast._sockets.wait import milliseconds


def serve(pool, server, poll_interval, loop):
    """Serve until the server stops: False; or until a hook wants this thread: True."""
    if stop_requested(server) or server.fileno() < 0 or not unchanged(server):
        return True
    goes_on = False
    try:
        silence = silence_of(server)
        listener = Listener(server)
    except OSError:
        return server.fileno() >= 0  # out of descriptors; or another thread has just closed it
    try:
        pool.start_accepting(listener.pipe, new_context(), silence)
        goes_on = watch(pool, server, silence, poll_interval, loop)
        return goes_on
    finally:
        pool.stop_accepting()
        pool.await_leader()
        listener.give_back()
        end_silence(pool, server, silence, goes_on)


def silence_of(server):
    """Return what keeps the server's connections until their first byte; None without a limit."""
    if server.first_byte_timeout is None or server.socket.type == socket.SOCK_DGRAM:
        return None
    return Silence(server.first_byte_timeout) if AVAILABLE else None


def end_silence(pool, server, silence, goes_on):
    """Have those served whose clients have spoken, and close the others, unless serving goes on."""
    if silence is None:
        return
    served, closed = silence.end()
    if goes_on:
        served, closed = served + closed, []
    closed += [item for item in served if not pool.hand_over(server, item)]
    close_silent(server, closed)


def close_late(server, silence):
    """Close the connections whose time is over; return the seconds until the next one's is."""
    if silence is None:
        return None
    late, seconds = silence.take_late()
    close_silent(server, late)
    return seconds


def close_silent(server, items):
    """Close connections that no handler has seen."""
    for request, *_ in items:
        try:
            server.shutdown_request(request)
        finally:
            requests_of(server).release(request)


class Listener:
    """Prepares a server's listener for several threads, and has the pipe that interrupts them.

    No system has an accept() that does not wait for once: O_NONBLOCK belongs to the open socket,
    and so to all processes that share it. A process that is killed leaves it behind. Without it a
    worker that another process overtakes would wait for the next client, also when its server is
    to end.
    """

    def __init__(self, server):
        self.server = server
        self.pipe = os.pipe()
        try:
            self.was_blocking = unblock(server.socket)
        except BaseException:
            self.close_pipe()
            raise

    def give_back(self):
        """Leave the listener as it was. Nobody may be waiting any more."""
        self.close_pipe()
        if self.was_blocking:
            with suppress(OSError):  # it may be closed
                os.set_blocking(self.server.fileno(), True)

    def close_pipe(self):
        """Free the descriptors."""
        for end in self.pipe:
            os.close(end)


def unblock(sock):
    """Make accept() of a stream not wait when another process was faster.

    Returns whether it was blocking. Python's side of the socket does not notice. Datagram sockets
    stay as they are, since handlers send through them.
    """
    if sock.type == socket.SOCK_DGRAM or not os.get_blocking(sock.fileno()):
        return False
    os.set_blocking(sock.fileno(), False)
    return True


def watch(pool, server, silence, poll_interval, loop):
    """Keep the time and look after the workers meanwhile. Returns what serve() does."""
    while not stop_requested(server):
        fd = server.fileno()
        if fd < 0:
            return False
        if not unchanged(server):
            return True
        staffed = pool.staff(server) or not pool.accepting
        seconds = shorter(poll_interval, pool.attend(server))
        seconds = shorter(seconds, close_late(server, silence))
        events = wait(fd, 0 if staffed else select.POLLIN, loop, seconds)
        if stop_requested(server) or events.get(fd, 0) & select.POLLNVAL:
            return False
        if loop.fileno() in events:
            loop.clear()
            continue
        if fd in events and not staffed:  # the request learns that there is no thread
            server._handle_request_noblock()
        server.service_actions()
    return False


def wait(fd, events, loop, seconds):
    """Wait for wake-ups of the loop, errors of the listener, and `events`; return what came."""
    poller = select.poll()
    poller.register(fd, events)
    poller.register(loop, select.POLLIN)
    return dict(poller.poll(milliseconds(seconds)))


def wait_until_free(pool, server, monotonic=time.monotonic):
    """Wait until a worker can serve what the calling thread is going to accept.

    Returns false if service_actions() is due first, or the end. Keeps the real clock where tests
    freeze it.
    """
    started = monotonic()
    while not pool.can_serve(server):
        if pool.serving and (stop_requested(server) or is_over(pool, monotonic() - started)):
            return False
    return True


def is_over(pool, seconds):
    """Return whether service_actions() is due after so many seconds."""
    return pool.poll_interval is not None and seconds >= pool.poll_interval


def new_context():
    """Make the context of a new thread; since Python 3.14 that may be a copy of the caller's."""
    if getattr(sys.flags, "thread_inherit_context", False):
        return contextvars.copy_context()
    return contextvars.Context()


def shorter(first, second):
    """Return the shorter of two times in seconds, of which each may be None: no limit."""
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)
