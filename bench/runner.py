"""Runs the contenders of a workload in rounds, every other one in reverse order, so that drift
meets all of them alike."""

import contextlib
import dataclasses
import math
import socket
import sys

import psutil

from bench import syscalls
from bench.contenders import CONTENDERS
from bench.process import Failed, NotAvailable, Server

BASELINE = "stdlib"
WARM_UP = 0.2  # seconds
ANSWER_WITHIN = 20  # seconds; a lost SYN alone costs one, three or seven of them


@dataclasses.dataclass
class Settings:
    """Says how long and how often to run, and what."""

    rounds: int = 5
    seconds: float = 1.0
    python: str = sys.executable
    path: str | None = None  # a build to import the package from
    count_syscalls: bool = True

    def server(self, contender, workload):
        """Return the contender's server for the workload."""
        return Server(contender, workload, self.python, self.path)


@dataclasses.dataclass
class Series:
    """Holds the runs of one contender at one workload, or why there are none."""

    workload: str
    contender: str
    runs: list = dataclasses.field(default_factory=list)
    syscalls: float | None = None  # per operation
    missing: str | None = None  # not available, and why
    failure: str | None = None  # failed, and how

    @property
    def is_load(self):
        """Return whether the runs are reports of the load generator, not single values."""
        return bool(self.runs) and "operations" in self.runs[0]

    def values(self):
        """Return the operations a second, or the single value, of each run."""
        if self.is_load:
            return [run["operations"] / run["seconds"] for run in self.runs]
        return [run["value"] for run in self.runs]

    def cpu_us(self):
        """Return the server's CPU microseconds per operation of each run that measured them."""
        return [run["server_cpu"] * 1e6 / run["operations"] for run in self.runs
                if run.get("server_cpu", -1) >= 0]

    def ratios(self, base):
        """Return how many times as large as those of `base` the values are, round by round."""
        return ratios(self.values(), base.values() if base else [])

    def cpu_ratios(self, base):
        """Return the same for the server's CPU time."""
        return ratios(self.cpu_us(), base.cpu_us() if base else [])


def ratios(ours, theirs):
    """Divide round by round; leave out where the other one was not measured."""
    return [own / other for own, other in zip(ours, theirs, strict=False) if other]


def interval(values):
    """Return where the median lies with 95 % confidence, by order statistics.

    Of fewer than six values that is their range, with less confidence.
    """
    values, n, below, tail = sorted(values), len(values), 0, 0.0
    while (tail := tail + math.comb(n, below) / 2**n) <= 0.025:
        below += 1
    outer = max(below - 1, 0)
    return values[outer], values[n - 1 - outer]


def measure(workload, contenders, settings, results, progress=lambda workload, contender: None):
    """Fill `results` with {contender: Series}, run by run, so that Ctrl-C leaves what there is."""
    for name in contenders:
        if CONTENDERS[name].can(workload):
            results[name] = Series(workload.name, name)
    for turn in range(settings.rounds):
        for name in list(results)[:: 1 if turn % 2 == 0 else -1]:
            series = results[name]
            progress(workload.name, name)
            if not series.missing and not series.failure:
                add_run(series, workload, settings, last=turn == settings.rounds - 1)


def add_run(series, workload, settings, last):
    """Run once more, or note why that was not possible: then no number of it counts."""
    try:
        measured = load if workload.load else idle
        series.runs.append(measured(series.contender, workload, settings))
        if last and settings.count_syscalls and workload.load:
            series.syscalls = syscalls.per_operation(series.contender, workload, settings)
    except NotAvailable as why:
        series.missing = str(why)
    except (Failed, OSError) as why:
        series.failure = str(why)
        series.runs.clear()


def load(contender, workload, settings):
    """Run one server and one load; return the report of the load generator."""
    options = ["--seconds", str(settings.seconds), "--warm-up", str(WARM_UP),
               "--timeout", str(ANSWER_WITHIN)]
    with settings.server(contender, workload) as server, held(server, workload.idle):
        run = server.run_load(options)
    if not run["operations"]:
        raise Failed("no operation ended within the measured time")
    return run


def idle(contender, workload, settings):
    """Return the KiB that one idle connection costs, after it has had one line echoed."""
    with settings.server(contender, workload) as server:
        for _ in range(100):  # first what the server needs only once
            with held(server, 1):
                pass
        before = own_memory(server.process.pid)
        with held(server, workload.idle):
            after = own_memory(server.process.pid)
    return {"value": (after - before) / 1024 / workload.size}


@contextlib.contextmanager
def held(server, count):
    """Hold so many connections, each of which had a line echoed."""
    _, host, port = server.address.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = socket.create_connection((host, port), ANSWER_WITHIN)
            stack.enter_context(client).sendall(b"line\n")
            if (echo := client.recv(5)) != b"line\n":
                raise Failed(f"an idle connection got {echo!r}")
        yield


def own_memory(pid):
    """Return the bytes (USS) of this server and its children, without the kernel's buffers."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().uss for member in family)
