"""What the pyperf scripts share: `--impl`, and the names of the benchmarks.

    python -m bench.pyperf_readline --impl stdlib -o stdlib.json
    python -m bench.pyperf_readline --impl fast -o fast.json
    python -m pyperf compare_to stdlib.json fast.json
"""

import time

import pyperf

from bench.libraries import library_of
from bench.pieces import LINES, PIECES

INNER = {"readline": LINES, "iterate": LINES}  # operations of one loop


def timed(run, loops):
    """Seconds for so many loops."""
    begin = time.perf_counter()
    run(loops)
    return time.perf_counter() - begin


def runner_for(module):
    """A pyperf runner of the script bench/<module>.py, and its --impl."""
    runner = pyperf.Runner(program_args=("-m", f"bench.{module}"), add_cmdline_args=pass_impl)
    runner.argparser.add_argument(
        "--impl", choices=["stdlib", "fast", "patched"], default="fast", help="what is timed"
    )
    return runner, runner.parse_args().impl


def pass_impl(command, arguments):
    """Tell pyperf's worker processes what is timed."""
    command += ["--impl", arguments.impl]


def main(module, *names):
    """Time these pieces."""
    runner, impl = runner_for(module)
    library = library_of(impl)
    for name in names:
        run = PIECES[name](library)
        runner.bench_time_func(
            name, lambda loops, run=run: timed(run, loops), inner_loops=INNER.get(name, 1)
        )
