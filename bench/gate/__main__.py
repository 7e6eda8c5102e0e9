"""Measure base and head and exit with 1 when head is slower by more than the margins allow."""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from bench import syscalls
from bench.gate import counts, judge, times
from bench.gate.checkout import built
from bench.pieces import PIECES
from bench.process import Failed, NotAvailable

SLOWER, BROKEN = 1, 2


def arguments(argv):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    where = "a Git revision, a folder with the built package in it, or . for the work tree"
    parser.add_argument("--base", default="HEAD", help=f"{where} (HEAD)")
    parser.add_argument("--head", default=".", help=f"{where} (.)")
    parser.add_argument("--rounds", type=int, default=8, help="of the timed workloads; 0: none")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--pieces", default=",".join(PIECES), help="whose instructions to count")
    parser.add_argument("--no-instructions", action="store_true")
    parser.add_argument("--no-syscalls", action="store_true")
    return parser.parse_args(argv)


def say(text):
    """Progress and what is left out."""
    print(text, file=sys.stderr, flush=True)


def pieces_of(options, base):
    """The pieces that base has, too."""
    pieces, missing = counts.able("fast", base, options.pieces.split(","))
    for said in missing:
        say(f"not counted, since base cannot do it: {said}")
    return pieces


def count(options, base, head):
    """Verdicts on the counts."""
    pieces, verdicts = pieces_of(options, base), []
    for name, missing, counted in (
        ("blocks", None, functools.partial(counts.blocks, pieces=pieces)),
        ("instructions", "left out" if options.no_instructions else counts.instructions_missing(),
         functools.partial(counts.instructions, pieces=pieces)),
        ("syscalls", "left out" if options.no_syscalls else syscalls.why_not(),
         counts.system_calls),
    ):
        if missing:
            say(f"{name} are not counted: {missing}")
            continue
        say(f"counting {name}")
        verdicts += judge.judge_counts(counted("fast", base), counted("fast", head))
    return verdicts


def time(options, base, head):
    """Verdicts on the times."""
    verdicts = []
    for name in times.TIMED if options.rounds else []:
        say(f"timing {name}")
        found = time_once(name, options, base, head)
        if any(verdict.worse for verdict in found):
            say(f"timing {name} again: only what is slower twice counts")
            found = judge.confirmed(found, time_once(name, options, base, head))
        verdicts += found
    return verdicts


def time_once(name, options, base, head):
    """Verdicts on the times of one workload."""
    pairs = times.relative_times(name, base, head, options.rounds, options.seconds)
    return [judge.judge_time(figure, *both) for figure, both in pairs.items()]


def compare(options, folder):
    """All verdicts."""
    say("building")
    base, head = (built(what, folder / which) for what, which in
                  ((options.base, "base"), (options.head, "head")))
    return count(options, base, head) + time(options, base, head)


def main(argv=None):
    """Returns the exit status."""
    options = arguments(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-gate-") as folder:
            verdicts = compare(options, Path(folder))
    except (Failed, NotAvailable) as error:
        say(f"cannot compare: {error}")
        return BROKEN
    print(judge.markdown(verdicts))
    slower = [verdict.figure for verdict in verdicts if verdict.worse]
    say(f"slower: {', '.join(slower)}" if slower else "not slower")
    return SLOWER if slower else 0


if __name__ == "__main__":
    sys.exit(main())
