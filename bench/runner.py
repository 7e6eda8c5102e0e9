"""Rounds: in each, every contender of a workload runs once, in the next one backwards, so that
drift meets all of them alike."""

import dataclasses
import statistics
import sys

from bench import syscalls
from bench.contenders import CONTENDERS, NOT_INSTALLED
from bench.measures import MEASURES
from bench.process import Failed, NotAvailable

BASELINE = "stdlib"
DISTURBED = 0.1  # a run in which others had more of a processor than this is made again


@dataclasses.dataclass
class Settings:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 1.0
    warm_up: float = 0.2
    python: str = sys.executable
    path: str | None = None  # a build to import the package from
    tries: int = 3  # of a run that others disturb; the least disturbed counts
    count_syscalls: bool = True


@dataclasses.dataclass
class Series:
    """The runs of one contender at one workload, or why there are none."""

    workload: str
    contender: str
    runs: list = dataclasses.field(default_factory=list)
    syscalls: float | None = None  # per operation
    missing: str | None = None  # not available, and why
    failure: str | None = None  # failed, and how

    @property
    def is_load(self):
        """Are the runs reports of the load generator, or single values?"""
        return bool(self.runs) and "operations" in self.runs[0]

    @property
    def is_not_installed(self):
        """Would installing something have given numbers?"""
        return (self.missing or "").startswith(NOT_INSTALLED)

    def values(self):
        """Of each run: seconds per operation, or the single value."""
        if self.is_load:
            return [run["seconds"] / run["operations"] for run in self.runs]
        return [run["value"] for run in self.runs]

    def per_second(self):
        """Operations per second of each run."""
        return [1 / value for value in self.values()]

    def cpu_us(self):
        """Server CPU microseconds per operation of each run; none where it is not measured."""
        if not self.is_load:
            return []
        return [run["server_cpu"] * 1e6 / run["operations"] for run in self.runs
                if run["server_cpu"] is not None]

    def cpu_ratios(self, base):
        """How many times the stdlib's server CPU time, run by run of the same round."""
        return [own / other for own, other in zip(self.cpu_us(), base.cpu_us(), strict=False)]

    def latency(self, which):
        """The median over the runs of a latency ("p50", "p99", ...), in microseconds."""
        return statistics.median(run["latency_us"][which] for run in self.runs)

    def load_busy(self):
        """The share of the time that the load generator worked: near 1 it was the bottleneck."""
        return statistics.median(1 - run["load_idle"] / run["seconds"] for run in self.runs)


def spread(values):
    """Half the range as a share of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def ratios(series, base):
    """How many times the stdlib's speed (or of its value), run by run of the same round."""
    if not (series.runs and base and base.runs):
        return []
    pairs = zip(series.values(), base.values(), strict=False)
    if series.is_load:
        return [other / own for own, other in pairs]
    return [own / other for own, other in pairs if other]


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


def least_disturbed(contender, workload, settings):
    """A run that other programs left alone, if the tries have one."""
    runs = []
    while len(runs) < settings.tries:
        runs.append(MEASURES[workload.measure](contender, workload, settings))
        if runs[-1].get("neighbours", 0.0) <= DISTURBED:
            break
    return min(runs, key=lambda run: run.get("neighbours", 0.0))


def add_run(series, workload, settings, last):
    """Run once more, or note why that was not possible: then no number of it counts."""
    try:
        series.runs.append(least_disturbed(series.contender, workload, settings))
        if last and settings.count_syscalls and workload.measure == "load":
            series.syscalls = syscalls.per_operation(series.contender, workload, settings)
    except NotAvailable as why:
        series.missing = str(why)
    except Failed as why:
        series.failure = str(why)
        series.runs.clear()
