"""How a server ends: the bodies of BaseServer.drain() and serve_until_signal().

    drain
      _stop_accepting      the loop takes what is queued, closes the listener, returns
      _wait_for_requests   those in progress end by themselves
      _close_requests      only after the deadline, for those that did not
      server_close

Each of the three has a deadline, a value of time.monotonic() or None, and each kind of server adds
its own part to them: what a thread, a child process or a worker has in hand.
"""

import os
import signal
import socket
import threading
import time
from contextlib import suppress

from socketserver_fast import _loop, _requests

# What a handler meets when its client has gone or keeps silent.
DISCONNECTS = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError)
CHILD_POLL = 0.005  # seconds between two looks at child processes, for which there is no wait


def drain(server, timeout):
    """The body of BaseServer.drain()."""
    here = threading.get_ident()
    refuse_in_serving_thread(server, "drain()")
    if _requests.requests_of(server).held_by(here):
        raise RuntimeError(
            "drain() was called by a request, and would wait for that to finish; call it from "
            "another thread: threading.Thread(target=server.drain).start()")
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        finished = server._stop_accepting(deadline)
        finished = server._wait_for_requests(deadline) and finished
        if not finished:
            server._close_requests()
    finally:
        server.server_close()
    return finished


def refuse_in_serving_thread(server, what):
    """Raise RuntimeError in the thread that is in serve_forever(): it would wait for itself."""
    if _loop.serving_thread(server) == threading.get_ident():
        raise RuntimeError(
            f"{what} was called from the thread that runs serve_forever(), and would wait for that "
            f"to return; call it from another thread: threading.Thread(target=server.shutdown)"
            f".start(). A program that is to end at a signal calls serve_until_signal() instead of "
            f"serve_forever().")


def left(deadline):
    """The seconds until a deadline, at least 0; None for none."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def close_request(request):
    """End a connection under the hands of its handler, which finds the end of the stream.

    It stays open until its own thread closes it, so that its descriptor is not reused meanwhile.
    """
    with suppress(OSError, AttributeError):
        if isinstance(request, socket.socket):
            # Not the method of a TLS socket, which would go on in plain text.
            socket.socket.shutdown(request, socket.SHUT_RDWR)
        else:
            request.shutdown(socket.SHUT_RDWR)


def join(threads, deadline):
    """Wait for threads; whether all have ended."""
    for thread in list(threads):
        thread.join(left(deadline))
    return not any(thread.is_alive() for thread in threads)


def reap(server, deadline):
    """Wait for a forking server's children; whether all have ended."""
    children = server.active_children or set()
    while True:
        for pid in children.copy():
            if has_ended(pid, os.WNOHANG):
                children.discard(pid)
        if not children:
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(CHILD_POLL)


def kill(server):
    """End the children of a forking server."""
    children = server.active_children or set()
    for pid in children.copy():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if has_ended(pid, 0):
            children.discard(pid)


def has_ended(pid, options):
    """Reap a child; true when it has ended or was reaped by somebody else."""
    try:
        return os.waitpid(pid, options)[0] == pid
    except ChildProcessError:
        return True
