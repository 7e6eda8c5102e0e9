"""Every Python program in README.md and docs/ runs, and what it serves answers a client."""

import importlib.util
import inspect
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import socketserver_fast
from socketserver_fast._cli import command_line

ROOT = Path(__file__).parents[2]
RUN = Path(__file__).parent / "run.py"
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


def reference():
    """Each module of the reference and which of its names it shows; None: all of them."""
    text = (ROOT / "docs" / "reference.md").read_text()
    for block in re.finditer(r"^::: ([\w.]+)\n((?:    .*\n)*)", text, re.MULTILINE):
        members = re.search(r"members: \[(.*)\]", block[2])
        yield block[1], members and members[1].split(", ")


def offered():
    """The public names of the package, with what they stand for."""
    for module in [socketserver_fast, *NETWORK, *GREEN]:
        for name in module.__all__:
            yield name, getattr(module, name)


NETWORK = [
    importlib.import_module(f"socketserver_fast.{name}")
    for name in ("limits", "metrics", "proxy_protocol", "statistics", "systemd", "tls")
]
GREEN = [importlib.import_module("socketserver_fast.green")] if has_greenlets() else []


def is_ready_made(value):
    """A class that only combines others."""
    return isinstance(value, type) and len(value.__mro__) > 3 and not [
        name for name in vars(value) if not name.startswith("_")]


def test_reference_shows_every_public_name():
    shown = dict(reference())
    missing = [
        name for name, value in offered()
        if not is_ready_made(value) and value.__module__.partition("._")[0] == value.__module__
        and name not in (shown.get(value.__module__, []) or [name])
    ]
    assert missing == []
    assert {module for _, value in offered() if "._" not in (module := value.__module__)} - \
        set(shown) == set()


def described_attributes(cls):
    """The attributes that the source of a class has a comment on, behind them or above."""
    source = inspect.getsource(cls)
    behind = re.findall(r"^ +(\w+) = .*  # ", source, re.MULTILINE)
    return {*behind, *re.findall(r"^ +# .*\n +(\w+) = ", source, re.MULTILINE)}


def has_docstring(value):
    """Whether this is a method or a property that says what it is."""
    return (callable(value) or isinstance(value, property)) and bool(value.__doc__)


@pytest.mark.parametrize("cls", [c for _, c in offered() if isinstance(c, type)],
                         ids=lambda cls: cls.__name__)
def test_everything_public_says_what_it_is(cls):
    with_source = [one for one in cls.__mro__ if one.__module__ != "builtins"]
    described = set().union(*map(described_attributes, with_source))
    silent = [name for name, value in vars(cls).items()
              if not name.startswith("_") and name not in described and not has_docstring(value)]
    assert cls.__doc__
    assert silent == []


def commands():
    """Each command line of the documentation that serves, with its page."""
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if line.startswith("python -m socketserver_fast serve "):
                    yield pytest.param(line.split()[4:], id=f"{page.name}: {line[31:]}")


@pytest.mark.parametrize("arguments", list(commands()))
def test_command_is_understood(arguments):
    command_line.check(command_line.command_line().parse_args(arguments))


def test_every_option_is_explained():
    page = (ROOT / "docs" / "serving.md").read_text()
    options = re.findall(r"--[a-z-]+", command_line.command_line().format_help())
    assert sorted(option for option in options if option not in page and option != "--help") == []


@pytest.mark.parametrize("place", [0, 1])
def test_arithmetic_of_the_sizing_page(place, tmp_path):
    text = (ROOT / "docs" / "sizing.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[place]
    assert run(program, tmp_path) == re.findall(
        r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[place]
