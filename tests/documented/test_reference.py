"""The reference shows every public name, each of which says what it is; links lead somewhere."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import socketserver_fast
from socketserver_fast._cli import command_line

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
if not all(page.exists() for page in PAGES) or len(PAGES) == 1:
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)


def links():
    """Each link to a file, with its page."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
            yield page, target


def test_links_lead_to_files():
    everything = (ROOT / ".github").is_dir()  # else a wheel is tested, with these pages beside it
    places = [(page, (page.parent / target).resolve()) for page, target in links() if target]
    assert [(page.name, place) for page, place in places if not place.exists()
            and (everything or place.is_relative_to(ROOT / "docs"))] == []


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
try:
    GREEN = [importlib.import_module("socketserver_fast.green")]
except ImportError:  # there are no greenlet servers here
    GREEN = []


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


def test_every_option_is_explained():
    page = (ROOT / "docs" / "serving.md").read_text()
    options = re.findall(r"--[a-z-]+", command_line.command_line().format_help())
    assert sorted(option for option in options if option not in page and option != "--help") == []
