"""Every block of README.md and docs/ is tested; the programs here: they run and answer a client."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = Path(__file__).parent / "run.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
if not RUN.exists() or not all(page.exists() for page in PAGES) or len(PAGES) == 1:
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)


# Where the blocks of a language, or of one page in it, are tested, or else why they are not.
TESTED_BY = {
    "python": "test_program_runs",
    "sh": "test_commands.py",
    "dockerfile deploying.md": "test_configurations.py",
    "haproxy machines.md": "tests/network/test_machines.py",
    "ini deploying.md": "test_configurations.py",
    "ini recipes.md": "test_configurations.py",
    "nginx machines.md": "tests/network/test_machines.py",
    "nginx recipes.md": "test_configurations.py",
    "text inside.md": "drawings; .ci/rooms makes the first",
    "text sizing.md": "test_arithmetic_of_the_sizing_page",
    "yaml machines.md": "test_configurations.py",
    "yaml serving.md": "test_configurations.py",
}


def blocks():
    """Each fenced block: its page, its line, its language and its text."""
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^ *```(.*)\n((?:.*\n)*?) *```$", text, re.MULTILINE):
            line = text.count("\n", 0, block.start(2)) + 1
            yield page.name, line, block[1], block[2]


def test_every_block_is_tested():
    kinds = {language if language in TESTED_BY else f"{language} {page}"
             for page, _, language, _ in blocks()}
    assert kinds == set(TESTED_BY)


def test_no_block_swallows_another_one():
    assert [place for *place, text in blocks() if "```" in text] == []


def test_lines_of_blocks_fit_into_a_window_of_800_pixels():
    lines = [(page, line) for page, _, language, text in blocks() if language != "sh"
             for line in text.splitlines()]  # commands wrap
    assert [(page, line) for page, line in lines if len(line) > 84] == []


def programs():
    """Each block of Python, named by its page and its line."""
    for page, line, language, text in blocks():
        if language == "python":
            yield pytest.param(text, id=f"{page}:{line}", marks=missing(text))


def has_greenlets():
    """Whether greenlet servers work here."""
    try:
        importlib.import_module("socketserver_fast.green")
    except ImportError:
        return False
    return True


NEEDED = {
    "Unix": hasattr(socket, "AF_UNIX"),
    "Prefork": hasattr(os, "fork"),
    "Greenlet": has_greenlets(),
    "prometheus_client": importlib.util.find_spec("prometheus_client") is not None,
}


def missing(program):
    """A mark that skips a program for which this system has not what it needs."""
    needs = [word for word, there in NEEDED.items() if word in program and not there]
    return [pytest.mark.skip(reason=f"without {' and '.join(needs)}")] if needs else []


def run(program, folder):
    """Run it to its end in an empty folder; return what it printed."""
    path = folder / "program.py"
    path.write_text(program)
    child = subprocess.run(
        [sys.executable, RUN, path], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert child.returncode == 0, child.stderr
    assert "Traceback" not in child.stderr
    return child.stdout


@pytest.mark.parametrize("program", list(programs()))
def test_program_runs(program, tmp_path):
    printed = run(program, tmp_path)
    serves = re.search(r"^    (server|socketserver_fast)\.serve_", program, re.MULTILINE)
    assert bool(serves) == ("answer: b" in printed)
    assert "answer: b''" not in printed


AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, sys.argv[2]])
"""


@pytest.mark.skipif(os.name != "posix", reason="systemd")
def test_program_for_systemd_takes_the_socket_that_is_passed(tmp_path):
    path = tmp_path / "program.py"
    blocks = (program.values[0] for program in programs())
    path.write_text(next(block for block in blocks if "systemd.open_server" in block))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD_DOES, str(listener.fileno()), path],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
        )
        with child:
            try:
                with socket.create_connection(listener.getsockname(), 30) as client:
                    client.sendall(b"hello\n")
                    assert client.recv(10) == b"hello\n"
                child.terminate()
                assert child.communicate(timeout=30) == (None, b"")
            finally:
                child.kill()
        assert child.returncode == 0


@pytest.mark.parametrize("place", [0, 1])
def test_arithmetic_of_the_sizing_page(place, tmp_path):
    text = (ROOT / "docs" / "sizing.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[place]
    assert run(program, tmp_path) == re.findall(
        r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[place]
