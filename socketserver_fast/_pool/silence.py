"""Keeps connections without a worker until their clients say something: first_byte_timeout.

The leader waits for these connections as it does for the listener, through one descriptor. Any
thread may take the next one whose first byte is there. The serving thread closes those whose time
is over.
"""

import selectors
import threading
from time import monotonic

AVAILABLE = hasattr(selectors.DefaultSelector, "fileno")  # epoll(7) or kqueue(2)


class Silence:
    """Holds the silent connections of one serve_forever(), each with what a worker needs for it."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.selector = selectors.DefaultSelector()
        self.lock = threading.Lock()
        self.kept = {}  # request: when its time is over, its item, what to call when it is removed
        self.ended = False

    def fileno(self):
        """Return the descriptor that is readable while any of the connections is."""
        return self.selector.fileno()

    def __len__(self):
        return len(self.kept)

    def keep(self, server, item):
        """Keep the connection of an item; return false if a worker has to serve it instead."""
        request, client_address, _ = item
        count = getattr(server, "_count_silent", None)  # None: unpatch() has removed it
        stop_counting = count and count(request, client_address)
        if stop_counting is None:
            return False
        with self.lock:
            if self.watch(request):
                self.kept[request] = monotonic() + self.seconds, item, stop_counting
                return True
        stop_counting()
        return False

    def watch(self, request):
        """Locked: notice the first byte of a request; return false if that cannot be."""
        try:
            if not self.ended:
                self.selector.register(request, selectors.EVENT_READ)
            return not self.ended
        except OSError:  # the system has a limit for these, too
            return False

    def take(self):
        """Return the item of one whose client has spoken or left; None if there is none."""
        with self.lock:
            for key, _ in self.selector.select(0) if self.kept else ():
                return self.remove(key.fileobj)
        return None

    def remove(self, request):
        """Locked: stop keeping a connection; return its item."""
        self.selector.unregister(request)
        _, item, stop_counting = self.kept.pop(request)
        stop_counting()
        return item

    def take_late(self):
        """Return the items of those whose time is over, and the seconds until the next, or None."""
        late, now = [], monotonic()
        with self.lock:
            for request, (deadline, *_) in list(self.kept.items()):
                if deadline > now:
                    return late, deadline - now
                late.append(self.remove(request))
        return late, None

    def end(self):
        """Keep none any more. Returns the items that a worker can serve, and the others."""
        spoken = list(iter(self.take, None))
        with self.lock:
            self.ended = True
            silent = [self.remove(request) for request in list(self.kept)]
            self.selector.close()
        return spoken, silent

    def forget(self):
        """Close everything in the child of a fork(): the connections stay with the parent."""
        self.selector.close()
        for request in self.kept:
            request.close()
