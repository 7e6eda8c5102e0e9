"""The gate: it must catch a slowdown and must pass what did not change."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import socketserver_fast
from bench import gate

PACKAGE = Path(socketserver_fast.__file__).parent
SETUP = "    handler.connection = connection = handler.request\n"
pytestmark = pytest.mark.timeout(600)  # callgrind is slow


@pytest.fixture
def run_gate(tmp_path):
    """Run the gate on a copy of the package in which the code stands in setup(); status, output."""

    def run(code, *options):
        shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("*.c"))
        text = (changed := tmp_path / PACKAGE.name / "handlers.py").read_text()
        assert SETUP in text
        changed.write_text(text.replace(SETUP, SETUP + code, 1))
        done = subprocess.run(
            [sys.executable, "-m", "bench.gate", "--base", PACKAGE.parent, "--head", tmp_path,
             "--pieces", "handler", *options],
            cwd=gate.ROOT, capture_output=True, text=True, timeout=590,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is missing")
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
@pytest.mark.parametrize(("code", "left_out", "status", "words"), [
    ("", "syscalls", 0, "not slower"),
    ("    for _ in range(30): pass\n", "syscalls", 1, "slower: instructions of handler"),
    ("    raise OSError('broken')\n", "syscalls", gate.BROKEN, "broken"),
    ("    connection.getsockname()\n", "instructions", 1, "slower: syscalls of tcp_close_1"),
])
def test_what_is_slower_is_caught(run_gate, code, left_out, status, words):
    found, output = run_gate(code, f"--no-{left_out}")
    assert found == status, output
    assert words in output


def test_an_unknown_revision_is_said(capsys):
    assert gate.main(["--base", "no-such-revision"]) == gate.BROKEN
    assert "no-such-revision" in capsys.readouterr().err
