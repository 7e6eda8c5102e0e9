"""Handlers of signals that a server installs, and how they are put back; the signals of workers.

A child process that is forked meanwhile, by the server or by the program, has the program's own
handlers again: those of a server would only note the signal for a loop that the child does not run.
"""

import collections
import contextlib
import os
import signal
import threading

from socketserver_fast._serving.serving import forget_signals

# A worker obeys SIGTERM only, although Ctrl-C reaches it as well.
IGNORED_BY_WORKERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGTTIN", "SIGTTOU")
    if hasattr(signal, name)]
SIGNALS = [signal.SIGTERM, *IGNORED_BY_WORKERS]

_installed = []  # the Handlers in use, in their order
_left_by_fork = set()  # in a child: the numbers of the signals that its parent obeys


class Handlers:
    """Handlers in the place of the program's own. To be used in the main thread."""

    def __init__(self):
        self.previous = {}  # number: what handled it before
        self.current = {}

    def install(self, number, handler):
        """Handle a signal; ValueError or OSError for one that cannot be handled."""
        if self not in _installed:
            _installed.append(self)
        self.previous[number] = signal.getsignal(number)
        self.current[number] = handler
        signal.signal(number, handler)

    def restore(self):
        """Put back what was there, unless somebody has replaced it meanwhile.

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
    """In a forked child: signals are the program's again, and wake no loop of the parent."""
    forget_signals()
    for handlers in reversed(_installed[:]):
        _left_by_fork.update(handlers.current)
        with contextlib.suppress(ValueError):  # in a subinterpreter
            handlers.restore()
    _installed.clear()


def leave_interrupts_to_parent():
    """In a request's child process: Ctrl-C, which reaches it as well, is obeyed by the parent."""
    if signal.SIGINT in _left_by_fork:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_servers)


@contextlib.contextmanager
def blocked():
    """Keep them back until a forked worker is ready for them; gives the mask that was there."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Signals(Handlers):
    """`received` are those to obey, in their order; `with` installs the handlers and restores them.

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
        """The handler of all of them."""
        self.received.append(number)

    def call_previous(self, number):
        """What the program would have done at this signal, if that is a handler of its own."""
        previous = self.previous.get(number)
        if callable(previous):
            previous(number, None)
