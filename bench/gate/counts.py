"""The counts that are the same at every run: instructions, memory blocks, system calls."""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from bench import syscalls, workloads
from bench.process import Failed, NotAvailable, environment
from bench.runner import Settings

WARM = 50  # loops that every piece does in every run, so that their difference is warm
# Loops that are counted: about 100 million instructions, since Python's start varies by a million.
LOOPS = {
    "readline": 2000, "iterate": 3000, "read": 14000, "write": 50000, "handler": 6000,
    "datagram": 14000, "loop": 8000, "accept": 3000, "packets": 200, "green_close": 1000,
    "green_keep": 5000, "patch": 500,
}  # fmt: skip
# One client at a time: with more of them chance decides how often who waits.
TRACED = ["tcp_close_1", "tcp_keep_1", "udp_ping_64", "pool_close_1", "green_close_1",
          "green_keep_1", "prefork_close_1"]
TRACED_OPERATIONS = 500
UNSTEADY_BLOCKS = {"packets"}  # its handler's class is made anew each time: it varied by 22
LEFT_TO_CHANCE = {"futex", "restart_syscall"}  # how often a thread finds a lock taken


def run_python(arguments, path, prefix=()):
    """Run bench.gate.piece with the package from `path`; what it printed, and to stderr."""
    command = [*prefix, sys.executable, "-P", "-m", "bench.gate.piece", *arguments]
    done = subprocess.run(command, env=environment(path), capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{arguments}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout, done.stderr


def instructions_of_run(library, path, pieces, counted=None):
    """Instructions of a whole process that does these pieces, one of them more often."""
    loops = [f"{name}={WARM + (LOOPS[name] if name == counted else 0)}" for name in pieces]
    with tempfile.TemporaryDirectory() as folder:
        prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        _, said = run_python([library, *loops], path, prefix)
    return int(re.search(r"Collected : (\d+)", said).group(1))


def instructions(library, path, pieces):
    """{piece: instructions of one loop}; the start of Python cancels out."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        start, *totals = pool.map(
            lambda counted: instructions_of_run(library, path, pieces, counted), [None, *pieces]
        )
    return {f"instructions of {name}": (total - start) / LOOPS[name]
            for name, total in zip(pieces, totals, strict=True)}


def able(library, path, pieces):
    """Those of the pieces that this build can do, and what the others say: it may be older."""
    found, said = [], []
    for name in pieces:
        try:
            run_python([library, f"{name}=1"], path)
            found.append(name)
        except Failed as failed:
            said.append(f"{name}: {str(failed).splitlines()[-1]}")
    return found, said


def blocks(library, path, pieces):
    """{what: memory blocks}."""
    steady = [name for name in pieces if name not in UNSTEADY_BLOCKS]
    printed, _ = run_python([library, "--blocks", *steady], path)
    return json.loads(printed)


def system_calls(library, path, names=TRACED):
    """{workload: system calls of one operation}, of the workloads that this build can serve."""
    found = {}
    for name in names:
        try:
            found[f"syscalls of {name}"] = syscalls.per_operation(
                library, workloads.find(name), Settings(path=path), TRACED_OPERATIONS,
                LEFT_TO_CHANCE,
            )
        except NotAvailable as why:
            print(f"syscalls of {name} are not counted: {why}", file=sys.stderr)
    return found


def instructions_missing():
    """Why instructions cannot be counted here, or None."""
    return None if shutil.which("valgrind") else "valgrind is not installed"
