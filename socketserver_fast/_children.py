"""Waiting for the child processes of a ForkingMixIn, and for no others."""

import os
import select
import time

POLL = 0.005  # seconds between two looks, where a process has no descriptor to wait for


def reap(pids, options):
    """Wait for each of these as os.waitpid() does, and remove from the set what has ended."""
    for pid in tuple(pids):
        try:
            ended, _ = os.waitpid(pid, options)
        except ChildProcessError:  # somebody else has reaped it
            pids.discard(pid)
        except OSError:
            pass
        else:
            pids.discard(ended)


def wait_for_any(pids):
    """Wait until one of these has ended; may return sooner."""
    descriptors = []
    try:
        poll = select.poll()
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            poll.register(descriptors[-1], select.POLLIN)
        poll.poll()
    except ProcessLookupError:  # somebody else has reaped it
        pass
    except (AttributeError, OSError):  # Linux only, and not without descriptors
        time.sleep(POLL)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
