"""The two processes of a run: a contender's server on one processor, the load on another."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.build import NotAvailable as NotAvailable
from bench.build import compiled
from bench.contenders import CONTENDERS
from bench.workloads import WEB

ROOT = Path(__file__).parent.parent
START_WITHIN = 20  # seconds from start to the address
STOP_WITHIN = 5
MOST_OUTPUT = 2000  # characters
LOST_PACKETS_ALLOWED = 0.001  # of the operations; other errors are not allowed


class Failed(Exception):
    """The contender did not start, died, or answered wrongly; the text has its output."""


def processors():
    """One processor for the server and another for the load; none where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[:2] if len(usable) > 1 else []


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
        """In a session of its own: Ctrl-C is the runner's business, and children are ended too."""
        mine, cpus = os.sched_getaffinity(0), processors()
        os.sched_setaffinity(0, cpus[:1] or mine)  # which children inherit
        try:
            return subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=self.errors, env=self.environment, start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"did not start: {error}") from None
        finally:
            os.sched_setaffinity(0, mine)

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
        """The command line of the load generator."""
        generator = compiled("load_tls" if self.workload.transport == "tls" else "load")
        cpus = processors()
        pin = ["--cpu", str(cpus[1])] if cpus else []
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
        """Put the load on the server; the load generator's report, or Failed unless all operations
        were answered, and rightly."""
        command = self.load_command(options)
        done = subprocess.run(command, capture_output=True, text=True)
        if (status := self.process.poll()) is not None:
            raise Failed(f"died with status {status}: {self.output()}")
        if done.returncode:
            raise Failed(f"the load ended with status {done.returncode}: {done.stderr.strip()}")
        run = json.loads(done.stdout)
        errors = dict(run["errors"])
        if errors.get("lost", 0) <= LOST_PACKETS_ALLOWED * run["started"]:
            errors.pop("lost", None)
        if errors:
            counts = ", ".join(f"{kind} {count}" for kind, count in errors.items())
            raise Failed(f"errors: {counts}; {self.output()}")
        return run


def free_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def command_of(contender, workload, python, port):
    """The command line of a contender's server, to listen at that port."""
    program = CONTENDERS[contender].program
    if isinstance(program, list):
        app = "bench.web:application"
        return [python, "-P", *(argument.format(port=port, app=app) for argument in program)]
    size = len(workload.answer) if workload.work in WEB else workload.size
    stands_in = contender in ("stdlib", "patched") and workload.stand_in
    task = {"contender": contender, "server": workload.stand_in if stands_in else workload.server,
            "transport": workload.transport, "work": workload.work, "size": size,
            "workers": workload.workers, "address": ("127.0.0.1", port)}
    return [python, "-P", "-m", "bench.contenders.serve", json.dumps(task)]
