"""The gate: it must catch a slowdown and must pass what did not change."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import socketserver_fast

ROOT = Path(__file__).parents[2]
if not (ROOT / "bench").is_dir() or not hasattr(os, "fork"):
    pytest.skip("bench needs a source checkout on a POSIX system", allow_module_level=True)
pytest.importorskip("psutil")
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested

from bench.gate import judge  # noqa: E402
from bench.process import Failed  # noqa: E402

PACKAGE = Path(socketserver_fast.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is missing")
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")


def copy_of_package(folder):
    """A build of the package: its Python files and this Python's extension modules."""
    for pattern in ("*.py", "*.pyx", "*.pxd", "*.h", f"*{SUFFIX}"):
        for file in PACKAGE.rglob(pattern):
            target = folder / file.relative_to(PACKAGE.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder


@pytest.fixture
def base(tmp_path):
    """A build of the package as it is."""
    return copy_of_package(tmp_path / "base")


@pytest.fixture
def head(tmp_path):
    """Another one, to be made slower."""
    return copy_of_package(tmp_path / "head")


def plant(folder, file, old, new):
    """Change a line of a build."""
    path = folder / "socketserver_fast" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def plant_in_compiled(folder, module, function, turns):
    """Let a compiled function begin with so many turns of an empty loop."""
    start = re.compile(rf"^( *)c?def [^\n]*\b{function}\([^\n]*:\n(?: +\"\"\".*?\"\"\"\n)?",
                       re.DOTALL | re.MULTILINE)
    loop = rf"\1    cdef volatile int turns = 0\n\1    while turns < {turns}: turns += 1\n"
    path = folder.joinpath("socketserver_fast", *module.split(".")).with_suffix(".pyx")
    text, planted = start.subn(r"\g<0>" + loop, path.read_text())
    assert planted == 1, f"{module} has {planted} functions called {function}: plant elsewhere"
    path.write_text(text)


BUILD_ONE = """
import runpy, sys
import Cython.Build
module, cythonize = sys.argv.pop(1), Cython.Build.cythonize
Cython.Build.cythonize = lambda extensions, nthreads, **options: cythonize(
    [one for one in extensions if one.name.endswith("." + module)], **options)
runpy.run_path("setup.py", run_name="__main__")
"""


def build(folder, module):
    """Compile one module of a copy as setup.py does."""
    shutil.copy(ROOT / "setup.py", folder)
    done = subprocess.run(
        [sys.executable, "-c", BUILD_ONE, module, "build_ext", "--inplace", "--force"],
        cwd=folder, capture_output=True, text=True, timeout=500,
    )
    assert done.returncode == 0, done.stderr


def gate(base, head, *options):
    """Run the gate as CI does; its exit status and its output."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.gate", "--base", base, "--head", head, *options],
        cwd=ROOT, capture_output=True, text=True, timeout=590,
    )
    return done.returncode, done.stdout + done.stderr


COUNTS_ONLY = ["--rounds", "0", "--no-syscalls", "--pieces", "readline,handler"]
pytestmark = pytest.mark.timeout(600)  # callgrind is slow, and slower beside other work


@needs_valgrind
def test_no_change_passes(base, head):
    status, output = gate(base, head, *COUNTS_ONLY)
    assert status == 0, output
    assert "instructions of readline" in output
    assert "SLOWER" not in output


@needs_valgrind
@pytest.mark.parametrize(("module", "function", "piece", "turns"), [
    ("_sockets.reader", "readline", "readline", 20),
    ("_serving.dispatch", "dispatch", "loop", 160),
])
def test_a_compiled_function_slower_by_15_percent_is_caught(
    base, head, module, function, piece, turns
):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    plant_in_compiled(head, module, function, turns)
    build(head, module)
    status, output = gate(base, head, "--rounds", "0", "--no-syscalls", "--pieces", piece)
    assert status == 1, output
    assert f"slower: instructions of {piece}\n" in output
    change = float(re.search(rf"instructions of {piece} .*?([-+][\d.]+)%", output).group(1))
    assert 8 < change < 25, output


@needs_valgrind
def test_a_slower_handler_is_caught(base, head):
    plant(head, "handlers.py", "    handler.connection = connection = handler.request\n",
          "    handler.connection = connection = handler.request\n"
          "    for _ in range(30): pass\n")
    status, output = gate(base, head, *COUNTS_ONLY)
    assert status == 1, output
    assert "slower: instructions of handler\n" in output


def test_blocks_left_behind_are_caught(base, head):
    plant(head, "handlers.py", "    handler.connection = connection = handler.request\n",
          "    handler.connection = connection = handler.request\n"
          "    kept.append(object())\n")
    plant(head, "handlers.py", "class BaseRequestHandler:", "kept = []\nclass BaseRequestHandler:")
    status, output = gate(base, head, *COUNTS_ONLY, "--no-instructions")
    assert status == 1, output
    assert "slower: blocks left by 1000 x handler\n" in output


@needs_strace
def test_one_more_system_call_is_caught(base, head):
    plant(head, "handlers.py", "    handler.connection = connection = handler.request\n",
          "    handler.connection = connection = handler.request\n"
          "    connection.getsockname()\n")
    status, output = gate(base, head, "--rounds", "0", "--no-instructions")
    assert status == 1, output
    assert "slower: syscalls of tcp_close_1" in output


def test_what_cannot_be_measured_is_neither_fast_nor_slow(base, head):
    (head / "socketserver_fast" / "servers.py").write_text("raise ImportError('broken')\n")
    status, output = gate(base, head, *COUNTS_ONLY, "--no-instructions")
    assert status == 2, output
    assert "cannot compare" in output
    assert "broken" in output


def test_an_unknown_revision_is_said(base):
    status, output = gate(base, "no-such-revision", *COUNTS_ONLY, "--no-instructions")
    assert status == 2, output
    assert "no-such-revision" in output


STEADY = [0.50, 0.52, 0.48, 0.51, 0.50, 0.49, 0.50, 0.51]


def times(factors):
    return [value * factor for value, factor in zip(STEADY, factors, strict=True)]


@pytest.mark.parametrize(("factors", "worse"), [
    ([1.0] * 8, False),
    ([1.15] * 8, True),
    ([1.09] * 8, False),
    ([0.7] * 8, False),
    ([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0], False),  # a neighbour came late
    ([1.3, 0.8, 1.3, 0.8, 1.3, 0.8, 1.3, 1.3], False),  # a noisy machine
    ([1.15, 1.2, 1.1, 0.9, 1.15, 1.15, 1.2, 1.1], True),  # one round does not save it
])
def test_judging_cpu_times(factors, worse):
    assert judge.judge_time("CPU time of x", STEADY, times(factors)).worse is worse


def test_judging_counts():
    assert not judge.judge_count("instructions of x", 1000, 1034).worse
    assert judge.judge_count("instructions of x", 1000, 1036).worse
    assert not judge.judge_count("instructions of x", 1000, 500).worse
    assert judge.judge_count("blocks left by x", 0, 4).worse
    assert judge.judge_count("syscalls of x", 2.0, 2.5).worse


def test_a_figure_that_only_base_has_is_not_passed_over():
    with pytest.raises(Failed, match="head has no syscalls of x"):
        judge.judge_counts({"syscalls of x": 2.0}, {})


def test_only_what_is_slower_twice_is_slower():
    slow = judge.judge_time("CPU time of x", STEADY, times([1.2] * 8))
    fine = judge.judge_time("CPU time of x", STEADY, STEADY)
    confirmed = [judge.confirmed([one], [two])[0].worse
                 for one in (slow, fine) for two in (slow, fine)]
    assert confirmed == [True, False, False, False]


def test_the_table_shows_what_is_slower():
    verdicts = judge.judge_counts({"syscalls of x": 2.0, "syscalls of y": 2.0},
                                  {"syscalls of x": 4.0, "syscalls of y": 2.0})
    rows = judge.markdown(verdicts).splitlines()[2:]
    assert ["SLOWER" in row for row in rows] == [True, False]
    assert "+100.0%" in rows[0]
