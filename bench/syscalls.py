"""System calls per operation, counted by strace in a run of its own: tracing slows the server."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from bench.measures import run_checked, server_for

OPERATIONS = 2000
MANY_SECONDS = 60  # a traced server may be a hundred times slower
ATTACH_WITHIN = 10


def why_not():
    """Why system calls cannot be counted here, or None."""
    return None if shutil.which("strace") else "strace is not installed"


def total_calls(summary):
    """The number of calls in the `total` line of strace -c."""
    for line in summary.splitlines():
        fields = line.split()
        if fields and fields[-1] == "total":
            return int(fields[3] if len(fields) > 4 else fields[2])
    raise ValueError(f"strace printed no total: {summary!r}")


def wait_until_traced(pid, tracer):
    """Wait until strace has attached to the server; OSError when it cannot."""
    until = time.monotonic() + ATTACH_WITHIN
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > until:
            raise OSError("strace cannot attach to the server")
        time.sleep(0.01)


def traced(server, summary, load):
    """Run `load()` while strace counts; the summary of strace and the result of the load."""
    pid = server.process.pid
    command = ["strace", "-c", "-f", "-q", "-o", summary, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        try:
            wait_until_traced(pid, tracer)
            run = load()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
    return Path(summary).read_text(), run


def per_operation(contender, workload, settings, operations=OPERATIONS):
    """System calls of the server for one operation."""
    options = ["--warm-up", "0", "--operations", str(operations), "--seconds", str(MANY_SECONDS)]
    with (
        server_for(contender, workload, settings) as server,
        tempfile.NamedTemporaryFile() as summary,
    ):
        text, run = traced(
            server, summary.name,
            lambda: run_checked(server, workload, [*options, "--timeout", str(MANY_SECONDS)]),
        )
    return total_calls(text) / run["finished"]
