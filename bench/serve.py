"""Run one contender as a server, as bench.process starts it.

    python -m bench.serve CONTENDER CLASS TRANSPORT WORK SIZE WORKERS [PATH]

It prints one line of JSON, its address or why it is not available, and serves until it is ended.
"""

import contextlib
import dataclasses
import importlib
import json
import resource
import signal
import sys

from bench.contenders import CONTENDERS, Unavailable, why_unavailable

LONGEST_LIFE = 600  # seconds; should the runner die, the server ends by itself


@dataclasses.dataclass(frozen=True)
class Task:
    """What the server shall be: see workloads.Workload."""

    server: str
    transport: str
    work: str
    size: int  # bytes of a file
    workers: int  # of a pool, at most
    path: str | None = None

    @property
    def address(self):
        """Where to listen."""
        return self.path or ("127.0.0.1", 0)


def announce(transport, address):
    """Tell the runner that connections are taken at this address from now on."""
    if isinstance(address, tuple):
        address = "{}:{}".format(*address[:2])
    print(json.dumps({"address": f"{transport}:{address}"}), flush=True)


def allow_descriptors():
    """As many as the system lets this process hold: a connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(name, server, transport, work, size, workers, *path):
    """Serve, or say that the contender is not available."""
    if hasattr(signal, "alarm"):
        signal.alarm(LONGEST_LIFE)
    allow_descriptors()
    module, _, function = CONTENDERS[name].program.partition(":")
    try:
        serve = getattr(importlib.import_module(f"bench.contenders.{module}"), function)
        serve(Task(server, transport, work, int(size), int(workers), *path), announce)
    except (ImportError, Unavailable) as missing:
        print(json.dumps({"unavailable": why_unavailable(missing)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
