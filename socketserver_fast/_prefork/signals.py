"""The signals of a server with workers, which obeys them in the main thread of the parent."""

import collections
import contextlib
import signal
import threading

# A worker obeys SIGTERM only, although Ctrl-C reaches it as well.
IGNORED_BY_WORKERS = [signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU]
SIGNALS = [signal.SIGTERM, *IGNORED_BY_WORKERS]


@contextlib.contextmanager
def blocked():
    """Keep them back until a forked worker is ready for them; gives the mask that was there."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Signals:
    """`received` are those to obey, in their order; `with` installs the handlers and restores them.

    A signal that the program ignores stays ignored. Each one wakes whoever waits for `descriptor`.
    """

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.received = collections.deque()
        self.previous = {}

    def __enter__(self):
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.wakeup_fd = signal.set_wakeup_fd(self.descriptor, warn_on_full_buffer=False)
            for number in SIGNALS:
                previous = signal.getsignal(number)
                if previous not in (signal.SIG_IGN, None):  # None: not installed from Python
                    self.previous[number] = previous
                    signal.signal(number, self.note)

    def __exit__(self, *details):
        for number, previous in self.previous.items():
            if signal.getsignal(number) == self.note:
                signal.signal(number, previous)
        if self.main:
            signal.set_wakeup_fd(self.wakeup_fd)

    def note(self, number, frame):
        """The handler of all of them."""
        self.received.append(number)

    def call_previous(self, number):
        """What the program would have done at this signal, if that is a handler of its own."""
        previous = self.previous.get(number)
        if callable(previous):
            previous(number, None)
