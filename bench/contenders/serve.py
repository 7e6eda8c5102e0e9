"""Run one contender as a server: `python -m bench.contenders.serve CONTENDER TASK`, TASK in JSON.

Prints one line of JSON, its address or why it is not available, and serves until it is ended.
"""

import contextlib
import dataclasses
import importlib
import json
import resource
import signal
import sys

from bench.contenders import CONTENDERS, NOT_INSTALLED, Unavailable

LONGEST_LIFE = 600  # seconds; should the runner die, the server ends by itself


@dataclasses.dataclass(frozen=True)
class Task:
    """What the server shall be: see workloads.Workload."""

    contender: str
    server: str
    transport: str
    work: str
    size: int  # bytes of a file
    workers: int  # of a pool, at most
    path: str | None

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
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(contender, task):
    """Serve, or say that the contender is not available."""
    signal.alarm(LONGEST_LIFE)
    allow_descriptors()
    module, _, function = CONTENDERS[contender].program.partition(":")
    try:
        serve = getattr(importlib.import_module(f"bench.contenders.{module}"), function)
        serve(Task(contender, **json.loads(task)), announce)
    except Unavailable as missing:
        print(json.dumps({"unavailable": str(missing)}), flush=True)
    except ImportError as missing:
        print(json.dumps({"unavailable": f"{NOT_INSTALLED}{missing}"}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
