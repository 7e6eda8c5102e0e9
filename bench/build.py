"""Compiles the load generator and the floor when their sources have changed."""

import os
import shlex
import subprocess
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
BUILD = Path(__file__).parent / "build"
LOAD = ["load.c", "run.c", "stream.c", "packets.c"]
ARGUMENTS = {
    "floor": ["floor.c"],
    "load": LOAD,
    "load_tls": [*LOAD, "-DBENCH_TLS", "-lssl", "-lcrypto"],
}


class NotAvailable(Exception):
    """Raised when something is not installed; the text says what."""


def compiled(name):
    """Return the path of a program, compiled now if it has to be."""
    path = BUILD / name
    newest = max(file.stat().st_mtime for file in NATIVE.iterdir())
    if path.exists() and path.stat().st_mtime >= newest:
        return path
    BUILD.mkdir(exist_ok=True)
    fresh = path.with_name(f"{name}.{os.getpid()}")  # another run may be using the old program
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-O2", "-std=gnu11", *ARGUMENTS[name], "-o", fresh]
    try:
        done = subprocess.run(command, cwd=NATIVE, capture_output=True, text=True)
    except OSError as error:
        raise NotAvailable(f"cannot run the C compiler {compiler[0]!r}: {error}") from error
    if done.returncode:
        raise NotAvailable(f"{shlex.join(map(str, command))}\n{done.stderr}")
    return fresh.rename(path)
