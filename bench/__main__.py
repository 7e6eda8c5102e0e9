"""Measure the package against the stdlib and its peers; print a table in Markdown."""

import argparse
import itertools
import shlex
import shutil
import sys
import time
from pathlib import Path

from bench import readme, report, runner, workloads
from bench.build import NotAvailable, compiled
from bench.contenders import CONTENDERS

FAILED, NOTHING_RUN, NOT_ALL_AVAILABLE, INTERRUPTED = 1, 2, 3, 130


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", help="workloads: names or patterns, with commas between")
    parser.add_argument("--contenders", help="names with commas between: " + ", ".join(CONTENDERS))
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="a choice that ends within 3 minutes")
    choice.add_argument("--readme", action="store_true",
                        help="what README's chart and table need: then `python -m bench.readme`")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3, readme 15")
    parser.add_argument("--seconds", type=float, help="measured time of a run (1, quick 0.3)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the servers")
    parser.add_argument("--path", help="folder to import the package from")
    parser.add_argument("--no-syscalls", action="store_true", help="do not count system calls")
    parser.add_argument("--into", type=Path, default=report.LATEST,
                        help="folder for the raw runs and the table")
    parser.add_argument("--list", action="store_true", help="list the standard workloads")
    options = parser.parse_args(argv)
    names = workloads.QUICK if options.quick else readme.WORKLOADS if options.readme else ["*"]
    known = readme.CONTENDERS if options.readme else CONTENDERS
    try:
        options.workloads = workloads.choose(options.only or ",".join(names))
    except ValueError as error:
        parser.error(str(error))
    options.contenders = options.contenders.split(",") if options.contenders else list(known)
    if unknown := set(options.contenders) - set(CONTENDERS):
        parser.error(f"no contender is called {', '.join(unknown)}")
    return options


def settings_of(options):
    """Return how long and how often to run; say it if system calls cannot be counted."""
    rounds = options.rounds or (3 if options.quick else 15 if options.readme else 5)
    seconds = options.seconds or (0.3 if options.quick else 1.0)
    skipped = options.no_syscalls or options.quick or options.readme
    if not skipped and not shutil.which("strace"):
        print("system calls are not counted: there is no strace", file=sys.stderr)
        skipped = True
    return runner.Settings(rounds, seconds, options.python, options.path, not skipped)


def measure_all(options, settings, measured, about):
    """Fill `measured`, saved after each workload; return False if Ctrl-C cut it short."""
    total = settings.rounds * sum(CONTENDERS[name].can(workload)
                                  for workload in options.workloads for name in options.contenders)
    began, count = time.monotonic(), itertools.count(1)

    def progress(workload, contender):
        passed = time.monotonic() - began
        print(f"{next(count)}/{total} {workload} {contender} ({passed:.0f} s)", file=sys.stderr)

    try:
        for workload in options.workloads:
            group = measured.setdefault(workload.name, {})
            runner.measure(workload, options.contenders, settings, group, progress)
            report.save(measured, options.into, about)
    except KeyboardInterrupt:
        print("interrupted: what was measured until now follows", file=sys.stderr)
        return False
    return True


def status(measured, complete):
    """Return the exit status, the worst first; print why each contender failed to stderr."""
    every = [series for group in measured.values() for series in group.values()]
    failed = [series for series in every if series.failure]
    for series in failed:
        print(f"{series.workload} {series.contender}: {series.failure}", file=sys.stderr)
    if failed:
        return FAILED
    if not complete:
        return INTERRUPTED
    return NOT_ALL_AVAILABLE if any(series.missing for series in every) else 0


def main(argv=None):
    """Run, print the table, and return the exit status."""
    options = arguments(argv)
    if options.list:
        print("\n".join(workloads.STANDARD))
        return 0
    try:
        compiled("load")
    except NotAvailable as error:
        print(error, file=sys.stderr)
        return NOTHING_RUN
    settings, measured = settings_of(options), {}
    command = shlex.join(["python", "-m", "bench", *(sys.argv[1:] if argv is None else argv)])
    about = report.circumstances(settings) | {"command": command}
    complete = measure_all(options, settings, measured, about)
    report.save(measured, options.into, about)
    text = f"{report.heading(about)}\n\n{report.markdown(measured)}\n"
    (options.into / "table.md").write_text(text)
    print(text)
    return status(measured, complete)


if __name__ == "__main__":
    sys.exit(main())
