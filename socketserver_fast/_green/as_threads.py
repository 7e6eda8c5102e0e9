"""What a greenlet does as a thread does: it reports errors, and is traced."""

import sys
import threading


def report(error):
    """Hand an error to threading.excepthook, or if that fails to sys.excepthook.

    Raises what the latter raises, and KeyboardInterrupt.
    """
    try:
        threading.excepthook(threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())))
    except Exception:
        sys.excepthook(*sys.exc_info())


def change_tracers(old, new):
    """Trace this thread by the `new` pair of a tracer and a profiler in place of the `old` ones.

    One that somebody else has set for this thread stays.
    """
    if new[0] is not old[0] and sys.gettrace() is old[0]:
        sys.settrace(new[0])
    if new[1] is not old[1] and sys.getprofile() is old[1]:
        sys.setprofile(new[1])
