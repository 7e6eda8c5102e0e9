"""Compile the load generator and the floor, when their sources are newer than they are."""

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
    """Something is not installed; the text says what."""


def compiled(name):
    """The path of the program of that name, compiled now if it has to be."""
    path = BUILD / name
    newest = max(file.stat().st_mtime for file in NATIVE.iterdir())
    if not path.exists() or path.stat().st_mtime < newest:
        compile_program(name, path)
    return path


def compile_program(name, path, flags=()):
    """Compile into a file of its own first: another run may be using the old program."""
    BUILD.mkdir(exist_ok=True)
    fresh = path.with_name(f"{name}.{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-O2", "-std=gnu11", *flags, *ARGUMENTS[name], "-o", fresh]
    try:
        done = subprocess.run(command, cwd=NATIVE, capture_output=True, text=True)
    except OSError as error:
        raise NotAvailable(f"cannot run the C compiler {compiler[0]!r}: {error}") from error
    if done.returncode:
        raise NotAvailable(f"{shlex.join(map(str, command))}\n{done.stderr}")
    fresh.rename(path)
