"""Counts system calls per operation, by strace, in a run of its own: tracing slows the server."""

import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from bench.process import Failed

OPERATIONS = 2000
MANY_SECONDS = 60  # a traced server may be a hundred times slower
ATTACH_WITHIN = 10


def total_calls(summary, without=()):
    """Return the number of calls in the table of strace -c."""
    rows = [line.split() for line in summary.splitlines()]
    calls = {fields[-1]: int(fields[3]) for fields in rows
             if len(fields) in (5, 6) and fields[3].isdigit()}
    calls.pop("total", None)
    if not calls:
        raise Failed(f"strace printed no calls: {summary!r}")
    return sum(count for name, count in calls.items() if name not in without)


def wait_until_traced(pids, tracer):
    """Wait until strace has attached to all processes of the server; Failed when it cannot."""
    until = time.monotonic() + ATTACH_WITHIN
    while any("TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text() for pid in pids):
        if tracer.poll() is not None or time.monotonic() > until:
            raise Failed("strace cannot attach to the server")
        time.sleep(0.01)


def traced(server, summary, load):
    """Return the summary of strace while `load()` runs, and the result of that."""
    family = psutil.Process(server.process.pid)
    pids = [family.pid, *(child.pid for child in family.children(recursive=True))]
    command = ["strace", "-c", "-f", "-q", "-o", summary, *(f"--attach={pid}" for pid in pids)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        try:
            wait_until_traced(pids, tracer)
            run = load()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
    return Path(summary).read_text(), run


def per_operation(contender, workload, settings, operations=OPERATIONS, without=()):
    """Return how many system calls of other names than `without` the server needs per operation."""
    options = ["--warm-up", "0", "--operations", str(operations), "--seconds", str(MANY_SECONDS),
               "--timeout", str(MANY_SECONDS)]
    with (
        settings.server(contender, workload) as server,
        tempfile.NamedTemporaryFile() as summary,
    ):
        server.run_load([*options, "--operations", "1"])  # starts what starts late
        text, run = traced(server, summary.name, lambda: server.run_load(options))
    return total_calls(text, without) / run["finished"]
