"""Keeps connections without a worker until their clients say something: first_byte_timeout.

The leader waits for these connections as it does for the listener, through one descriptor. Any
thread may take the next one whose first byte is there. The serving thread closes those whose time
is over.
"""

import collections
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
        self.kept = {}  # request: when its time is over, and its item; the earliest first
        self.spoken = collections.deque()  # requests to be taken; some may not be kept any more
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
        if not (count and count(request, client_address)):
            return False
        with self.lock:
            watched = self.watch(request)
            if watched:
                self.kept[request] = monotonic() + self.seconds, item
        return watched

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
            while self.kept and (self.spoken or self.look()):
                request = self.spoken.popleft()
                if request in self.kept:
                    return self.remove(request)
        return None

    def look(self):
        """Locked: note all whose clients have spoken or left; return whether there are any."""
        self.spoken.extend([key.fileobj for key, _ in self.selector.select(0)])
        return len(self.spoken) > 0

    def remove(self, request):
        """Locked: stop keeping a connection; return its item."""
        self.selector.unregister(request)
        _, item = self.kept.pop(request)
        return item

    def take_late(self):
        """Return the items of those whose time is over, and the seconds until the next, or None."""
        late, seconds, now = [], None, monotonic()
        with self.lock:
            for request, (deadline, _) in self.kept.items():
                if deadline > now:
                    seconds = deadline - now
                    break
                late.append(request)
            return [self.remove(request) for request in late], seconds

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
