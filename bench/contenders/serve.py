"""Run one contender as a server: `python -m bench.contenders.serve TASK`, TASK in JSON.

Prints "listening", or why it is not available, and serves until it is ended.
"""

import importlib
import json
import resource
import signal
import sys
import types

from bench.contenders import CONTENDERS

LONGEST_LIFE = 3600  # seconds; should the runner die, the server ends by itself


def announce():
    """Tell the runner that the server listens."""
    print("listening", flush=True)


def allow_descriptors():
    """As many as the system lets this process hold: a connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(task):
    """Serve, or say that the contender is not available."""
    task = types.SimpleNamespace(**json.loads(task))
    task.address = tuple(task.address)
    signal.alarm(LONGEST_LIFE)
    allow_descriptors()
    module, _, function = CONTENDERS[task.contender].program.partition(":")
    try:
        serve = getattr(importlib.import_module(f"bench.contenders.{module}"), function)
        serve(task, announce)
    except ImportError as missing:
        print(missing, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
