"""Programs that PyInstaller and its like make of one: they look for imports in Python code."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import socketserver_fast

IMPORT = re.compile(
    r"^(?:from ([\w.]+) )?c?import \(?((?:[\w.]+(?: as \w+)?,?\s*?)+)", re.MULTILINE)
PACKAGE = pathlib.Path(socketserver_fast.__file__).parent


def module_name(path):
    return ".".join(["socketserver_fast", *path.relative_to(PACKAGE).with_suffix("").parts])


def imported_by_compiled_modules():
    """Return what their sources import, themselves included."""
    found = set()
    for path in [*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")]:
        source = path.read_text(encoding="utf-8")
        found.add(module_name(path))
        for package, names in IMPORT.findall(source):
            if not package or re.fullmatch(r"socketserver_fast(\._[a-z]+)?", package):
                found.update(".".join(filter(None, [package, name.split()[0]]))
                             for name in names.split(",") if name.strip())
            else:
                found.add(package)
    return {name for name in found if not re.match(r"cpython|libc|cython", name)}


def imported_by_python_modules():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_what_compiled_modules_import_stands_in_python_code_too():
    needed = imported_by_compiled_modules()
    if not needed:
        pytest.skip("the sources are not installed")
    needed.add("socketserver_fast._socketserver_shared")  # by C code of Cython
    assert {"socketserver_fast._serving.loop", "socketserver_fast._sockets.wait"} <= needed
    assert "selectors" in needed
    assert needed - imported_by_python_modules() == set()


def test_names_for_freezers_are_modules_that_exist():
    pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    socketserver_fast._imported_by_compiled_modules()


PROGRAM = """
    import http.server, socket, sys, threading
    import socketserver_fast
    import socketserver_fast.__main__

    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    for name in sys.argv[1:]:
        with getattr(socketserver_fast, name)(("127.0.0.1", 0), Handler) as server:
            server.workers = 1
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            with socket.create_connection(server.server_address, 20) as client:
                client.sendall(b"hello\\n")
                assert client.recv(9) == b"hello\\n"
            assert server.drain(20)
            thread.join()
            print(name)
    socketserver_fast.patch()
    print(socketserver_fast.__main__.describe().splitlines()[0])
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="needs PyInstaller")
def test_program_frozen_by_pyinstaller(tmp_path):
    names = [f"{kind}TCPServer" for kind in ["", "Threading", "ThreadPool", "Forking", "Prefork"]]
    if importlib.util.find_spec("greenlet"):
        names.append("GreenletTCPServer")
    names = [name for name in names if hasattr(socketserver_fast, name)]
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", "--paths", PACKAGE.parent,
         "program.py"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [tmp_path / "dist" / "program" / "program", *names], cwd=tmp_path / "dist", timeout=60,
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:-1] == names
    assert done.stdout.splitlines()[-1].startswith("socketserver_fast ")
