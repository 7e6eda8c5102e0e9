"""`python -m socketserver_fast` runs a program as `python` does: each test compares the two."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
import zipfile

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

OURS = ["-m", "socketserver_fast"]
REPORT = """
import json, os, socketserver, sys
import __main__

class Pickled:
    pass

def described():
    spec = globals().get("__spec__")
    return {
        "name": __name__,
        "argv": sys.argv,
        "path0": sys.path[0],
        "path": sys.path[1:],
        "file": globals().get("__file__"),
        "package": globals().get("__package__"),
        "spec": spec and spec.name,
        "loader": type(globals().get("__loader__")).__name__,
        "doc": __doc__,
        "builtins": "__builtins__" in globals(),
        "main is this": vars(__main__) is globals() and sys.modules["__main__"] is __main__,
        "class": Pickled.__module__,
        "cwd": os.getcwd(),
        "flags": [sys.flags.optimize, sys.flags.safe_path, sys.flags.isolated],
        # The two that newer Pythons have dropped (3.14, 3.15) do not count.
        "globals": sorted(set(globals()) - {"__annotations__", "__cached__"}),
    }

print(json.dumps(described(), indent=1))
"""


@pytest.fixture
def python(tmp_path):
    """Runs python in a folder of its own; returns its exit status, output and errors."""

    def run(*args, stdin=""):
        child = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return child.returncode, child.stdout, child.stderr

    return run


@pytest.fixture
def same(python):
    """Runs `python ARGS` and `python -m socketserver_fast ARGS`; returns the result, if equal."""

    def run(*args, options=(), stdin=""):
        theirs = python(*options, *args, stdin=stdin)
        ours = python(*options, *OURS, *args, stdin=stdin)
        assert ours == theirs
        return ours

    return run


@pytest.fixture
def write(tmp_path):
    """Writes a file of the program; returns its path relative to the working folder."""

    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return name

    return write


# What the program sees.


@pytest.mark.parametrize("args", [[], ["a", "-m", "b", "--version", "-h", "--", "-"]], ids=len)
def test_module_sees_what_python_m_shows_it(same, write, args):
    write("report.py", REPORT)
    assert same("-m", "report", *args)[0] == 0


@pytest.mark.parametrize("args", [[], ["a", "-m", "b", "--version", "-h", "--", "-"]], ids=len)
@pytest.mark.parametrize("name", ["report.py", "deeper/report.py", "no_suffix", "./report.py"])
def test_script_sees_what_python_shows_it(same, write, name, args):
    assert same(write(name, REPORT), *args)[0] == 0


@pytest.mark.parametrize("args", [[], ["a", "-m", "b", "--version", "-h", "--", "-"]], ids=len)
def test_code_and_standard_input_see_what_python_shows_them(same, write, args):
    write("neighbour.py", "print('imported')")
    assert same("-c", REPORT, *args)[0] == 0
    assert same("-", *args, stdin=REPORT)[0] == 0
    assert same("-c", "import neighbour")[1] == "imported\n"
    assert same("-", stdin="import neighbour")[1] == "imported\n"


def test_script_by_absolute_path_and_through_a_link(same, write, tmp_path):
    script = tmp_path / write("real/report.py", REPORT)
    same(script)
    link = tmp_path / "link.py"
    link.symlink_to(script)
    same("link.py")


def test_package_with_main_and_module_in_a_package(same, write):
    write("package/__init__.py", "")
    write("package/__main__.py", REPORT)
    write("package/inner.py", REPORT)
    same("-m", "package", "x")
    same("-m", "package.inner", "x")


def test_directory_and_zip_file_with_main(same, write, tmp_path):
    write("folder/__main__.py", REPORT)
    same("folder", "x")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", REPORT)
    same("program.zip", "x")


@pytest.mark.parametrize("option", ["-P", "-O", "-I"])
def test_options_of_the_interpreter_count(same, write, option):
    # -I and -P leave the folder out of sys.path, so only a script can be found there.
    same(write("report.py", REPORT), options=[option])


def test_program_imports_its_neighbours(same, write):
    write("neighbour.py", "print(__name__)")
    same(write("program.py", "import neighbour"))
    same("-m", "program")


def test_source_encoding_and_syntax_warnings_are_those_of_python(same, write, tmp_path):
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n")
    assert same("latin.py")[1] == "'\\xe9'\n"


def test_main_module_lives_until_the_end(same, write):
    write(
        "late.py",
        """
        import atexit, threading, time
        text = "still there"
        def show(what):
            print(what, text)
        def wait():
            threading.main_thread().join()
            show("thread")
        threading.Thread(target=wait).start()
        atexit.register(show, "atexit")
        """,
    )
    assert same("late.py")[1] == "thread still there\natexit still there\n"
    same("-m", "late")


def test_objects_of_main_can_be_pickled_and_spawned(same, write):
    write(
        "spawn.py",
        """
        import multiprocessing, pickle
        class Point:
            x = 1
        def double(value):
            return 2 * value
        if __name__ == "__main__":
            print(pickle.loads(pickle.dumps(Point)) is Point)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
        """,
    )
    assert same("spawn.py")[1] == "True\n[2, 4]\n"
    same("-m", "spawn")


@pytest.mark.parametrize("how", [["program.py"], ["-m", "program"]])
def test_program_runs_patched(python, write, how):
    write("program.py", "import socketserver; print(socketserver.BaseServer.serve_forever)")
    theirs, ours = python(*how), python(*OURS, *how)
    assert theirs[0] == ours[0] == 0
    plain = re.sub("0x[0-9a-f]+", "0x", theirs[1])
    assert plain == re.sub("0x[0-9a-f]+", "0x", ours[1])
    write(
        "program.py",
        """
        import socket, socketserver
        ours, peer = socket.socketpair()
        handler = socketserver.StreamRequestHandler(ours, None, None)
        print(type(handler.rfile).__name__)
        ours.close(), peer.close()
        """,
    )
    assert python(*how)[1] == "BufferedReader\n"
    reader = "SocketReader" if wait.native else "BufferedReader"
    assert python(*OURS, *how)[1] == f"{reader}\n"


# How it ends.


@pytest.mark.parametrize(
    "ending",
    ["import sys; sys.exit(3)", "raise SystemExit", "raise SystemExit('words')", "exit(True)",
     "import os; os._exit(7)", "import sys; sys.exit(None)", "import os; os.abort()"],
)  # fmt: skip
def test_exit_status(same, write, ending):
    write("end.py", ending)
    same("end.py")
    same("-m", "end")


def frames(errors):
    """The traceback without the frames of runpy, and how many of those there were."""
    frame = re.compile(r'^[ |+]*File "<frozen runpy>", line \d+, in \w+\n', re.MULTILINE)
    return frame.sub("", re.sub("0x[0-9a-f]+", "0x", errors)), len(frame.findall(errors))


FAILING = {
    "exception": "def fail():\n    raise ValueError('wrong')\nfail()\n",
    "chained": "try:\n    1 / 0\nexcept Exception as e:\n    raise KeyError('x') from e\n",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])\n",
    "syntax": "x = = 1\n",
    "imported syntax": "import broken\n",
    "missing import": "import no_such_module\n",
    "interrupt": "raise KeyboardInterrupt\n",
    "in atexit": "import atexit\natexit.register(lambda: 1 / 0)\n",
    "in thread": "import threading\nthreading.Thread(target=lambda: 1 / 0, name='t').start()\n",
}


@pytest.mark.parametrize("how", [["fail.py"], ["-m", "fail"]], ids=["script", "module"])
@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
def test_traceback_is_pythons(python, write, source, how):
    write("fail.py", source)
    write("broken.py", "x = = 2\n")
    status, output, errors = python(*how)
    our_status, our_output, our_errors = python(*OURS, *how)
    assert (our_status, our_output) == (status, output)
    theirs, ours = frames(errors), frames(our_errors)
    assert ours[0] == theirs[0]
    # `python SCRIPT` shows no frame of runpy; as many as `python -m` shows are allowed.
    assert ours[1] <= frames(python("-m", "fail")[2])[1]


def test_excepthook_of_the_program_is_used(same, write):
    write("hook.py", "import sys\nsys.excepthook = lambda *a: print('mine', a[0])\n1 / 0\n")
    assert same("hook.py")[1] == "mine <class 'ZeroDivisionError'>\n"


@pytest.mark.parametrize(
    "args",
    [["-m", "no_such_module"], ["-m", "package"], ["-m", "no.such.module"], ["-m", "plain.py"],
     ["no_such_script.py"], ["no/such/script.py"], ["package"]],
)  # fmt: skip
def test_what_cannot_be_run_is_named_like_python_does(same, write, args):
    write("package/__init__.py", "")
    write("plain.py", "")
    status, output, errors = same(*args)
    assert status != 0
    assert output == ""
    assert "Traceback" not in errors


# Its own options.


def greenlets():
    try:
        importlib.import_module("socketserver_fast.green")
    except ImportError as error:
        return f"none ({error})"
    return f"by greenlet {importlib.metadata.version('greenlet')}"


def test_version_says_what_support_needs(python):
    status, output, errors = python(*OURS, "--version")
    assert (status, errors) == (0, "")
    package, interpreter, *lines = output.splitlines()
    assert package == f"socketserver_fast {importlib.metadata.version('socketserver_fast')}"
    assert platform.python_version() in interpreter
    facts = dict(line.split(": ", 1) for line in lines)
    assert facts["GIL"] in ("on", "on, in a free-threaded build", "off, in a free-threaded build")
    assert facts["compiled modules"] == str(pathlib.Path(wait.__file__).parent)
    assert ("system calls" in facts["sockets and waits"]) == bool(wait.native)
    assert facts["greenlet servers"] == greenlets()


def test_version_without_greenlet(python, write):
    write("greenlet.py", "raise ImportError")
    status, output, errors = python(*OURS, "--version")
    assert (status, errors) == (0, "")
    assert "greenlet servers: none (greenlet servers need" in output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(python, option):
    status, output, errors = python(*OURS, option)
    assert (status, errors) == (0, "")
    assert "usage: python -m socketserver_fast" in output
    assert "-m MODULE" in output


@pytest.mark.parametrize(("value", "workers"), [("pool", None), ("pool:3", 3)])
def test_threads_on_a_pool(python, write, value, workers):
    write(
        "program.py",
        """
        import socketserver, sys
        print(sys.argv, socketserver.ThreadingMixIn.max_workers)
        """,
    )
    if workers is None:
        workers = socketserver_fast.ThreadPoolMixIn.max_workers
    for option in [["--threads", value], [f"--threads={value}"]]:
        status, output, errors = python(*OURS, *option, "program.py", "-x")
        assert (status, output, errors) == (0, f"['program.py', '-x'] {workers}\n", "")


def test_threads_without_greenlet_is_one_line(python, write):
    write("greenlet.py", "raise ImportError")
    write("program.py", "print('ran')")
    status, output, errors = python(*OURS, "--threads=greenlet", "program.py")
    assert (status, output) == (1, "")
    assert re.fullmatch("socketserver_fast: greenlet servers need .*\n", errors)


def test_version_without_metadata(python, tmp_path):
    """As in a program that PyInstaller has frozen."""
    code = """
