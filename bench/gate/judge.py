"""The verdict: which figures of head are worse than base's by more than their margin."""

import dataclasses
import statistics

from bench.process import Failed
from bench.report import table

HEAD = ["figure", "base", "head", "change", "allowed", "verdict"]

@dataclasses.dataclass(frozen=True)
class Allowance:
    """How much worse head may be: a share of base's figure, and an absolute amount; and, of times,
    which share of the rounds must agree that head is slower by at least half of that."""

    share: float
    amount: float = 0.0
    agreed: float = 0.0

    def limit(self, base):
        """The largest figure that passes."""
        return base * (1 + self.share) + self.amount


ALLOWED = {
    "instructions": Allowance(0.03, 5),
    "blocks": Allowance(0.0, 3),
    "syscalls": Allowance(0.02, 0.15),
    "CPU": Allowance(0.10, agreed=0.75),
    "time": Allowance(0.25, agreed=0.9),  # neighbours disturb it more than the CPU time
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One figure of both, and whether head passes."""

    figure: str
    base: float
    head: float
    allowed: Allowance
    worse: bool

    def cells(self):
        """A row of the table."""
        change = f"{self.head / self.base - 1:+.1%}" if self.base else f"{self.head:+.1f}"
        return [self.figure, f"{self.base:,.2f}", f"{self.head:,.2f}", change,
                f"{self.allowed.share:.0%}" + (f" + {self.allowed.amount:g}"
                                               if self.allowed.amount else ""),
                "SLOWER" if self.worse else "ok"]


def judge_count(figure, base, head):
    """A count is compared as it is."""
    allowed = ALLOWED[figure.split()[0]]
    return Verdict(figure, base, head, allowed, head > allowed.limit(base))


def judge_time(figure, base, head):
    """Times relative to the stdlib of the same round are compared round by round."""
    allowed = ALLOWED[figure.split()[0]]
    pairs = [own / other for own, other in zip(head, base, strict=True)]
    slower = statistics.median(pairs) > 1 + allowed.share
    agreed = sum(pair > 1 + allowed.share / 2 for pair in pairs) >= allowed.agreed * len(pairs)
    middle = statistics.median(base)
    return Verdict(figure, middle, middle * statistics.median(pairs), allowed, slower and agreed)


def confirmed(first, second):
    """The second verdicts, each of which needs the first one's consent to be worse."""
    return [dataclasses.replace(now, worse=now.worse and before.worse)
            for before, now in zip(first, second, strict=True)]


def judge_counts(base, head):
    """Verdicts on all counts of base; Failed when head lost one."""
    if lost := base.keys() - head.keys():
        raise Failed(f"head has no {', '.join(sorted(lost))}")
    return [judge_count(figure, base[figure], head[figure]) for figure in base]


def markdown(verdicts):
    """The table."""
    return table(HEAD, [verdict.cells() for verdict in verdicts])
