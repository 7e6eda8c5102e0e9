"""Installs and restores the signal handlers of servers, and of the parent of worker processes.

A child process that is forked meanwhile, by the server or by the program, gets the program's own
handlers back: those of a server would only note the signal for a loop that the child does not run.
"""

import collections
import contextlib
import os
import signal
import threading

from socketserver_fast._serving.serving import forget_signals

# A worker process ends at SIGTERM only, although Ctrl-C reaches it as well.
IGNORED_BY_WORKERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGTTIN", "SIGTTOU")
    if hasattr(signal, name)]
SIGNALS = [signal.SIGTERM, *IGNORED_BY_WORKERS]

_installed = []  # the Handlers in use, in their order
_left_by_fork = set()  # in a child: the numbers of the signals that its parent handles


class Handlers:
    """Replaces signal handlers of the program. To be used in the main thread."""

    def __init__(self):
        self.previous = {}  # number: what handled it before
        self.current = {}

    def install(self, number, handler):
        """Install a handler; ValueError or OSError for a signal that cannot be handled."""
        if self not in _installed:
            _installed.append(self)
        self.previous[number] = signal.getsignal(number)
        self.current[number] = handler
        signal.signal(number, handler)

    def restore(self):
        """Put the previous handlers back, except where somebody has replaced ours meanwhile.

        SIGINT last: from then on it may raise KeyboardInterrupt here.
        """
        current = self.current.items()
        for number, handler in sorted(current, key=lambda item: item[0] == signal.SIGINT):
            if signal.getsignal(number) == handler:
                previous = self.previous[number]  # None: not installed from Python
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self.current.clear()
        with contextlib.suppress(ValueError):  # done already
            _installed.remove(self)


def forget_servers():
    """Give a forked child the program's own signal handlers."""
    forget_signals()
    for handlers in reversed(_installed[:]):
        _left_by_fork.update(handlers.current)
        with contextlib.suppress(ValueError):  # in a subinterpreter
            handlers.restore()
    _installed.clear()


def leave_interrupts_to_parent():
    """Ignore Ctrl-C in the child process of a request: the parent gets it, too, and ends both."""
    if signal.SIGINT in _left_by_fork:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_servers)


@contextlib.contextmanager
def blocked():
    """Block the signals until a forked worker is ready for them; yields the previous mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Signals(Handlers):
    """Notes the signals that arrive inside a `with` block in `received`, in their order.

    A signal that the program ignores stays ignored.
    """

    def __init__(self):
        super().__init__()
        self.received = collections.deque()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            try:
                for number in SIGNALS:
                    if signal.getsignal(number) not in (signal.SIG_IGN, None):
                        self.install(number, self.note)
            except BaseException:  # SIGINT may have come before it was installed
                self.__exit__()
                raise

    def __exit__(self, *details):
        self.restore()

    def note(self, number, frame):
        """Handle a signal."""
        self.received.append(number)

    def call_previous(self, number):
        """Call the program's own handler of this signal, if it has one."""
        previous = self.previous.get(number)
        if callable(previous):
            previous(number, None)
