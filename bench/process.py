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

from bench.build import BuildError, program
from bench.contenders import CONTENDERS, NOT_INSTALLED
from bench.workloads import WEB

ROOT = Path(__file__).parent.parent
START_WITHIN = 20  # seconds from start to the address
STOP_WITHIN = 5
LOAD_WITHIN = 900  # the load generator bounds itself; this is for when it does not
MOST_OUTPUT = 2000  # characters
LOST_PACKETS_ALLOWED = 0.001  # of the operations; other errors are not allowed


class NotAvailable(Exception):
    """The contender is not installed, or has no such server."""


class Failed(Exception):
    """The contender did not start, died, or answered wrongly; the text has its output."""


def processors():
    """One processor for the server and another for the load, or None where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


@contextlib.contextmanager
def pinned(cpu):
    """Children started inside run on this processor only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(first):
    """The import path of a server: a build under test, then this folder's parent for `bench`."""
    path = os.pathsep.join([*([str(first)] if first else []), str(ROOT)])
    return dict(os.environ, PYTHONPATH=path, PYTHONHASHSEED="0")


class Server:
    """`with Server(...) as server:` a contender that listens at `server.address`."""

    def __init__(self, contender, workload, python=sys.executable, path=None):
        """`path`, a folder with a build of the package, is put before the import path."""
        self.workload = workload
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        self.command = command_of(contender, workload, python, f"{self.folder.name}/s")
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
            raise Failed(f"did not start: {self.output()}")
        said = json.loads(line)
        if "unavailable" in said:
            raise NotAvailable(said["unavailable"])
        return said["address"]

    def output(self):
        """What the server wrote to stderr, the end of it."""
        self.errors.seek(max(self.errors.seek(0, os.SEEK_END) - MOST_OUTPUT, 0))
        return self.errors.read().decode(errors="replace").strip() or "no output"

    def check(self):
        """Raise Failed when the server has died."""
        status = self.process.poll()
        if status is not None:
            raise Failed(f"died with status {status}: {self.output()}")

    def load_command(self, options):
        """The command line of the load generator."""
        try:
            generator = program("load_tls" if self.workload.transport == "tls" else "load")
        except BuildError as error:
            raise NotAvailable(f"{NOT_INSTALLED}{error}") from None
        cpus = processors()
        pin = ["--cpu", str(cpus[1]), "--spin"] if cpus else []
        watch = ["--server", str(self.process.pid)]
        return [str(generator), self.address, *self.workload.load, *self.spoken(), *pin, *watch,
                *options]

    def spoken(self):
        """The options that name the request and the body of its answer, from files."""
        options = []
        if self.workload.work in WEB:
            for name in ("request", "answer"):
                path = Path(self.folder.name, name)
                path.write_bytes(getattr(self.workload, name))
                options += [f"--{name}", str(path)]
        return options

    def run_load(self, options):
        """Put the load on the server; the load generator's report, or Failed if anything was."""
        command = self.load_command(options)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_WITHIN)
        except subprocess.TimeoutExpired:
            raise Failed(f"the load did not end within {LOAD_WITHIN} s") from None
        self.check()
        if done.returncode:
            raise Failed(f"the load generator stopped: {done.stderr.strip()}")
        return self.checked(json.loads(done.stdout))

    def checked(self, run):
        """The report, if all operations were answered, and rightly."""
        errors = dict(run["errors"])
        if errors.get("lost", 0) <= LOST_PACKETS_ALLOWED * run["started"]:
            errors.pop("lost", None)
        if errors:
            counts = ", ".join(f"{kind} {count}" for kind, count in errors.items())
            raise Failed(f"errors: {counts}; {self.output()}")
        return run


def command_of(contender, workload, python, path):
    """The command line of a contender's server."""
    size = len(workload.answer) if workload.work in WEB else workload.size
    if CONTENDERS[contender].program == "floor":
        traffic = f"http:{size}" if workload.work in WEB else "echo"
        return [str(program("floor")), workload.transport, traffic]
    task = {"server": class_for(contender, workload), "transport": workload.transport,
            "work": workload.work, "size": size, "workers": workload.workers,
            "path": path if workload.transport.startswith("unix") else None}
    return [python, "-P", "-m", "bench.contenders.serve", contender, json.dumps(task)]


def class_for(contender, workload):
    """The stdlib, patched or not, runs its nearest class where it lacks the workload's."""
    stands_in = contender in ("stdlib", "patched") and workload.stand_in
    return workload.stand_in if stands_in else workload.server
