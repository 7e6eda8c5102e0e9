"""Each line of shell in README.md and docs/ runs as it stands, and what it serves answers a client.

In a folder that has what the pages take for granted: shop.py, chat.py and so on. Two things are not
as they stand: ports are free ones instead of those that are named, and /run is the folder. What pip
would install is not installed, but has to be what the package is called and offers.
"""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from socketserver_fast._cli import command_line

pytestmark = pytest.mark.skipif(os.name != "posix", reason="these are commands for a POSIX shell")
ROOT = Path(__file__).parents[2]
PORTS = Path(__file__).parent / "ports"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
if not all(page.exists() for page in PAGES) or len(PAGES) == 1:
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)

WSGI = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
HANDLER = """
import socketserver_fast

class {}(socketserver_fast.{}RequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
"""
FILES = {
    "TARGET/index.html": "hello",
    "shop.py": f"{WSGI}\napp = application\n",
    "chat.py": HANDLER.format("Member", "Stream"),
    "collector.py": HANDLER.format("Record", "Datagram"),
    "mysite/__init__.py": "",
    "mysite/wsgi.py": WSGI,
}
FILES_OF = {
    "flask run": {"app.py": "from flask import Flask\napp = Flask(__name__)\n"
                            "app.get('/')(lambda: 'hello')\n"},
    "manage.py": {"manage.py": "import sys\nfrom django.core.management import *\n"
                               "execute_from_command_line(sys.argv)\n",
                  "urls.py": "from django.http import HttpResponse\nfrom django.urls import path\n"
                             "urlpatterns = [path('', lambda request: HttpResponse('hello'))]\n",
                  "settings.py": "SECRET_KEY = 'x'\nDEBUG = True\nROOT_URLCONF = 'urls'\n"},
}
NEEDED = {
    "flask": importlib.util.find_spec("flask"),
    "manage.py": importlib.util.find_spec("django"),
    "--metrics": importlib.util.find_spec("prometheus_client"),
    "--tls-cert": sys.version_info >= (3, 14),
}
try:
    importlib.import_module("socketserver_fast.green")
except ImportError:
    NEEDED["greenlet"] = None
FROM_A_CHECKOUT = "python3 -m venv"  # compiles; .ci/run runs these
INSTALLS = re.compile(r"\bpip install (?!-)'?([^\s'`]+)'?")


def lines():
    """Each line of the blocks of shell, with its page."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                yield page.name, line


def commands():
    """Those that serve."""
    for page, line in lines():
        if not line.startswith(FROM_A_CHECKOUT) and not INSTALLS.match(line):
            needs = [word for word, there in NEEDED.items() if word in line and not there]
            marks = [pytest.mark.skip(reason=f"without {needs}")] if needs else []
            yield pytest.param(line, id=f"{page}: {line[28:]}", marks=marks)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the commands, with what the pages take for granted."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


class Running:
    """A command that runs: its ports, by those that it names, and its sockets."""

    def __init__(self, line, folder):
        self.folder, self.line = folder, line
        environment = {
            **os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(filter(None, [str(PORTS), os.environ.get("PYTHONPATH")])),
            "DJANGO_SETTINGS_MODULE": "settings", "DOCUMENTED_PORTS": f"{folder}/ports"}
        self.child = subprocess.Popen(
            ["sh", "-c", f"exec {line.replace('/run/', '')}"], cwd=folder, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def addresses(self):
        """What it has bound: the port that the page names, or None, and where it really is."""
        assert self.child.poll() is None, self.child.stderr.read()
        notes = self.folder / "ports"
        named = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
        host = "::1" if "[::]" in self.line else "127.0.0.1"
        return [(int(port), (host, int(really))) for port, really in named] + [
            (None, str(path)) for path in self.folder.glob("*.sock")]

    def end(self, number):
        """Send the signal to all of its processes; return its exit status and what it said."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)
        _, errors = self.child.communicate(timeout=60)
        return self.child.returncode, errors


@pytest.fixture
def run(folder):
    """`run(line)`: a Running."""
    with contextlib.ExitStack() as stack:

        def start(line):
            running = Running(line, folder)
            stack.callback(running.end, signal.SIGKILL)
            return running

        yield start


def connect(client, address, line):
    """Connect a client's socket, with TLS where the command has that."""
    client.settimeout(20)
    client.connect(address)
    if "cert" not in line:
        return client
    context = ssl.create_default_context(cafile="cert.pem")
    return context.wrap_socket(client, server_hostname="localhost")


def ask(address, line, question):
    """Return what comes back, or None while nobody listens there."""
    family = socket.AF_INET6 if "[::]" in line else socket.AF_INET
    family = socket.AF_UNIX if isinstance(address, str) else family
    kind = socket.SOCK_DGRAM if "--udp" in line else socket.SOCK_STREAM
    with socket.socket(family, kind) as client:
        try:
            connected = connect(client, address, line)
        except ConnectionRefusedError:
            return None
        with connected:
            connected.sendall(question)
            answer = part = connected.recv(65536)
            while b"HTTP/1" in answer and part:
                part = connected.recv(65536)
                answer += part
            return answer


@pytest.mark.parametrize("line", list(commands()))
def test_command_serves(line, folder, run, make_certificate, eventually):
    for word, files in FILES_OF.items():
        for name, text in files.items() if word in line else ():
            (folder / name).write_text(text)
    if "cert.pem" in line:
        for path in make_certificate("localhost"):
            shutil.copy(path, folder)
    (folder / "index.html").write_text("hello")
    running = run(line)
    eventually(running.addresses, 30)
    http = not re.search("chat:|collector:", line)
    question = b"GET / HTTP/1.0\r\n\r\n" if http else b"hello\n"
    address = running.addresses()[0][1]
    answer = eventually(lambda: ask(address, line, question))
    assert answer.endswith(b"hello" if http else b"hello\n")
    if "--metrics" in line:
        address = eventually(lambda: dict(running.addresses()).get(9100))
        assert b"socketserver_requests_total" in eventually(
            lambda: ask(address, "", b"GET /metrics HTTP/1.0\r\n\r\n"))
    status, errors = running.end(signal.SIGINT)
    assert "Traceback" not in errors
    assert status == 0 or " serve " not in line


def test_commands_within_sentences_are_understood():
    found = [shlex.split(arguments) for page in PAGES for arguments in
             re.findall("`python -m socketserver_fast serve ([^`]+)`", page.read_text())]
    assert len(found) > 2
    for arguments in found:
        command_line.check(command_line.command_line().parse_args(arguments))


def test_what_pip_installs_is_what_the_package_offers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = {f"{project['name']}[{extra}]" for extra in project["optional-dependencies"]}
    installed = {name for page in PAGES for name in INSTALLS.findall(page.read_text())}
    assert installed <= {project["name"], *offered}
    assert {"socketserver_fast", "socketserver_fast[greenlet]"} <= installed
