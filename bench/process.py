"""The two processes of a run: a contender's server on one processor, the load on another."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.build import program
from bench.contenders import CONTENDERS
from bench.workloads import WEB

ROOT = Path(__file__).parent.parent
START_WITHIN = 20  # seconds from start to the address
STOP_WITHIN = 5
LOAD_WITHIN = 900  # the load generator bounds itself; this is for when it does not


class NotAvailable(Exception):
    """The contender is not installed, or has no such server."""


class Failed(Exception):
    """The contender did not start, died, or answered wrongly; the text has its output."""


def processors():
    """One processor for the server and another for the load, or None where that cannot be."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (usable[0], usable[1]) if len(usable) > 1 else None


@contextlib.contextmanager
def pinned(cpu):
    """Children started inside run on this processor only."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """`with Server(...) as server:` a contender that listens at `server.address`."""

    def __init__(self, contender, workload, python=sys.executable, path=None, server=None):
        """`path` is put before the import path; `server` is the class if not the workload's."""
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        socket_path = [f"{self.folder.name}/s"] if workload.transport.startswith("unix") else []
        size = len(workload.answer) if workload.work in WEB else workload.size
        task = [server or workload.server, workload.transport, workload.work, str(size),
                str(workload.workers), *socket_path]
        self.command = command_of(contender, task, python)
        self.environment = environment(path)
        self.process = self.address = None

    def __enter__(self):
        try:
            self.process = self.start()
            self.address = self.hear_address()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """In a session of its own: Ctrl-C is the runner's business, and children are ended too."""
        cpus = processors()
        try:
            with pinned(cpus and cpus[0]):
                return subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=self.errors, env=self.environment, start_new_session=True,
                )
        except OSError as error:
            raise Failed(f"did not start: {error}") from None

    def __exit__(self, *exception):
        """End the server and its children."""
        if self.process:
            for way in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, way)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_WITHIN)
            self.process.stdout.close()
        self.errors.close()
        self.folder.cleanup()

    def hear_address(self):
        """The first line of the server says where it is or why it is not."""
        ready, _, _ = select.select([self.process.stdout], [], [], START_WITHIN)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise Failed(f"did not start: {self.output() or 'no output'}")
        said = json.loads(line)
        if "unavailable" in said:
            raise NotAvailable(said["unavailable"])
        return said["address"]

    def output(self):
        """What the server wrote to stderr."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()

    def check(self):
        """Raise Failed when the server has died."""
        status = self.process.poll()
        if status is not None:
            raise Failed(f"died with status {status}: {self.output() or 'no output'}")


def environment(first):
    """The import path of a server: a build under test, then this folder's parent for `bench`."""
    path = os.pathsep.join([*([str(first)] if first else []), str(ROOT)])
    return dict(os.environ, PYTHONPATH=path, PYTHONHASHSEED="0")


def command_of(contender, task, python):
    """The command line of a contender's server."""
    if ":" in CONTENDERS[contender].program:
        return [python, "-P", "-m", "bench.serve", contender, *task]
    _, transport, work, size, _, *path = task
    traffic = {"bulk": "bulk"}.get(work, f"http:{size}" if work in WEB else "echo")
    if contender == "floor_threads":
        traffic = "threads"
    return [str(program("floor")), transport, traffic, *path]


def load_command(server, workload, options):
    """The command line of the load generator."""
    cpus = processors()
    pin = ["--cpu", str(cpus[1]), "--spin"] if cpus else []
    watch = ["--server", str(server.process.pid)]
    said = spoken(server, workload) if workload.work in WEB else []
    return [str(program("load")), server.address, *workload.load, *said, *pin, *watch, *options]


def spoken(server, workload):
    """The options that name the request and the body of its answer, from files."""
    options = []
    for name, content in (("request", workload.request), ("body", workload.answer)):
        path = Path(server.folder.name, name)
        path.write_bytes(content)
        options += [f"--{name}", str(path)]
    return options


def run_load(server, workload, options):
    """Put the load on the server; the load generator's report as a dict."""
    command = load_command(server, workload, options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_WITHIN)
    except subprocess.TimeoutExpired:
        raise Failed(f"the load did not end within {LOAD_WITHIN} s") from None
    server.check()
    if done.returncode:
        raise Failed(f"the load generator stopped: {done.stderr.strip()}")
    return json.loads(done.stdout)
