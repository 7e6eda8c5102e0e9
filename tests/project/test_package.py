"""The package as it is installed: its version, its compiled modules and what happens without them,
its typing files, and what importing it does and does not do."""

import ast
import importlib
import importlib.machinery
import importlib.metadata
import importlib.resources
import os
import pathlib
import socket
import socketserver as stdlib
import subprocess
import sys
import sysconfig
import tomllib

import pytest

import socketserver_fast
from socketserver_fast import servers
from socketserver_fast._patching.models import MODELS
from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader

# The compiled modules; those of the greenlet servers are loaded on demand.
PACKAGE = pathlib.Path(socketserver_fast.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
COMPILED = {
    str(path.relative_to(PACKAGE.parent)).removesuffix(SUFFIX).replace(os.sep, ".")
    for path in PACKAGE.rglob(f"*{SUFFIX}")
}
SHARED = "socketserver_fast._socketserver_shared"  # what Cython puts into all modules
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# What the package has and the running stdlib's __all__ has not: our own, and what 3.11 lacks.
ADDED = {"drain", "patch", "send_file", "serve_until_signal", "unpatch"}
ADDED |= {*socketserver_fast.pool.__all__}
if hasattr(socket, "AF_UNIX") and hasattr(stdlib, "ForkingMixIn"):
    ADDED |= {"ForkingUnixStreamServer", "ForkingUnixDatagramServer"}
    ADDED |= {"PreforkUnixStreamServer", "PreforkUnixDatagramServer"}
if hasattr(stdlib, "ForkingMixIn"):
    ADDED |= {"PreforkMixIn", "PreforkTCPServer", "PreforkUDPServer"}

# Names of the stdlib's module that are not public, and that programs use.
REACHED_FOR = [
    "socket", "selectors", "os", "sys", "threading", "time", "BufferedIOBase", "_ServerSelector",
    "_SocketWriter", "_Threads", "_NoThreads",
]  # fmt: skip


def python(source, *options):
    """Run the source in a new interpreter; return its exit status, output and errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    child = subprocess.run(
        [sys.executable, *options, "-c", source],
        capture_output=True,
        env=environment,
        text=True,
        timeout=60,
    )
    return child.returncode, child.stdout, child.stderr


LOADED = "import sys, socketserver_fast; print(*sys.modules)"
NAMES = sorted(COMPILED & set(python(LOADED)[1].split()))


def succeeds(source, *options):
    """Assert that the source runs, warns of nothing and prints nothing."""
    assert python(source, "-W", "error", *options) == (0, "", "")


# Version and files.


def test_version_is_the_one_of_the_metadata():
    version = importlib.metadata.version("socketserver_fast")
    child = subprocess.run(
        [sys.executable, "-m", "socketserver_fast", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.split()[:2] == ["socketserver_fast", version]


def test_version_is_written_in_one_place():
    project = pathlib.Path(__file__).parents[2] / "pyproject.toml"
    if not project.exists():
        pytest.skip("not in a source checkout")
    metadata = tomllib.loads(project.read_text())["project"]
    version = importlib.metadata.version("socketserver_fast")
    assert metadata.get("version", version) == version
    sources = [path for path in PACKAGE.rglob("*.py*") if "__pycache__" not in path.parts]
    assert [path.name for path in sources if f'"{version}"' in path.read_text()] == []


def test_typing_files_are_shipped():
    files = {path.name for path in importlib.resources.files("socketserver_fast").iterdir()}
    assert "py.typed" in files
    public = {path.stem for path in PACKAGE.glob("[!_]*.py")} | {"__init__"}
    assert {f"{name}.pyi" for name in public} - files == set()


def test_types_of_patch_know_every_setting():
    overloads = {}
    for function in ast.parse((PACKAGE / "patching.pyi").read_text()).body:
        if isinstance(function, ast.FunctionDef) and function.name == "patch":
            threads, *settings = function.args.kwonlyargs
            overloads[ast.unparse(threads.annotation)] = {argument.arg for argument in settings}
    expected = {f"Literal['{name}']": set(settings) for name, (_, settings) in MODELS.items()}
    assert overloads == {"None": set(), **expected}


def test_no_dependencies():
    required = importlib.metadata.requires("socketserver_fast") or []
    assert [line for line in required if "extra ==" not in line] == []


# Compiled modules.


def test_greenlet_modules_are_not_loaded():
    rooms = {name.split(".")[1] for name in NAMES}
    assert {"_sockets", "_serving", "_pool"} <= rooms
    assert "_green" in {name.split(".")[1] for name in COMPILED} - rooms


def test_every_compiled_module_has_its_source():
    """One that is left over would be loaded in the place of a Python module of its name."""
    sources = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
               for path in PACKAGE.rglob("*.pyx")}
    if not sources:
        pytest.skip("not in a source checkout")
    assert {*sources, SHARED} == COMPILED


@pytest.mark.parametrize("name", NAMES)
def test_module_is_loaded_from_a_compiled_file(name):
    module = importlib.import_module(name)
    assert isinstance(module.__loader__, importlib.machinery.ExtensionFileLoader)
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


@pytest.mark.skipif(not wait.native, reason="a portable build")
def test_compiled_paths_are_in_use():
    ours, peer = socket.socketpair()
    with ours, peer:
        handler = socketserver_fast.StreamRequestHandler(ours, None, None)
        assert type(handler.rfile) is SocketReader
        with pytest.raises(TypeError, match="immutable type"):
            SocketReader.readline = None


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{name}":
            raise {error}
sys.meta_path.insert(0, Blocker())
try:
    import socketserver_fast
except ImportError as error:
    assert type(error) is ImportError, type(error)
    assert "socketserver_fast" not in sys.modules
    print(error)
"""
BLOCKED_GREEN = BLOCKED.replace("    import socketserver_fast\n",
                                "    import socketserver_fast.green\n").replace(
    '    assert "socketserver_fast" not in sys.modules\n', "")
FAULTS = {
    "missing": "ModuleNotFoundError(f'No module named {name!r}', name=name)",
    "broken": "ImportError('undefined symbol: PyNoSuchFunction', name=name)",
    "of another build": "TypeError('C function has wrong signature')",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_compiled_module_one_import_error_says_what_to_run(name, fault):
    status, message, errors = python(BLOCKED.format(name=name, error=FAULTS[fault]))
    assert (status, errors) == (0, "")
    said = {"missing": name.rpartition(".")[2], "broken": "PyNoSuchFunction",
            "of another build": "wrong signature"}
    assert said[fault] in message
    assert "pip install" in message
    assert sys.executable in message


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", sorted(name for name in COMPILED if "._green." in name))
def test_greenlet_servers_without_a_compiled_module(name, fault):
    pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    status, message, errors = python(BLOCKED_GREEN.format(name=name, error=FAULTS[fault]))
    assert (status, errors) == (0, "")
    assert "pip install" in message
    assert sys.executable in message
    assert "socketserver" in message


# Importing.


def test_import_leaves_the_stdlib_alone():
    succeeds("""
import socketserver
def snapshot():
    classes = [value for value in vars(socketserver).values() if isinstance(value, type)]
    return [list(vars(holder).items()) for holder in [socketserver, *classes]]
before = snapshot()
import socketserver_fast
assert snapshot() == before
from socketserver_fast import *
assert snapshot() == before
""")


def test_import_starts_and_opens_nothing():
    succeeds("""
import os, signal, sys, threading
import socketserver
def state():
    fds = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return len(fds), handlers, threading.active_count(), sys.excepthook
before = state()
import socketserver_fast
assert state() == before
""")


def test_import_leaves_the_gil_off():
    if not FREE_THREADED:
        pytest.skip("only free-threaded builds can run without the GIL")
    succeeds("import sys, socketserver_fast; assert not sys._is_gil_enabled()")


def test_import_in_isolated_and_optimised_mode():
    succeeds("import socketserver_fast", "-I")
    succeeds("import socketserver_fast", "-OO")


def test_import_in_a_subinterpreter_does_not_crash():
    # The stdlib's answer is an ImportError for modules that do not support it.
    source = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
identity = interpreters.create()
interpreters.run_string(identity, '''
try:
    import socketserver_fast
except ImportError:
    pass
''')
interpreters.destroy(identity)
"""
    assert python(source)[0] == 0


# Names.


def test_all_is_the_stdlibs_and_what_is_added():
    names = socketserver_fast.__all__
    assert len(names) == len(set(names))
    assert set(names) == set(stdlib.__all__) | ADDED
    assert [name for name in names if not hasattr(socketserver_fast, name)] == []


def test_names_that_programs_reach_for_are_there():
    assert [name for name in REACHED_FOR if not hasattr(socketserver_fast, name)] == []
    assert socketserver_fast._ServerSelector is stdlib._ServerSelector
    assert socketserver_fast.time is stdlib.time


@pytest.mark.parametrize("name", sorted(stdlib.__all__))
def test_classes_are_ordinary_classes_with_the_stdlibs_bases(name):
    theirs, ours = getattr(stdlib, name), getattr(socketserver_fast, name)
    assert type(ours) is type
    assert ours is not theirs
    names = [cls.__name__ for cls in ours.__mro__ if cls is not servers._Ending]
    assert names == [cls.__name__ for cls in theirs.__mro__]
    ours.some_attribute = 1
    del ours.some_attribute
