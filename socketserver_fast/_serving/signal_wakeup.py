"""A signal wakes a loop also when it comes between the last look for signals and the wait.

Python runs a signal's handler between two of its own steps; for one that comes just before poll(2)
that is after the next wake-up. So the interpreter itself shall write to the loop's socket.
"""

import signal
import threading

_ours = set()  # descriptors of sockets of loops; a child process must not write to them


def start(sock):
    """Have the interpreter write to this non-blocking socket at every signal.

    Only in the main thread, and only if the program has not taken that for itself.
    """
    _ours.add(sock.fileno())
    previous = exchange(sock.fileno())
    if previous is not None and previous != -1:
        exchange(previous)


def stop(sock):
    """Before the socket is closed. What has taken its place meanwhile stays."""
    _ours.discard(sock.fileno())
    current = exchange(-1)
    if current not in (None, -1, sock.fileno()):
        exchange(current)


def take(sock):
    """start() also if the program has taken it for itself; returns what give_back() is told."""
    _ours.add(sock.fileno())
    return exchange(sock.fileno())


def give_back(sock, previous):
    """Put back what take() has replaced, if that is still open."""
    _ours.discard(sock.fileno())
    exchange(-1)
    exchange(previous)


def forget():
    """In a forked child: the sockets are its parent's."""
    if _ours:
        current = exchange(-1)
        if current not in _ours and current is not None:
            exchange(current)
        _ours.clear()


def exchange(descriptor):
    """Set where signals are written to, -1 is nowhere; returns what it was, None: not possible."""
    if descriptor is None or threading.get_ident() != threading.main_thread().ident:
        return None
    try:
        return signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    except (ValueError, OSError):  # in a subinterpreter; a descriptor that is none
        return None
