# cython: language_level=3, freethreading_compatible=True
"""A signal wakes a loop also when it comes between the last look for signals and the wait.

Python runs a signal's handler between two of its own steps; for one that comes just before poll(2)
that is after the next wake-up. So the interpreter itself shall write to the loop's socket.

Nothing is hot here. It is compiled because no signal's handler, which may raise KeyboardInterrupt,
runs in the middle of a compiled function.
"""

import signal

cdef object set_wakeup_fd = signal.set_wakeup_fd
cdef set ours = set()  # descriptors of sockets of loops; a child process must not write to them


def start(sock):
    """Have the interpreter write to this non-blocking socket at every signal.

    Only in the main thread, and only if the program has not taken that for itself.
    """
    previous = exchange(sock.fileno())
    if previous is None:
        return
    if previous != -1:
        exchange(previous)
    else:
        ours.add(sock.fileno())


def stop(sock):
    """Before the socket is closed. What has taken its place meanwhile stays."""
    ours.discard(sock.fileno())
    current = exchange(-1)
    if current is not None and current != sock.fileno():
        exchange(current)


def take(sock):
    """start() also if the program has taken it for itself; returns what give_back() is told."""
    ours.add(sock.fileno())
    return exchange(sock.fileno())


def give_back(sock, previous):
    """Put back what take() has replaced, if that is still open."""
    ours.discard(sock.fileno())
    if exchange(-1) is not None and previous is not None:
        exchange(previous)


def forget():
    """In a forked child: the sockets are its parent's."""
    if ours:
        current = exchange(-1)
        if current is not None and current not in ours:
            exchange(current)
        ours.clear()


cdef object exchange(descriptor):
    """Set where signals are written to, -1 is nowhere; returns what it was, None: not possible."""
    try:
        return set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    except (ValueError, OSError):  # not in the main thread; a descriptor that is none
        return None
