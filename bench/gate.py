"""Compare two builds by counts that are the same at every run; exit with 1 if head has more.

Counted are the instructions of the parts of a request in pieces.py, and the system calls of an
operation. `base` and `head` are a Git revision, which is built, or a folder with the built package
in it: . is the work tree.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import syscalls, workloads
from bench.pieces import PIECES
from bench.process import ROOT, Failed, NotAvailable, environment
from bench.report import table
from bench.runner import Settings

SLOWER, BROKEN = 1, 2
# How much more head may have: a share of base's figure, and an absolute amount.
ALLOWED = {"instructions": (0.03, 5), "syscalls": (0.02, 0.15)}
WARM = 50  # loops that every piece does in every run, so that their difference is warm
# Loops that are counted: about 100 million instructions, since Python's start varies by a million.
LOOPS = {"readline": 2000, "write": 50000, "handler": 6000, "loop": 8000, "accept": 3000,
         "packets": 200, "green_close": 1000, "green_keep": 5000}
# One client at a time: with more of them chance decides how often who waits.
TRACED = ["tcp_close_1", "tcp_keep_1", "udp_ping_64", "pool_close_1", "green_close_1",
          "green_keep_1", "prefork_close_1"]
TRACED_OPERATIONS = 500
RUN_PIECES = """\
import sys, socketserver_fast
from bench.pieces import PIECES
for argument in sys.argv[1:]:
    name, loops = argument.split("=")
    PIECES[name](socketserver_fast, int(loops))
"""
LEFT_TO_CHANCE = {"futex", "restart_syscall"}  # how often a thread finds a lock taken


def arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--base", default="HEAD", help="default HEAD")
    parser.add_argument("--head", default=".", help="default .")
    parser.add_argument("--pieces", default=",".join(PIECES), help="names with commas between")
    parser.add_argument("--no-instructions", action="store_true")
    parser.add_argument("--no-syscalls", action="store_true")
    return parser.parse_args(argv)


def say(text):
    """Print progress, and what is left out, to stderr."""
    print(text, file=sys.stderr, flush=True)


def run(*command, **options):
    """Run a command to its end and return its stderr; Failed with that for a bad status."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stderr


def built(what, folder):
    """Return a folder to put on the import path."""
    if Path(what, "socketserver_fast").is_dir():
        return Path(what).resolve()
    folder.mkdir()
    run("git", "archive", "-o", str(folder / "source.tar"), what)
    run("tar", "-xf", str(folder / "source.tar"), "-C", str(folder))
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
        "--disable-pip-version-check", "--target", str(folder / "built"), str(folder))
    return folder / "built"


def run_pieces(loops, path, prefix=()):
    """Do so many loops of each piece with the package from `path`; return its stderr."""
    return run(*prefix, sys.executable, "-P", "-c", RUN_PIECES,
               *(f"{name}={count}" for name, count in loops.items()), env=environment(path))


def instructions_of_run(path, pieces, counted):
    """Count the instructions of a process that does these pieces, one of them more often."""
    loops = {name: WARM + (LOOPS[name] if name == counted else 0) for name in pieces}
    prefix = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    return int(re.search(r"Collected : (\d+)", run_pieces(loops, path, prefix))[1])


def instructions(path, pieces):
    """Count the instructions of one loop of each piece; the start of Python cancels out."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        start, *totals = pool.map(
            lambda counted: instructions_of_run(path, pieces, counted), [None, *pieces])
    return {f"instructions of {name}": (total - start) / LOOPS[name]
            for name, total in zip(pieces, totals, strict=True)}


def system_calls(path, names):
    """Count the system calls of an operation of each workload that this build can serve."""
    found, settings = {}, Settings(path=path)
    for name in names:
        try:
            found[f"syscalls of {name}"] = syscalls.per_operation(
                "fast", workloads.find(name), settings, TRACED_OPERATIONS, LEFT_TO_CHANCE)
        except NotAvailable as why:
            say(f"syscalls of {name} are not counted: {why}")
    return found


def able(path, pieces):
    """Yield the pieces that this build, which may be older, can do."""
    for name in pieces:
        try:
            run_pieces({name: 1}, path)
            yield name
        except Failed as failed:
            say(f"not counted, since base cannot do it: {name}: {str(failed).splitlines()[-1]}")


def row(figure, base, head):
    """Return the cells of a row."""
    change = f"{head / base - 1:+.1%}" if base else f"{head:+.1f}"
    share, amount = ALLOWED[figure.split()[0]]
    return [figure, f"{base:,.2f}", f"{head:,.2f}", change, f"{share:.0%} + {amount:g}",
            "SLOWER" if head > base * (1 + share) + amount else "ok"]


def compare(options, folder):
    """Return {figure: (base, head)}; Failed if head lacks a figure of base."""
    say("building")
    base, head = built(options.base, folder / "base"), built(options.head, folder / "head")
    both = {}
    for count, pieces in counts(options, base):
        say(f"counting {count.__name__}")
        before, after = count(base, pieces), count(head, pieces)
        if lost := before.keys() - after.keys():
            raise Failed(f"head has no {', '.join(sorted(lost))}")
        both |= {figure: (before[figure], after[figure]) for figure in before}
    return both


def counts(options, base):
    """Yield each function that counts, with the names of what it is to count."""
    if not options.no_instructions and shutil.which("valgrind"):
        yield instructions, list(able(base, options.pieces.split(",")))
    if not options.no_syscalls and shutil.which("strace"):
        yield system_calls, TRACED


def main(argv=None):
    """Compare, print the table, and return the exit status."""
    options = arguments(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-gate-") as folder:
            both = compare(options, Path(folder))
    except (Failed, NotAvailable) as error:
        say(f"cannot compare: {error}")
        return BROKEN
    rows = [row(figure, *pair) for figure, pair in both.items()]
    print(table(["figure", "base", "head", "change", "allowed", "verdict"], rows))
    slower = [figure for figure, *_, verdict in rows if verdict == "SLOWER"]
    say(f"slower: {', '.join(slower)}" if slower else "not slower")
    return SLOWER if slower else 0


if __name__ == "__main__":
    sys.exit(main())
