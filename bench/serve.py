"""Run one contender as a server: `python -m bench.serve CONTENDER CLASS TRANSPORT WORK [PATH]`.

It prints one line of JSON, its address or why it is not available, and serves until it is ended.
"""

import dataclasses
import importlib
import json
import signal
import sys

from bench.contenders import CONTENDERS, Unavailable

LONGEST_LIFE = 600  # seconds; should the runner die, the server ends by itself


@dataclasses.dataclass(frozen=True)
class Task:
    """What the server shall be: see workloads.Workload."""

    server: str
    transport: str
    work: str
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


def main(name, *task):
    """Serve, or say that the contender is not available."""
    if hasattr(signal, "alarm"):
        signal.alarm(LONGEST_LIFE)
    module, _, function = CONTENDERS[name].program.partition(":")
    try:
        serve = getattr(importlib.import_module(f"bench.contenders.{module}"), function)
        serve(Task(*task), announce)
    except (ImportError, Unavailable) as missing:
        print(json.dumps({"unavailable": str(missing)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
