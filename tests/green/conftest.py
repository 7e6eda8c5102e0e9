"""Fixtures that the tests of greenlets share."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def run_script(tmp_path):
    """`run_script(text, *arguments)` runs a program in a process of its own: its output."""

    def run(text, *arguments):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        done = subprocess.run([sys.executable, "-X", "dev", str(path), *arguments],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
