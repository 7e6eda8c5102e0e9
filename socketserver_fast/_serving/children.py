"""Waits for the child processes of a ForkingMixIn, and for no others."""

import os
import select
import signal
import time

POLL = 0.005  # seconds between two looks, where a process has no descriptor to wait for


def reap(pids, options=os.WNOHANG):
    """Call os.waitpid() for each of them, and remove those that have ended from the set."""
    for pid in tuple(pids):
        try:
            ended, _ = os.waitpid(pid, options)
        except ChildProcessError:  # somebody else has reaped it
            pids.discard(pid)
        except OSError:
            pass
        else:
            pids.discard(ended)


def reap_until(pids, deadline):
    """Reap all of them as they end, until the deadline; return whether none is left."""
    reap(pids)
    while pids and (deadline is None or time.monotonic() < deadline):
        wait_for_any(pids, deadline)
        reap(pids)
    return not pids


def kill(pids):
    """End them now, and reap them."""
    for pid in tuple(pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pids.discard(pid)
    reap(pids, 0)


def wait_for_any(pids, deadline=None):
    """Wait until one of these has ended, at most until the deadline; may return sooner."""
    descriptors = []
    try:
        poll = select.poll()
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            poll.register(descriptors[-1], select.POLLIN)
        poll.poll(None if deadline is None else max(deadline - time.monotonic(), 0) * 1000)
    except ProcessLookupError:  # somebody else has reaped it
        pass
    except (AttributeError, OSError):  # Linux only, and not without descriptors
        time.sleep(POLL)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
