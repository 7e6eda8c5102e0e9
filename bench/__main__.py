"""Measure the package against the stdlib, its peers and a C server; print a table in Markdown."""

import argparse
import shlex
import sys
from pathlib import Path

from bench import process, readme, repeat, results, runner, syscalls, workloads
from bench.build import BuildError, program
from bench.contenders import CONTENDERS
from bench.progress import display

FAILED, NOTHING_RUN, NOT_ALL_INSTALLED, INTERRUPTED = 1, 2, 3, 130


def arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", help="workloads: names or patterns, with commas between")
    parser.add_argument("--contenders", help="names with commas between: " + ", ".join(CONTENDERS))
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="a choice that ends within 3 minutes")
    choice.add_argument("--readme", action="store_true",
                        help="what README's chart and table need: then `python -m bench.readme`")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument("--seconds", type=float, help="measured time of a run (1, quick 0.3)")
    parser.add_argument("--warm-up", type=float, default=0.2)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the servers")
    parser.add_argument("--path", help="folder to import the package from")
    parser.add_argument("--no-syscalls", action="store_true", help="do not count system calls")
    parser.add_argument("--repeat", type=int, default=1, metavar="TIMES",
                        help="measure all of it so often, and say how far the ratios lie apart")
    parser.add_argument("--plot", action="store_true", help="draw the charts as SVG")
    parser.add_argument("--into", type=Path, default=results.LATEST,
                        help="folder for the JSON, the table and the charts")
    parser.add_argument("--list", action="store_true", help="list the standard workloads")
    options = parser.parse_args(argv)
    try:
        options.workloads = chosen_workloads(options)
        options.contenders = chosen_contenders(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def chosen_workloads(options):
    """The workloads of --only, --quick, --readme or all."""
    names = workloads.QUICK if options.quick else readme.WORKLOADS if options.readme else ["*"]
    return workloads.choose(options.only or ",".join(names))


def chosen_contenders(options):
    """A list of known names."""
    default = readme.CONTENDERS if options.readme else list(CONTENDERS)
    chosen = options.contenders.split(",") if options.contenders else default
    if unknown := [name for name in chosen if name not in CONTENDERS]:
        raise ValueError(f"no contender is called {', '.join(unknown)}")
    return chosen


def settings_of(options):
    """How long and how often; what is left out is said."""
    rounds = options.rounds or (3 if options.quick else 5)
    seconds = options.seconds or (0.3 if options.quick else 1.0)
    skipped = "by --no-syscalls" if options.no_syscalls else "by --quick" if options.quick else ""
    skipped = skipped or syscalls.why_not()
    if skipped:
        print(f"system calls are not counted: {skipped}", file=sys.stderr)
    if not process.processors():
        print("only one processor: server and load share it", file=sys.stderr)
    tries = 1 if options.quick else runner.Settings.tries
    return runner.Settings(
        rounds, seconds, options.warm_up, options.python, options.path, tries, not skipped
    )


def measure_all(options, settings, measured, folder):
    """Fill `measured`, kept after each workload; returns False when Ctrl-C cut it short."""
    runs = settings.rounds * sum(
        CONTENDERS[name].can(workload)
        for workload in options.workloads for name in options.contenders
    )
    try:
        with display(runs) as step:
            for workload in options.workloads:
                group = measured.setdefault(workload.name, {})
                runner.measure(workload, options.contenders, settings, group, step)
                results.save_runs(measured, folder)
    except KeyboardInterrupt:
        print("interrupted: what was measured until now follows", file=sys.stderr)
        return False
    return True


def failures(measured):
    """The full text of each failure, for stderr."""
    return [f"{series.workload} {series.contender}: {series.failure}"
            for group in measured.values() for series in group.values() if series.failure]


def status(measurements, complete):
    """What the shell is told, the worst first."""
    every = [series for measured in measurements for group in measured.values()
             for series in group.values()]
    if any(series.failure for series in every):
        return FAILED
    if not complete:
        return INTERRUPTED
    return NOT_ALL_INSTALLED if any(series.is_not_installed for series in every) else 0


def main(argv=None):
    """Returns the exit status."""
    options = arguments(argv)
    if options.list:
        print("\n".join(workloads.STANDARD))
        return 0
    try:
        program("load")
        program("floor")
    except BuildError as error:
        print(error, file=sys.stderr)
        return NOTHING_RUN
    settings, measurements = settings_of(options), []
    command = shlex.join(["python", "-m", "bench", *(sys.argv[1:] if argv is None else argv)])
    complete = True
    while complete and len(measurements) < options.repeat:
        folder = options.into / f"repeat{len(measurements) + 1}" if measurements else options.into
        measurements.append({})
        complete = measure_all(options, settings, measurements[-1], folder)
        print(results.save(measurements[-1], folder, settings, command))
        show(measurements, options, folder)
    return status(measurements, complete)


def show(measurements, options, folder):
    """Draw the last measurement, say what failed in it and how far it lies from those before."""
    measured = measurements[-1]
    if options.plot:
        from bench import plot

        print("\n".join(map(str, plot.draw(measured, folder))), file=sys.stderr)
    print("\n".join(failures(measured)), file=sys.stderr)
    if len(measurements) > 1:
        print(repeat.markdown(measurements))


if __name__ == "__main__":
    sys.exit(main())
