"""`python -m socketserver_fast serve`, started as a user starts it."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "socketserver_fast", "serve"]
PROGRAM = """
import functools, http.server, os, socketserver, sys, threading, time
from wsgiref.validate import validator

class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())

class Who(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d %d" % (os.getpid(), threading.get_ident()))

class Packet(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read().upper())

class Bare(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"bare")

class Own(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

class Slow(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"begun")
        self.wfile.write(self.rfile.readline())

class Crowd(socketserver.StreamRequestHandler):
    running = []

    def handle(self):
        self.running.append(self)
        time.sleep(0.1)
        self.wfile.write(b"%d" % len(self.running))
        self.running.remove(self)

partial = functools.partial(Upper)
number = 3

@validator
def application(environ, start_response):
    body = "".join(f"{name}={environ[name]!r};" for name in sorted(environ) if name in NAMES)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]

NAMES = ["wsgi.multithread", "wsgi.multiprocess", "wsgi.url_scheme", "REMOTE_ADDR", "SCRIPT_NAME",
         "PATH_INFO"]

class Server(socketserver.TCPServer):
    pass

def make_application():
    return application

async def asgi(scope, receive, send):
    pass

class Asynchronous:
    async def __call__(self, scope, receive, send):
        pass

ASGI = Asynchronous()

def echo(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Command:
    """A running `serve`: its address, its worker processes, and how it ended."""

    def __init__(self, folder, *arguments, pass_fds=()):
        self.child = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=folder, stdout=-1, stderr=-1, text=True,
            pass_fds=pass_fds)
        self.first = self.child.stdout.readline()
        if not self.first.startswith("listening on "):
            pytest.fail(self.child.communicate(timeout=30)[1])
        place = self.first.split()[2]
        host, _, port = place.rpartition(":")
        self.family = socket.AF_INET6 if "[" in host else socket.AF_INET
        self.address = (host.strip("[]"), int(port)) if port.isdecimal() else place[5:]
        if isinstance(self.address, str):
            self.family = socket.AF_UNIX

    def connect(self, kind=socket.SOCK_STREAM):
        client = socket.socket(self.family, kind)
        client.settimeout(20)
        try:
            client.connect(self.address)
        except OSError:
            client.close()
            raise
        return client

    def ask(self, data=b"hello\n"):
        """Return its answer to this and the end of the stream."""
        with self.connect() as client, client.makefile("rb") as answer:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return answer.read()

    def get(self, path="/", body=None, **headers):
        """The status and the body that HTTP has for a path."""
        connection = http.client.HTTPConnection("127.0.0.1", timeout=20)
        connection.sock = self.connect()
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def end(self, number=signal.SIGTERM):
        """Send the signal: the exit status and what was on stderr."""
        self.child.send_signal(number)
        return self.ended()

    def ended(self):
        _, errors = self.child.communicate(timeout=60)
        return self.child.returncode, errors


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "page.txt").write_text("the page")
    return tmp_path


@pytest.fixture
def serve(folder):
    """`serve("program:Upper", "--udp")`: a Command, on a free port unless it has a --bind."""
    started = []

    def start(*arguments, **settings):
        if "--bind" not in arguments:
            arguments = (*arguments, "--bind", "127.0.0.1:0")
        started.append(Command(folder, *arguments, **settings))
        return started[-1]

    yield start
    for command in started:
        with command.child:
            command.child.kill()


@pytest.fixture
def refused(folder):
    """`refused(arguments)`: the one line that it has to say."""

    def run(*arguments):
        child = subprocess.run([*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True,
                               text=True, timeout=30)
        assert (child.returncode, child.stdout) == (2, "")
        assert child.stderr.startswith("socketserver_fast serve: ")
        assert child.stderr.count("\n") == 1
        return child.stderr

    return run
