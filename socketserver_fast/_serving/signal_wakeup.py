"""A signal wakes a loop also when it comes between the last look for signals and the wait.

Python runs a signal's handler between two of its own steps; for one that comes just before poll(2)
that is after the next wake-up. So the interpreter itself shall write to the loop's socket.
"""

import signal
import threading


def start(sock):
    """Have the interpreter write to this non-blocking socket at every signal; whether it does.

    Only in the main thread, and only if the program has not taken that for itself.
    """
    previous = exchange(sock.fileno())
    if previous is None or previous == -1:
        return previous == -1
    return exchange(previous) is None  # what the program had set is closed


def stop(sock):
    """Before the socket is closed. What has taken its place meanwhile stays."""
    current = exchange(-1)
    if current not in (None, -1, sock.fileno()):
        exchange(current)


def exchange(descriptor):
    """Set where signals are written to, -1 is nowhere; returns what it was, None: not possible."""
    if threading.get_ident() != threading.main_thread().ident:
        return None
    try:
        return signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    except (ValueError, OSError):  # in a subinterpreter; a descriptor that is none
        return None
