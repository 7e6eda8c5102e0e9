"""The parts of a request that need no client, timed by pyperf.

    python -m bench.pyperf_pieces --impl stdlib -o stdlib.json
    python -m bench.pyperf_pieces --impl fast -o fast.json
    python -m pyperf compare_to stdlib.json fast.json
"""

import sys
import time

import pyperf

from bench.libraries import library_of
from bench.pieces import BURST, FAST_ONLY, LINES, PIECES

INNER = {"readline": LINES, "iterate": LINES, "packets": BURST}  # operations of one loop


def timed(loops, run):
    """Seconds for so many loops."""
    begin = time.perf_counter()
    run(loops)
    return time.perf_counter() - begin


def pass_on(command, arguments):
    """Tell pyperf's worker processes what is timed."""
    command += ["--impl", arguments.impl]
    if arguments.pieces:
        command += ["--pieces", arguments.pieces]


def main():
    """Time the pieces that were asked for, or all that the library has."""
    runner = pyperf.Runner(program_args=("-m", "bench.pyperf_pieces"), add_cmdline_args=pass_on)
    runner.argparser.add_argument(
        "--impl", choices=["stdlib", "fast", "patched"], default="fast", help="what is timed"
    )
    runner.argparser.add_argument("--pieces", help="names with commas between")
    arguments = runner.parse_args()
    has = [name for name in PIECES if arguments.impl == "fast" or name not in FAST_ONLY]
    try:
        import socketserver_fast.green  # noqa: F401
    except ImportError as missing:
        has = [name for name in has if not name.startswith("green_")]
        if not arguments.worker:
            print(f"without the greenlets' pieces: {missing}", file=sys.stderr)
    library = library_of(arguments.impl)
    for name in arguments.pieces.split(",") if arguments.pieces else has:
        runner.bench_time_func(
            name, timed, PIECES[name](library), inner_loops=INNER.get(name, 1)
        )


if __name__ == "__main__":
    main()