import importlib.metadata, runpy, sys
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
sys.argv[1:] = ["--version"]
runpy.run_module("socketserver_fast", run_name="__main__")
"""
    status, output, errors = python("-c", code)
    assert (status, errors) == (0, "")
    assert output.startswith("socketserver_fast of unknown version\n")


# The processes that it starts.

STARTS = """
import multiprocessing, os, socketserver, subprocess, sys

def tell(how):
    module = socketserver.BaseServer.serve_forever.__module__
    workers = getattr(socketserver.ThreadingMixIn, "max_workers", None)
    print(how, module, workers, [path for path in sys.path if "_cli" in path], flush=True)

if __name__ == "__main__":
    if os.environ.get("RUN_MAIN"):
        tell("reloaded")
        sys.exit()
    tell("main")
    for method in multiprocessing.get_all_start_methods():
        process = multiprocessing.get_context(method).Process(target=tell, args=(method,))
        process.start()
        process.join()
    # As the reloaders of Django and Werkzeug do.
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    subprocess.run([sys.executable, *program, *sys.argv[1:]], env={**os.environ, "RUN_MAIN": "1"})
"""


@pytest.mark.parametrize("how", [["program.py"], ["-m", "program"]])
@pytest.mark.parametrize(("options", "workers"), [([], None), (["--threads=pool:3"], 3)])
def test_processes_that_it_starts_are_patched(python, write, how, options, workers):
    write("program.py", STARTS)
    plain = python(*how)[1]
    status, output, errors = python(*OURS, *options, *how)
    assert (status, errors) == (0, "")
    assert output == plain.replace(" socketserver ", " socketserver_fast.patching ").replace(
        " None ", f" {workers} ")


@pytest.mark.skipif(importlib.util.find_spec("django") is None, reason="needs Django")
@pytest.mark.parametrize("how", [["-m", "django"], ["manage.py"]])
def test_django_runs_its_server_patched(tmp_path, write, how):
    """By its reloader, which serves in a process of its own."""
    write("manage.py", "from django.core.management import execute_from_command_line as run\n"
          "import sys; run(sys.argv)")
    write("settings.py", "SECRET_KEY = 'x'\nROOT_URLCONF = 'urls'\nDEBUG = True")
    write("urls.py", """
        import socketserver
        from django.http import HttpResponse
        from django.urls import path
        def view(request):
            return HttpResponse(socketserver.BaseServer.serve_forever.__module__)
        urlpatterns = [path("", view)]
    """)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    child = subprocess.Popen(
        [sys.executable, *OURS, *how, "runserver", "--skip-checks", address], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)})
    try:
        assert any("Quit the server" in line for line in child.stdout)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(100):
            with contextlib.suppress(OSError):
                with opener.open(f"http://{address}/", timeout=20) as response:
                    assert response.read() == b"socketserver_fast.patching"
                break
            time.sleep(0.05)
        else:
            pytest.fail("it does not answer")
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.communicate()


def test_sitecustomize_of_the_program_still_runs(python, write, tmp_path):
    write("site/sitecustomize.py", "import sys\nprint('customized', __file__)")
    write("program.py", "import os, subprocess, sys; subprocess.run([sys.executable, '-c', "
          "'import sys, socketserver; print(sys.modules[\"sitecustomize\"].__file__, "
          "socketserver.BaseServer.shutdown.__module__)'])")
    write("start.py", """
        import os, subprocess, sys
        os.environ["PYTHONPATH"] = os.path.abspath("site")
        sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
    """)
    status, output, errors = python("start.py", *OURS, "program.py")
    assert (status, errors) == (0, "")
    assert output.count("customized") == 2
    where = str(tmp_path / "site" / "sitecustomize.py")
    assert output.endswith(f"{where} socketserver_fast.patching\n")


def test_other_pythons_that_it_starts_are_left_alone(python, write):
    write("program.py", """
        import os, subprocess, sys
        os.environ["SOCKETSERVER_FAST_PATCH"] = "other-311 "
        subprocess.run([sys.executable, "-c",
                        "import socketserver, sys; print('socketserver_fast' in sys.modules)"])
    """)
    assert python(*OURS, "program.py") == (0, "False\n", "")


@pytest.mark.parametrize("value", ["", "fibers", "pool:", "pool:0", "pool:many", "pool:-1",
                                   "pool:" + "9" * 30])
def test_threads_with_a_wrong_value(python, write, value):
    write("program.py", "print('ran')")
    status, output, errors = python(*OURS, "--threads", value, "program.py")
    assert (status, output) == (2, "")
    assert "socketserver_fast: --threads" in errors


@pytest.mark.parametrize("args", [[], ["-m"], ["-c"], ["--no-such-option"], ["-x", "script.py"],
                                  ["--threads"], ["--threads", "pool"], ["--threads="]], ids=repr)
def test_wrong_usage_is_an_error_before_the_usage(python, args):
    status, output, errors = python(*OURS, *args)
    assert status == 2
    assert output == ""
    assert errors.startswith("socketserver_fast: ")
    assert "usage: python -m socketserver_fast" in errors
    assert "Traceback" not in errors


# A server, and Ctrl-C.


def serve_a_page_and_interrupt(command, folder):
    """Start http.server, get a page, send SIGINT: the exit status, output and errors."""
    child = subprocess.Popen(
        [sys.executable, "-u", *command, "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = child.stdout.readline()
        port = re.search(r"port (\d+)", first)[1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/page.txt", timeout=20) as response:
            page = response.read()
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()
    words = first.replace(port, "PORT") + rest
    return child.returncode, page, words, re.sub(r"\[.*?\]", "[DATE]", errors)


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent to the process itself")
def test_interrupt_ends_http_server_as_under_python(tmp_path):
    (tmp_path / "page.txt").write_text("the page")
    theirs = serve_a_page_and_interrupt([], tmp_path)
    ours = serve_a_page_and_interrupt(OURS, tmp_path)
    assert ours == theirs
    assert ours[:2] == (0, b"the page")
    assert "Keyboard interrupt received, exiting." in ours[2]
