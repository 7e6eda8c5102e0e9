"""Every Python program in README.md and docs/ runs, and what it serves answers a client."""

import importlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import socketserver_fast

ROOT = Path(__file__).parent.parent
RUN = Path(__file__).parent / "documented" / "run.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
if not RUN.exists() or not all(page.exists() for page in PAGES) or len(PAGES) == 1:
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)


def programs():
    """Each block of Python, named by its page and its line."""
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            name = f"{page.name}:{text.count(chr(10), 0, block.start()) + 2}"
            yield pytest.param(block[1], id=name, marks=missing(block[1]))


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
}


def missing(program):
    """A mark that skips a program for which this system has not what it needs."""
    needs = [word for word, there in NEEDED.items() if word in program and not there]
    return [pytest.mark.skip(reason=f"without {' and '.join(needs)} servers")] if needs else []


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
    assert ("    server.serve_" in program) == ("answer: b" in printed)
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


def links():
    """Each link to a file, with its page."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
            yield page, target


def test_links_lead_to_files():
    source_tree = (ROOT / "socketserver_fast").is_dir() and (ROOT / "bench").is_dir()
    lost = [
        (page.name, target)
        for page, target in links()
        if target and not (page.parent / target).exists()
        and (source_tree or not re.search("bench|socketserver_fast", target))
    ]  # fmt: skip
    assert lost == []


def public_names(holder):
    """What a module or class offers, each with what is public in it if it is a class."""
    for name in holder.__all__:
        value = getattr(holder, name)
        yield name
        if isinstance(value, type):
            yield from (attribute for attribute in vars(value) if not attribute.startswith("_"))


def test_reference_has_every_public_name():
    reference = (ROOT / "docs" / "api.md").read_text()
    names = set(public_names(socketserver_fast))
    if has_greenlets():
        names |= set(public_names(importlib.import_module("socketserver_fast.green")))
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", reference)) == []


@pytest.mark.parametrize(
    "name", ["limits", "metrics", "proxy_protocol", "statistics", "systemd", "tls"]
)
def test_reference_has_every_name_of_the_modules(name):
    module = importlib.import_module(f"socketserver_fast.{name}")
    reference = (ROOT / "docs" / "api.md").read_text()
    section = reference.partition(f"socketserver_fast.{name}")[2].partition("\n## ")[0]
    names = public_names(module)
    hooks = {*vars(socketserver_fast.BaseServer), "handle_one_request", "collect", "describe"}
    assert [word for word in names if word not in hooks and f"`{word}" not in section] == []


def test_reference_has_every_setting_and_option():
    reference = (ROOT / "docs" / "api.md").read_text()
    settings = {name for _, names in socketserver_fast.patching.models.values() for name in names}
    words = {*settings, *socketserver_fast.patching.models, "--threads", "--version", "-m MODULE"}
    assert sorted(word for word in words if word not in reference) == []
