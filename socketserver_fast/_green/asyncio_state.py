"""Hides the event loop of a greenlet, which asyncio keeps for each thread, from the others.

The hub asks for it only where the program has imported asyncio and a loop runs.
"""

import _asyncio
import sys


def nothing(*unused):
    """Stand for what a later Python may not have."""


get_running_loop = getattr(_asyncio, "_get_running_loop", nothing)
set_running_loop = getattr(_asyncio, "_set_running_loop", nothing)
# Before Python 3.14 the loop keeps the current task.
swap_current_task = (
    getattr(_asyncio, "_swap_current_task", nothing) if sys.version_info >= (3, 14) else nothing)


def set_aside(loop):
    """Take the running event loop off this thread; returns what put_back() needs."""
    task = swap_current_task(loop, None)
    saved = loop, task, sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
    sys.set_asyncgen_hooks(None, None)
    sys.set_coroutine_origin_tracking_depth(0)
    set_running_loop(None)
    return saved


def put_back(saved):
    """Undo set_aside()."""
    loop, task, hooks, depth = saved
    set_running_loop(loop)
    swap_current_task(loop, task)
    sys.set_asyncgen_hooks(*hooks)
    sys.set_coroutine_origin_tracking_depth(depth)
