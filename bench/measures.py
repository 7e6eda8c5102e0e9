"""What one run of a workload measures. Each function returns the run as a dict: the report of the
load generator, or a single `value` with its `unit`."""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import time

import psutil

from bench.contenders import CONTENDERS, NOT_INSTALLED
from bench.neighbours import Watch
from bench.process import (
    Failed,
    NotAvailable,
    Server,
    environment,
    load_command,
    processors,
    run_load,
)
from bench.workloads import WEB

LOST_PACKETS_ALLOWED = 0.001  # of the operations; other errors are not allowed
ANSWER_WITHIN = 20  # seconds; a lost SYN alone costs one, three or seven of them
SETTLE = 2.0  # seconds that a server has to close its descriptors after the last connection
ENDS_WITHIN = 120  # seconds for a process that measures itself
IMPORT = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1e3)"


def class_for(contender, workload):
    """The stdlib, patched or not, runs its nearest class where it lacks the workload's."""
    stands_in = contender in ("stdlib", "patched") and workload.stand_in
    return workload.stand_in if stands_in else workload.server


def server_for(contender, workload, settings):
    """The contender's server for the workload."""
    name = class_for(contender, workload)
    return Server(contender, workload, settings.python, settings.path, name)


def check_run(run):
    """Raise Failed unless all operations were answered, and rightly."""
    errors = dict(run["errors"])
    if errors.get("lost", 0) <= LOST_PACKETS_ALLOWED * run["started"]:
        errors.pop("lost", None)
    if errors:
        raise Failed("errors: " + ", ".join(f"{kind} {count}" for kind, count in errors.items()))


def run_checked(server, workload, options):
    """Put the load on the server; its report, checked, or Failed with the server's output."""
    run = run_load(server, workload, options)
    try:
        check_run(run)
    except Failed as failed:
        raise Failed(f"{failed}; {server.output() or 'no output'}") from None
    # The servers of http.server and wsgiref log each request there.
    run["stderr"] = "" if workload.work in WEB else server.output()
    return run


def descriptors(pid):
    """How many descriptors a process holds."""
    return psutil.Process(pid).num_fds()


def descriptors_left(pid, before):
    """How many more than before, when the server has had time to close them."""
    until = time.monotonic() + SETTLE
    while (left := descriptors(pid) - before) > 0 and time.monotonic() < until:
        time.sleep(0.01)
    return max(left, 0)


def load(contender, workload, settings):
    """One server, one load, one report."""
    options = ["--seconds", str(settings.seconds), "--warm-up", str(settings.warm_up),
               "--timeout", str(ANSWER_WITHIN)]
    with server_for(contender, workload, settings) as server:
        run_checked(server, workload, ["--warm-up", "0", "--operations", "1"])
        before = descriptors(server.process.pid)
        watch = Watch(server.process.pid)
        run = run_checked(server, workload, options)
        run["neighbours"] = max(watch.share(), kept_from_load(run))
        run["descriptors_left"] = descriptors_left(server.process.pid, before)
    if not run["operations"]:
        raise Failed("no operation ended within the measured time")
    return run


def kept_from_load(run):
    """The part of the time that others had the load's processor, on which it never sleeps."""
    return max(0.0, 1 - run["load_cpu"] / run["seconds"]) if processors() else 0.0


def own_memory(pid):
    """Bytes that only this server and its children hold (USS): not the kernel's socket buffers."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().uss for member in family)


@contextlib.contextmanager
def held(server, workload):
    """Connections that each had a line echoed stand meanwhile; the seconds that took."""
    command = load_command(server, workload, [])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        said = holder.stdout.readline()
        try:
            yield float(said.split()[1]) if said else None
        finally:
            report, _ = holder.communicate(b"\n")
    server.check()
    if not report:
        raise Failed(f"the load generator stopped with status {holder.returncode}")
    check_run(json.loads(report))


def warmed(server, workload):
    """Let the server answer some lines, so that it has what it needs only once."""
    some = dataclasses.replace(workload, load=("--operations", "100"))
    run_checked(server, some, ["--warm-up", "0"])


def idle(contender, workload, settings):
    """KiB that one idle connection costs, after it has had one line echoed."""
    with server_for(contender, workload, settings) as server:
        warmed(server, workload)
        before = own_memory(server.process.pid)
        with held(server, workload):
            after = own_memory(server.process.pid)
    return {"value": (after - before) / 1024 / workload.size, "unit": "KiB per connection"}


def open_many(contender, workload, settings):
    """Microseconds until one more connection stands, and has had a line echoed."""
    with server_for(contender, workload, settings) as server:
        warmed(server, workload)
        with held(server, workload) as seconds:
            pass
    return {"value": seconds * 1e6 / workload.size, "unit": "us per connection"}


def start(contender, workload, settings):
    """Milliseconds from starting the process to the first answer."""
    begin = time.perf_counter()
    with server_for(contender, workload, settings) as server:
        run_checked(server, workload, [])
        took = time.perf_counter() - begin
    return {"value": took * 1e3, "unit": "ms to the first answer"}


def python_output(command, settings):
    """Run Python to its end; its output, or Failed."""
    try:
        done = subprocess.run(
            [settings.python, "-P", *command], capture_output=True, text=True,
            env=environment(settings.path), timeout=ENDS_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from None
    if "ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr:
        raise NotAvailable(NOT_INSTALLED + done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise Failed(f"status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def ending(what, contender, workload, settings):
    """The mean of the milliseconds that bench.ending prints."""
    name = class_for(contender, workload)
    command = ["-m", "bench.ending", what, contender, name, str(workload.size)]
    times = python_output(command, settings)
    if isinstance(times, dict):
        raise NotAvailable(times["unavailable"])
    return statistics.fmean(times)


def shutdown(contender, workload, settings):
    """Milliseconds that shutdown() takes, the mean over the poll interval."""
    took = ending("shutdown", contender, workload, settings)
    return {"value": took, "unit": "ms for shutdown()"}


def drain(contender, workload, settings):
    """Milliseconds from the end of the last request in progress until the server has drained."""
    took = ending("drain", contender, workload, settings)
    return {"value": took, "unit": "ms after the last request"}


def import_time(contender, workload, settings):
    """Milliseconds for the import in a fresh interpreter."""
    code = IMPORT.format(CONTENDERS[contender].imports)
    return {"value": python_output(["-c", code], settings), "unit": "ms to import"}


MEASURES = {
    "load": load, "idle": idle, "open": open_many, "start": start, "shutdown": shutdown,
    "drain": drain, "import": import_time,
}
