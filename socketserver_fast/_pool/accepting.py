"""serve_forever() of a pool whose workers accept by themselves.

The calling thread keeps the time: service_actions() and the flags at each tick. It looks after the
workers, and takes over where a hook was replaced by code that expects this thread.
"""

import select

from socketserver_fast._pool.listener import unchanged
from socketserver_fast._serving.serving import stop_requested
from socketserver_fast._sockets.wait import milliseconds


def serve(pool, server, poll_interval, loop):
    """Serve until the server stops: False; or until a hook wants this thread: True."""
    if stop_requested(server) or server.fileno() < 0:
        return True
    if not pool.start_accepting(server):
        return server.fileno() >= 0  # no longer if another thread has just closed the server
    try:
        return watch(pool, server, poll_interval, loop)
    finally:
        pool.stop_accepting()
        pool.give_back_listener(server)


def watch(pool, server, poll_interval, loop):
    """What the calling thread does meanwhile; returns what serve() does."""
    while not stop_requested(server):
        fd = server.fileno()
        if fd < 0:
            return False
        if not unchanged(server):
            return True
        staffed = pool.staff(server) or not pool.accepting
        seconds = shorter(poll_interval, pool.attend(server))
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
    """The events of the listener, beside errors those asked for, and of the loop's wake-ups."""
    poller = select.poll()
    poller.register(fd, events)
    poller.register(loop, select.POLLIN)
    return dict(poller.poll(milliseconds(seconds)))


def shorter(first, second):
    """The shorter of two times in seconds, of which each may be None: no limit."""
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)
