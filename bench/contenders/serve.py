"""Run one contender as a server: `python -m bench.contenders.serve CONTENDER WORKLOAD PORT`.

Prints "listening", or why it is not available, and serves until it is ended.
"""

import importlib
import signal
import sys
import types

from bench import workloads
from bench.contenders import CONTENDERS

LONGEST_LIFE = 3600  # seconds; should the runner die, the server ends by itself


def announce():
    """Tell the runner that the server listens."""
    print("listening", flush=True)


def main(contender, name, port):
    """Serve, or say that the contender is not available."""
    signal.alarm(LONGEST_LIFE)
    task = types.SimpleNamespace(**vars(workloads.find(name)), contender=contender,
                                 address=("127.0.0.1", int(port)))
    if contender in ("stdlib", "patched") and task.stand_in:
        task.server = task.stand_in
    module, _, function = CONTENDERS[contender].program.partition(":")
    try:
        serve = getattr(importlib.import_module(f"bench.contenders.{module}"), function)
        serve(task, announce)
    except ImportError as missing:
        print(missing, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
