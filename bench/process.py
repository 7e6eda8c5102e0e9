"""Runs a contender's server on one processor, and the load on another."""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.build import NotAvailable, compiled
from bench.contenders import CONTENDERS

ROOT = Path(__file__).parent.parent
START_WITHIN = 20  # seconds from start to the address
STOP_WITHIN = 5
MOST_OUTPUT = 2000  # characters
LOST_PACKETS_ALLOWED = 0.001  # of the operations; other errors are not allowed


class Failed(Exception):
    """Raised when a contender did not start, died, or answered wrongly, with its output."""


def processors():
    """Return a processor for the server and one for the load; none where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[:2] if len(usable) > 1 else []


def allow_descriptors():
    """Raise the limit of descriptors, of this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def environment(first):
    """Return the environment in which a server imports the package from `first`, then bench."""
    path = os.pathsep.join([*([str(first)] if first else []), str(ROOT)])
    return dict(os.environ, PYTHONPATH=path, PYTHONHASHSEED="0")


class Server:
    """Runs a contender that listens at `server.address`: `with Server(...) as server:`."""

    def __init__(self, contender, workload, python=sys.executable, path=None):
        """Prepare it; `path`, a folder with a build of the package, is imported from first."""
        allow_descriptors()
        self.workload = workload
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        port = free_port()
        self.address = f"{workload.transport}:127.0.0.1:{port}"
        self.command = command_of(contender, workload, python, port)
        self.environment = environment(path)
        self.wait = self.hear if "bench.contenders.serve" in self.command else self.knock
        self.process = None

    def __enter__(self):
        try:
            self.process = self.start()
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Start it in a session of its own, which Ctrl-C does not reach."""
        cpus = processors()[:1] or os.sched_getaffinity(0)
        try:
            return subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=self.errors, env=self.environment, start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus))
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

    def hear(self):
        """Wait for the line that says that the server listens, or why it does not."""
        ready, _, _ = select.select([self.process.stdout], [], [], START_WITHIN)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line:
            raise Failed(f"did not start: {self.output()}")
        if not line.startswith("listening"):
            raise NotAvailable(line.strip())

    def knock(self):
        """Wait until a server that says nothing accepts a connection."""
        until = time.monotonic() + START_WITHIN
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                return socket.create_connection(self.address.split(":")[1:], 1).close()
            time.sleep(0.02)
        kind = NotAvailable if "No module named" in self.output() else Failed
        raise kind(f"did not start: {self.output()}")

    def output(self):
        """Return the end of what the server wrote to stderr."""
        self.errors.seek(max(self.errors.seek(0, os.SEEK_END) - MOST_OUTPUT, 0))
        return self.errors.read().decode(errors="replace").strip() or "no output"

    def load_command(self, options):
        """Return the command line of the load generator."""
        generator = compiled("load_tls" if self.workload.transport == "tls" else "load")
        cpus = processors()
        pin = ["--cpu", str(cpus[1])] if cpus else []
        watch = ["--server", str(self.process.pid)]
        sizes = ["--request", str(len(self.workload.request)),
                 "--answer", str(len(self.workload.answer))] if self.workload.request else []
        return [str(generator), self.address, *self.workload.load, *sizes, *pin, *watch, *options]

    def run_load(self, options):
        """Return the load generator's report; Failed unless every answer came and was right."""
        spoken = self.workload.request + self.workload.answer
        done = subprocess.run(self.load_command(options), input=spoken, capture_output=True)
        if (status := self.process.poll()) is not None:
            raise Failed(f"died with status {status}: {self.output()}")
        if done.returncode:
            raise Failed(f"the load ended with status {done.returncode}: {done.stderr.decode()}")
        run = json.loads(done.stdout)
        errors = {kind: count for kind, count in run["errors"].items() if count}
        if errors.get("lost", 0) <= LOST_PACKETS_ALLOWED * run["started"]:
            errors.pop("lost", None)
        if errors:
            counts = ", ".join(f"{kind} {count}" for kind, count in errors.items())
            raise Failed(f"errors: {counts}; {self.output()}")
        return run


def free_port():
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def command_of(contender, workload, python, port):
    """Return the command line of a contender's server that listens at that port."""
    program = CONTENDERS[contender].program
    if isinstance(program, list):
        app = "bench.web:application"
        return [python, "-P", *(argument.format(port=port, app=app) for argument in program)]
    return [python, "-P", "-m", "bench.contenders.serve", contender, workload.name, str(port)]
