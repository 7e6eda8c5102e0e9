"""Compile the load generator and the floor servers, when their sources are newer than they are."""

import os
import shlex
import subprocess
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
BUILD = Path(__file__).parent / "build"
SOURCES = {
    "load": ["load.c", "run.c", "stream.c", "script.c", "dial.c", "packets.c", "poller.c", "cpu.c"],
    "floor": ["floor.c", "run.c", "poller.c", "cpu.c"],
}


class BuildError(Exception):
    """There is no C compiler, or it refused; the text says which."""


def program(name):
    """The path of the program `name` ("load" or "floor"), compiled now if it has to be."""
    path = BUILD / name
    if not path.exists() or path.stat().st_mtime < newest_source():
        compile_program(name, path)
    return path


def newest_source():
    """When a source or a header was changed last."""
    return max(file.stat().st_mtime for file in NATIVE.iterdir())


def compile_program(name, path):
    """Compile into a file of its own first: another run may be using the old program."""
    BUILD.mkdir(exist_ok=True)
    fresh = path.with_name(f"{name}.{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-O2", "-std=gnu11", "-pthread", "-o", str(fresh)]
    command += [str(NATIVE / source) for source in SOURCES[name]]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"cannot run the C compiler {compiler[0]!r}: {error}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr}")
    fresh.rename(path)
