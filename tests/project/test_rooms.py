"""Imports go one way: from the public modules down through the rooms below them."""

import re
import runpy
from pathlib import Path

import pytest

import socketserver_fast

PACKAGE = Path(socketserver_fast.__file__).parent
SOURCES = sorted(
    path for path in PACKAGE.rglob("*.p*")
    # _cli/child has no modules of the package, but what its child processes import before it.
    if path.suffix in {".py", ".pyx", ".pxd"} and path.parent.name != "child"
)

if not any(path.suffix == ".pyx" for path in SOURCES):
    pytest.skip("not in a source checkout", allow_module_level=True)

# Each room and what it may import beside itself.
BELOW = {
    "_sockets": set(),
    "_serving": {"_sockets"},
    "_pool": {"_serving", "_sockets"},
    "_green": {"_serving", "_sockets"},
    "_prefork": {"_serving", "_sockets"},
    "_http": {"_serving", "_sockets"},
    # patch(), which takes its methods from the public classes.
    "_patching": {"_serving", "green", "mixins", "pool"},
    # The command `serve`, which uses the package as programs do.
    "_cli": {"_serving", "handlers", "metrics", "servers"},
}

IMPORT = re.compile(
    r"^\s*(?:from socketserver_fast(?P<module>[.\w]*) c?import (?P<names>\([^)]*\)|[^\n#]+)"
    r"|c?import socketserver_fast(?P<dotted>[.\w]*))",
    re.MULTILINE,
)


def imported(path):
    """Yield what a source file imports of the package, without the package's own name."""
    for match in IMPORT.finditer(path.read_text()):
        module = (match["module"] or match["dotted"] or "").lstrip(".")
        names = re.findall(r"\w+", match["names"] or "")
        if names and (PACKAGE / module.replace(".", "/")).is_dir():  # modules of a folder
            yield from (f"{module}.{name}".lstrip(".") for name in names)
        else:
            yield module or "(the package)"


def room_of(path):
    """Return the room of a source file; None for a public module."""
    return path.parent.name if path.parent != PACKAGE else None


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(BELOW)


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p)],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_itself_and_below(path):
    room = room_of(path)
    allowed = BELOW[room] | {room}
    assert [name for name in imported(path) if name.partition(".")[0] not in allowed] == []


def test_the_imports_are_found():
    """The test above cannot pass because it looks at nothing."""
    found = {(room_of(path), name.partition(".")[0]) for path in SOURCES for name in imported(path)}
    assert {(room, below) for room, rooms in BELOW.items() for below in rooms} - found == set()


def test_modules_in_a_room_do_not_import_each_other_in_a_circle():
    graph = {}
    for path in SOURCES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        graph.setdefault(name, set()).update(imported(path))
    seen = set()

    def visit(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in seen:
            for below in graph.get(name, ()):
                visit(below, [*way, name])
            seen.add(name)

    for name in graph:
        if room_of(PACKAGE / Path(*name.split("."))):
            visit(name, [])


def test_one_module_knows_the_names_of_the_flags():
    knowing = [path for path in SOURCES if "_BaseServer__" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in knowing] == ["_serving/serving.pyx"]


def test_system_calls_that_wait_are_in_known_places():
    """Elsewhere no compiled function lets go of the GIL, or blocks without it."""
    waiting = {str(path.relative_to(PACKAGE)) for path in SOURCES
               if re.search(r"\bwith nogil\b|\bPyEval_SaveThread\b", path.read_text())}
    assert waiting == {
        "_sockets/wait.pyx",  # accepts, reads, sends and polls
        "_green/hub.pyx",     # polls for all greenlets of a thread
        "_http/kernel.pyx",   # sends a part of a file
    }


def test_the_page_shows_the_rooms_as_they_are():
    root = Path(__file__).parents[2]
    script = root / ".ci" / "rooms"
    if not script.exists():
        pytest.skip("not in a source checkout")
    rooms = runpy.run_path(str(script))
    assert rooms["BLOCK"].search(rooms["PAGE"].read_text())[0] == rooms["picture"](), (
        "docs/inside.md is out of date: run .ci/rooms --write")
