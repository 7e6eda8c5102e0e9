"""Runs a program as `python` does, with the stdlib's socketserver patched.

    python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] -m MODULE [ARGUMENT ...]
    python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] SCRIPT [ARGUMENT ...]

The Python processes that the program starts are patched as well, such as those of a reloader or of
multiprocessing. See _cli/child/sitecustomize.py.
"""

import functools
import importlib.metadata
import os
import pkgutil
import platform
import runpy
import sys
import sysconfig
import types
from importlib.machinery import BuiltinImporter, SourceFileLoader

from socketserver_fast import patching
from socketserver_fast._patching.after_import import expect_main
from socketserver_fast._patching.models import MODELS
from socketserver_fast._sockets import wait

USAGE = """\
usage: python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] -m MODULE [ARGUMENT ...]
       python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] SCRIPT [ARGUMENT ...]
       python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] -c CODE [ARGUMENT ...]
       python -m socketserver_fast [--threads pool[:N]|greenlet[:N]] - [ARGUMENT ...]
       python -m socketserver_fast serve TARGET [OPTION ...]
       python -m socketserver_fast --version

Runs a program with the compiled paths in the standard library's socketserver, for example:

       python -m socketserver_fast -m http.server 8000

With --threads pool the servers that start a thread for each request run on a pool of threads
instead, of at most N; with --threads greenlet on greenlets of one thread, at most N at a time.

The Python processes that the program starts are patched, too, unless they ignore the environment
(python -E, -I) or the module site (-S).
"""

CHILD = os.path.join(os.path.dirname(__file__), "_cli", "child")  # for PYTHONPATH


def main(arguments):
    """Run a program, serve, or print the version or the usage."""
    if arguments[:1] == ["--version"]:
        print(describe())
    elif arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
    elif arguments[:1] == ["serve"]:
        importlib.import_module("socketserver_fast.serve").main(arguments[1:])
    else:
        model = None
        if arguments[:1] == ["--threads"]:
            model, arguments = "".join(arguments[1:2]), arguments[2:]
        elif arguments and arguments[0].startswith("--threads="):
            model, arguments = arguments[0].partition("=")[2], arguments[1:]
        start(arguments, model)


def start(arguments, model):
    """Patch, then run the program that the arguments name."""
    settings = threads_settings(model)
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        runner, arguments = run_module, arguments[1:]
    elif arguments[:1] == ["-c"] and len(arguments) > 1:
        runner = functools.partial(run_code, arguments.pop(1))
    elif arguments[:1] == ["-"]:
        runner = run_input
    elif arguments and not arguments[0].startswith("-"):
        runner = run_script
    elif arguments in (["-m"], ["-c"]):
        refuse(f"{arguments[0]} needs {'code' if arguments == ['-c'] else 'the name of a module'}")
    else:
        refuse(f"unknown option {arguments[0]}" if arguments else "what shall it run?")
    try:
        patching.patch(**settings)
    except (ImportError, RuntimeError) as error:  # no greenlets on this Python
        sys.exit(f"socketserver_fast: {error}")
    pass_on(model)
    run(arguments, runner)


def pass_on(model):
    """Set the environment that patches the Python processes of the program in the same way."""
    os.environ["SOCKETSERVER_FAST_PATCH"] = f"{sys.implementation.cache_tag} {model or ''}"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if CHILD not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([CHILD, *filter(None, paths)])


def threads_settings(model):
    """Return the arguments of patch() for a value of --threads such as "pool:8", or None."""
    if model is None:
        return {}
    name, colon, number = model.partition(":")
    if name not in MODELS:
        refuse(f"--threads takes {' or '.join(MODELS)}, with :N for their number")
    if not colon:
        return {"threads": name}
    if not number.isdecimal() or len(number) > 9 or int(number) < 1:
        refuse(f"--threads {name}:N needs a number, 1 or more, not {number!r}")
    _, defaults = MODELS[name]
    return {"threads": name, next(iter(defaults)): int(number)}


def refuse(what):
    """Say what is wrong with the command line, and exit."""
    print(f"socketserver_fast: {what}\n\n{USAGE}", end="", file=sys.stderr)
    sys.exit(2)


def describe():
    """Return the lines of --version, which a report of a problem needs."""
    native = "system calls" if wait.native else "portable, by socket methods"
    return "\n".join([
        f"socketserver_fast {version('socketserver_fast')}",
        f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}",
        f"GIL: {gil()}",
        f"compiled modules: {os.path.dirname(wait.__file__)}",
        f"sockets and waits: {native}",
        f"greenlet servers: {greenlets()}",
    ])


def gil():
    """Return whether the GIL is on, and whether this build can run without it."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "on"
    return f"{'on' if sys._is_gil_enabled() else 'off'}, in a free-threaded build"


def greenlets():
    """Return the version of the package greenlet, or why there are no greenlet servers."""
    try:
        from socketserver_fast import green  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"none ({error})"
    return f"by greenlet {version('greenlet')}"


def version(name):
    """Return the version of a distribution, even if it has no metadata."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def run(arguments, runner):
    """Run a program as the main module, with its own sys.argv."""
    sys.argv[:] = arguments
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.excepthook = show_exception
    if runner is run_module:
        expect_main(arguments[0])
    runner(arguments[0])


def run_module(name):
    """Do what `python -m name` does; sys.path[0] is the current directory already."""
    runpy._run_module_as_main(name)


def run_script(path):
    """Do what `python path` does, for a file, or a directory or zip file with a __main__.py."""
    path = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(path) is not None:
        sys.path[0] = path
        runpy._run_module_as_main("__main__", alter_argv=False)
        return
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] "
              f"{error.strerror}", file=sys.stderr)
        sys.exit(2)
    namespace = vars(sys.modules["__main__"])
    namespace.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    exec(compile(source, path, "exec"), namespace)


def run_code(code, _):
    """Do what `python -c code` does."""
    run_text(code, "<string>")


def run_input(_):
    """Do what `python -` does."""
    run_text(sys.stdin.buffer.read(), "<stdin>", __file__="<stdin>")


def run_text(source, file, **attributes):
    """Run code that comes from no file as the main module."""
    if not sys.flags.safe_path:
        sys.path[0] = ""
    namespace = vars(sys.modules["__main__"])
    namespace.update(attributes, __loader__=BuiltinImporter)
    exec(compile(source, file, "exec"), namespace)


def show_exception(kind, error, trace):
    """Print a traceback without the frames of this module and of what ran it."""
    inner = trace
    while inner is not None:
        if inner.tb_frame.f_code.co_filename == __file__:
            trace = inner.tb_next
        inner = inner.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    main(sys.argv[1:])
