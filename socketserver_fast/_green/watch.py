"""A thread that reports handlers which block the hub."""

import contextlib
import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger("socketserver_fast")


@contextlib.contextmanager
def watching(server, hub):
    """Log where a greenlet runs longer than server.blocking_threshold seconds, each place once.

    A thread checks twice in that time whether the hub has switched. It sleeps while the hub does,
    so an idle server stays idle.
    """
    threshold = server.blocking_threshold
    if threshold is not None and threshold <= 0:
        raise ValueError("blocking_threshold must be a number of seconds above 0, or None")
    if threshold is None or hub.watched:  # by the server that this one is nested in
        yield
        return
    hub.watched = True
    ended = threading.Event()
    thread = threading.Thread(
        target=watch, args=(hub, threshold, ended), name="socketserver_fast watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        hub.resume()
        thread.join()
        hub.watched = False


def watch(hub, threshold, ended):
    """Check the hub until `ended` is set; runs in the thread."""
    places = set()
    seen, since = None, 0.0
    while not ended.wait(threshold / 2):
        now = time.monotonic()
        if hub.switches != seen:
            seen, since = hub.switches, now
        if hub.polling:
            hub.resumed.acquire(blocking=False)
            if hub.polling and not ended.is_set():
                hub.resumed.acquire()
            seen = None
        elif now - since >= threshold:
            report(hub, now - since, places)


def report(hub, seconds, places):
    """Log the stack of the hub's thread, unless it was found at that line before."""
    frame = getattr(sys, "_current_frames", dict)().get(hub.thread)
    if frame is None:
        return
    place = frame.f_code, frame.f_lineno
    if place not in places:
        places.add(place)
        logger.warning(
            "a handler blocked the event loop for %.1f s; run blocking calls with "
            "green.run_in_thread()\n%s", seconds, "".join(traceback.format_stack(frame)))
