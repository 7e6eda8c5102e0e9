"""How much of the server's processor others took during a run: that run then says less."""

import time

import psutil

from bench.process import processors


def processor_seconds(cpu):
    """Seconds that programs ran on this processor, and that the hypervisor took from it."""
    times = psutil.cpu_times(percpu=True)[cpu]
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def server_seconds(pid):
    """Seconds that the server and its children ran."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    children = [child.cpu_times() for child in process.children(recursive=True)]
    return sum(own[:4]) + sum(sum(times[:2]) for times in children)


class Watch:
    """`share()` is the part of the time since the start that others had the server's processor."""

    def __init__(self, pid):
        """Start; where nothing is pinned there is nothing to tell."""
        self.pid, self.cpus = pid, processors()
        self.before = self.reading()

    def reading(self):
        """The time, and the seconds that others have taken until now."""
        if not self.cpus:
            return time.monotonic(), 0.0
        others = processor_seconds(self.cpus[0]) - server_seconds(self.pid)
        return time.monotonic(), others

    def share(self):
        """From 0 to 1."""
        (began, before), (now, after) = self.before, self.reading()
        return max(0.0, (after - before) / (now - began))
