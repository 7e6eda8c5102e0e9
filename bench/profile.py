"""Where the server's time goes, by perf: `python -m bench.profile --only tcp_close_16,udp_echo_64`.

System calls with all that the kernel does in them, and the rest by the library it was spent in.
"""

import argparse
import collections
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import workloads
from bench.measures import run_checked, server_for
from bench.process import Failed, NotAvailable
from bench.report import table
from bench.runner import Settings

ATTACH = 0.5  # seconds that perf has to attach
SMALLEST = 1.0  # percent; what is below is summed up as "other"
SYSTEM_CALL = re.compile(r"\b__(?:x64|arm64|se)_sys_(\w+)")


def recorded(server, load, file):
    """Let perf watch the server while `load()` runs."""
    command = ["perf", "record", "-q", "-g", "-o", file, "-p", str(server.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as perf:
        time.sleep(ATTACH)
        if perf.poll() is not None:
            raise Failed(f"perf cannot watch the server: {perf.stderr.read().strip()}")
        try:
            return load()
        finally:
            perf.send_signal(signal.SIGINT)
            perf.communicate()


def samples(file):
    """The stacks of all samples: lists of `symbol (library)` from the innermost outwards."""
    script = subprocess.run(
        ["perf", "script", "-i", file, "-F", "ip,sym,dso"], capture_output=True, text=True
    )
    for block in script.stdout.split("\n\n"):
        if lines := [line.strip() for line in block.splitlines() if line.strip()]:
            yield lines


def place(stack):
    """What a sample is counted under."""
    for frame in stack:
        if call := SYSTEM_CALL.search(frame):
            return f"system call {call.group(1)}"
    innermost = stack[0]
    if "[kernel" in innermost or "[unknown]" in innermost:
        return "kernel, outside a system call"
    library = Path(innermost.rpartition("(")[2].rstrip(")")).name
    return "interpreter" if "python3" in library and "cpython" not in library else (
        library.partition(".")[0])


def shares(file):
    """[(place, percent)], the largest first."""
    counted = collections.Counter(place(stack) for stack in samples(file))
    total = sum(counted.values())
    if not total:
        raise Failed("perf saw nothing")
    percents = {where: count * 100 / total for where, count in counted.most_common()}
    large = [(where, share) for where, share in percents.items() if share >= SMALLEST]
    return [*large, ("other", 100 - sum(share for _, share in large))]


def profile(contender, workload, settings):
    """The shares of one workload, and its server CPU microseconds per operation."""
    options = ["--seconds", str(settings.seconds)]
    with (
        server_for(contender, workload, settings) as server,
        tempfile.NamedTemporaryFile() as file,
    ):
        run = run_checked(server, workload, options)
        recorded(server, lambda: run_checked(server, workload, options), file.name)
        return shares(file.name), run["server_cpu"] * 1e6 / run["operations"]


def rows(contender, workload, settings):
    """The table's rows of one workload."""
    found, cpu_us = profile(contender, workload, settings)
    return [[workload.name, contender, where, f"{share:.0f} %", f"{share * cpu_us / 100:.2f}"]
            for where, share in found]


def main():
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--only", default="tcp_close_16,threading_keep_10,udp_echo_64")
    parser.add_argument("--contender", default="fast")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--path", help="folder to import the package from")
    options = parser.parse_args()
    if not shutil.which("perf"):
        parser.error("perf is not installed")
    settings = Settings(seconds=options.seconds, path=options.path)
    found = []
    try:
        for workload in workloads.choose(options.only):
            found += rows(options.contender, workload, settings)
    except (Failed, NotAvailable) as error:
        print(f"{workload.name}: {error}", file=sys.stderr)
        return 1
    print(table(["workload", "contender", "where", "share", "us/op"], found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
