"""The gate: it must catch a slowdown and must pass what did not change."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import socketserver_fast

pytest.importorskip("psutil")

from bench.gate import judge

ROOT = Path(__file__).parents[2]
PACKAGE = Path(socketserver_fast.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is missing")
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
COUNTS_ONLY = ["--rounds", "0", "--no-syscalls", "--pieces", "handler"]
SETUP = "    handler.connection = connection = handler.request\n"
pytestmark = pytest.mark.timeout(600)  # callgrind is slow, and slower beside other work


@pytest.fixture
def gate(tmp_path):
    """Run the gate as CI does, on a copy of the package in which the code stands in setup();
    its exit status and its output."""

    def run(code, *options, setup=SETUP):
        for pattern in ("*.py", f"*{SUFFIX}"):
            for file in PACKAGE.rglob(pattern):
                target = tmp_path / file.relative_to(PACKAGE.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        changed = tmp_path / "socketserver_fast" / "handlers.py"
        text = changed.read_text()
        assert setup in text
        changed.write_text(text.replace(setup, setup + code, 1))
        done = subprocess.run(
            [sys.executable, "-m", "bench.gate", "--base", PACKAGE.parent, "--head", tmp_path,
             *options], cwd=ROOT, capture_output=True, text=True, timeout=590,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@needs_valgrind
@pytest.mark.parametrize(("code", "found"), [
    ("", "not slower"),
    ("    for _ in range(30): pass\n", "slower: instructions of handler"),
])
def test_instructions_are_compared(gate, code, found):
    status, output = gate(code, *COUNTS_ONLY)
    assert status == (code != ""), output
    assert found in output


def test_blocks_left_behind_are_caught(gate):
    code = "    import builtins; vars(builtins).setdefault('kept', []).append(object())\n"
    status, output = gate(code, *COUNTS_ONLY, "--no-instructions")
    assert status == 1, output
    assert "slower: blocks left by 1000 x handler\n" in output


@needs_strace
def test_one_more_system_call_is_caught(gate):
    status, output = gate("    connection.getsockname()\n", "--rounds", "0", "--no-instructions",
                          "--pieces", "handler")
    assert status == 1, output
    assert "slower: syscalls of tcp_close_1" in output


def test_what_cannot_be_measured_is_neither_fast_nor_slow(gate):
    status, output = gate("raise ImportError('broken')\n", *COUNTS_ONLY, "--no-instructions",
                          setup="import socket\n")
    assert status == 2, output
    assert "broken" in output


def test_an_unknown_revision_is_said(gate):
    status, output = gate("", "--base", "no-such-revision")
    assert status == 2, output
    assert "no-such-revision" in output


STEADY = [0.50, 0.52, 0.48, 0.51, 0.50, 0.49, 0.50, 0.51]


def judged(factors):
    """The verdict on times that are so many times those of base, round by round."""
    head = [value * factor for value, factor in zip(STEADY, factors, strict=True)]
    return judge.judge_time("CPU time of x", STEADY, head)


@pytest.mark.parametrize(("factors", "worse"), [
    ([1.0] * 8, False),
    ([1.15] * 8, True),
    ([1.09] * 8, False),
    ([0.7] * 8, False),
    ([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0], False),  # a neighbour came late
    ([1.3, 0.8, 1.3, 0.8, 1.3, 0.8, 1.3, 1.3], False),  # a noisy machine
    ([1.15, 1.2, 1.1, 0.9, 1.15, 1.15, 1.2, 1.1], True),  # one round does not save it
])
def test_judging_times(factors, worse):
    assert judged(factors).worse is worse


def test_only_what_is_slower_twice_is_slower():
    slow, fine = judged([1.2] * 8), judged([1.0] * 8)
    confirmed = [judge.confirmed([one], [two])[0].worse
                 for one in (slow, fine) for two in (slow, fine)]
    assert confirmed == [True, False, False, False]


def test_judging_counts():
    assert not judge.judge_count("instructions of x", 1000, 1034).worse
    assert judge.judge_count("instructions of x", 1000, 1036).worse
    assert judge.judge_count("blocks left by x", 0, 4).worse
    assert judge.judge_count("syscalls of x", 2.0, 2.5).worse
