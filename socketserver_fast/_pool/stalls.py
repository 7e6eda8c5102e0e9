"""Logs why requests wait for long: all workers are stuck, or max_connections are open."""

import sys
import traceback

from socketserver_fast._sockets.log import logger

_current_frames = getattr(sys, "_current_frames", dict)


def report(server, workers, connections):
    """Log that these workers hold up all others; without any, that `connections` are too few."""
    name = type(server).__name__
    if not workers:
        logger().warning("%s: max_connections (%d) are open and more clients wait",
                         name, connections)
        return
    logger().warning(
        "%s: all %d workers are busy, none has finished a request for long, and clients wait; "
        "raise max_workers, or let the handlers wait for nothing but their clients. One of "
        "them is here:\n%s", name, len(workers), place_of(workers[0]))


def place_of(thread):
    """Return where a thread is, as a traceback has it."""
    frame = _current_frames().get(thread.ident)
    try:
        return "?" if frame is None else "".join(traceback.format_stack(frame))
    except Exception:  # out of descriptors or memory
        return "?"
