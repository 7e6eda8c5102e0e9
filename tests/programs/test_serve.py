"""`python -m socketserver_fast serve`: started as a user starts it, asked by real clients and ended
by real signals."""

import contextlib
import http.client
import importlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import socketserver_fast

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it is ended by signals")

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
        """What it answers to this and the end of the stream."""
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


def has_greenlets():
    try:
        importlib.import_module("socketserver_fast.green")
    except ImportError:
        return False
    return True


MODELS = ["none", "thread", "pool", "pool:2",
          *(["greenlet", "greenlet:10"] if has_greenlets() else [])]


# What is served.


@pytest.mark.parametrize("workers", [(), ("--workers", 2)], ids=["one process", "workers"])
@pytest.mark.parametrize("threads", MODELS)
def test_handler_under_every_model(serve, threads, workers):
    command = serve("program:Upper", "--threads", threads, *workers)
    assert [command.ask() for _ in range(3)] == [b"HELLO\n"] * 3
    assert command.end() == (0, "")


@pytest.mark.parametrize("threads", MODELS)
def test_application_under_every_model(serve, threads):
    command = serve("program:application", "--threads", threads)
    status, body = command.get("/there")
    assert status == 200
    assert f"wsgi.multithread={threads != 'none'};".encode() in body
    assert b"PATH_INFO='/there';REMOTE_ADDR='127.0.0.1';SCRIPT_NAME='';" in body
    assert b"wsgi.multiprocess=False;" in body
    assert command.end() == (0, "")


def test_application_in_workers_knows_it(serve):
    assert b"wsgi.multiprocess=True;" in serve("program:application", "--workers", 1).get()[1]


def test_application_reads_a_body_to_its_end(serve):
    command = serve("program:echo")
    assert command.get(body=b"x" * 100_000) == (200, b"x" * 100_000)
    assert command.get() == (200, b"")
    assert command.get(body=iter([b"chunk"])) == (411, b"")


def test_application_on_a_unix_socket(serve, unix_path):
    command = serve("program:application", "--bind", f"unix:{unix_path()}", "--access-log")
    assert b"REMOTE_ADDR='';" in command.get()[1]
    status, log = command.end()
    assert status == 0
    assert re.fullmatch(r'- - - \[.*\] "GET / HTTP/1\.1" 200 \d+\n', log)


@pytest.mark.parametrize("threads", MODELS)
def test_folder_under_every_model_on_a_kept_connection(serve, threads):
    command = serve(".", "--threads", threads)
    connection = http.client.HTTPConnection(*command.address, timeout=20)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/page.txt")
            assert connection.getresponse().read() == b"the page"
            kept = connection.sock
            assert kept is not None
        connection.request("GET", "/none")
        assert connection.getresponse().status == 404
    assert command.end()[0] == 0


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_folder_by_curl(serve):
    host, port = serve(".").address
    fetched = subprocess.run(
        ["curl", "--silent", "--noproxy", "*", f"http://{host}:{port}/page.txt"],
        capture_output=True, timeout=30, check=True)
    assert fetched.stdout == b"the page"


@pytest.mark.parametrize("target", ["program:partial", "program:Own.do_GET.__globals__"])
def test_dotted_names_and_partial_objects(serve, refused, target):
    if target == "program:partial":
        assert serve(target).ask() == b"HELLO\n"
    else:
        assert "is no handler class" in refused(target)


def test_own_http_handler_logs_by_itself(serve):
    command = serve("program:Own")
    assert command.get()[0] == 204
    assert '"GET / HTTP/1.1" 204' in command.end()[1]


def test_a_script_of_that_name_is_run_by_its_path(folder):
    (folder / "serve").write_text("print('the script')")
    child = subprocess.run([*COMMAND[:-1], "./serve"], cwd=folder, capture_output=True, timeout=30)
    assert (child.returncode, child.stdout, child.stderr) == (0, b"the script\n", b"")


# Where.


def test_ipv6(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6")
    command = serve("program:Upper", "--bind", "[::1]:0")
    assert command.address[0] == "::1"
    assert command.ask() == b"HELLO\n"


def test_unix_socket_is_removed_at_the_end(serve, unix_path):
    path = unix_path()
    for _ in range(2):
        command = serve("program:Upper", "--bind", f"unix:{path}", "--workers", 1)
        assert command.first == f"listening on unix:{path}\n"
        assert command.ask() == b"HELLO\n"
        assert command.end() == (0, "")
        assert not Path(path).exists()


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["one process", "workers"])
def test_descriptor(serve, workers):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        command = serve("program:Upper", "--bind", f"fd:{number}", *workers, pass_fds=[number])
        assert command.address == listener.getsockname()
        assert command.ask() == b"HELLO\n"
        assert command.end() == (0, "")


def test_unix_socket_that_is_left_over_is_replaced(serve, unix_path):
    path = unix_path()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    assert serve("program:Upper", "--bind", f"unix:{path}").ask() == b"HELLO\n"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names")
def test_abstract_unix_socket(serve):
    name = f"@socketserver_fast-{os.getpid()}"
    command = serve("program:Upper", "--bind", f"unix:{name}")
    assert command.first == f"listening on unix:{name}\n"
    command.address = command.address.replace("@", "\0", 1)
    assert command.ask() == b"HELLO\n"
    assert command.end() == (0, "")


AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", NOTIFY_SOCKET=sys.argv[2])
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]], ids=["one process", "workers"])
def test_systemd(folder, unix_path, workers):
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with notified, socket.create_server(("127.0.0.1", 0)) as listener:
        notified.settimeout(20)
        notified.bind(path := unix_path())
        child = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD_DOES, str(listener.fileno()), path, *COMMAND[1:],
             "program:Upper", "--bind", "systemd", *workers],
            cwd=folder, pass_fds=[listener.fileno()], stdout=-1, stderr=-1, text=True)
        with child:
            try:
                assert notified.recv(100) == b"READY=1"
                with socket.create_connection(listener.getsockname(), 20) as client:
                    client.sendall(b"hello\n")
                    assert client.recv(10) == b"HELLO\n"
                child.terminate()
                assert notified.recv(100) == b"STOPPING=1"
                host, port = listener.getsockname()
                assert child.communicate(timeout=30) == (f"listening on {host}:{port}\n", "")
                assert child.returncode == 0
            finally:
                child.kill()


def test_descriptor_of_a_unix_socket(serve, unix_path):
    with socket.socket(socket.AF_UNIX) as listener:
        path = unix_path()
        listener.bind(path)
        number = listener.fileno()
        command = serve("program:application", "--bind", f"fd:{number}", pass_fds=[number])
        assert command.get()[0] == 200  # it has listened, too
        assert command.end() == (0, "")
        assert Path(path).exists()


@pytest.mark.parametrize("threads", [(), ("--threads", "thread"), ("--workers", 2)], ids=str)
@pytest.mark.parametrize("address", ["ip", "unix"])
def test_udp(serve, unix_path, address, threads):
    bind = "127.0.0.1:0" if address == "ip" else f"unix:{unix_path()}"
    command = serve("program:Packet", "--udp", "--bind", bind, *threads)
    with socket.socket(command.family, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.bind(unix_path() if address == "unix" else ("127.0.0.1", 0))
        client.connect(command.address)
        client.send(b"hello")
        assert client.recv(100) == b"HELLO"
    assert command.end() == (0, "")


# How.


def test_workers_are_processes(serve, eventually):
    command = serve("program:Who", "--workers", 2)
    seen = set()
    eventually(lambda: seen.add(command.ask(b"").split()[0]) or len(seen) == 2)
    assert str(command.child.pid).encode() not in seen


def test_threads_say_in_which_thread(serve):
    one = serve("program:Who", "--threads", "none")
    assert len({one.ask(b"") for _ in range(5)}) == 1


def test_pool_runs_at_most_n_handlers(serve, background):
    command = serve("program:Crowd", "--threads", "pool:2")
    answers = [background(command.ask, b"") for _ in range(6)]
    assert max(answer.result(20) for answer in answers) == b"2"


def test_max_requests_replaces_workers(serve, eventually):
    command = serve("program:Who", "--workers", 1, "--max-requests", 3)
    seen = set()
    eventually(lambda: seen.add(command.ask(b"").split()[0]) or len(seen) == 3)
    assert command.end() == (0, "")


def test_timeout_ends_a_silent_connection(serve):
    command = serve("program:Upper", "--timeout", "0.05")
    with command.connect() as client:
        assert client.recv(1) == b""
    assert command.end() == (0, "")


@pytest.mark.parametrize("target", [".", "program:application"])
def test_timeout_of_http(serve, target):
    command = serve(target, "--timeout", "0.05")
    with command.connect() as client:
        assert client.recv(1) == b""
    assert "Traceback" not in command.end()[1]


def test_access_log(serve):
    command = serve(".", "--access-log")
    assert command.get("/page.txt") == (200, b"the page")
    assert re.search(r'^127\.0\.0\.1 - - \[.*\] "GET /page.txt HTTP/1.1" 200 -$', command.end()[1])
    command = serve(".")
    assert command.get("/page.txt") == (200, b"the page")
    assert command.end() == (0, "")


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The files of a certificate and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    made = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", made / "key.pem", "-out", made / "cert.pem"],
        check=True, capture_output=True, timeout=60)  # fmt: skip
    both = (made / "key.pem").read_text() + (made / "cert.pem").read_text()
    (made / "both.pem").write_text(both)
    return made


def shake_hands(command, certificate):
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    return context.wrap_socket(command.connect(), server_hostname="127.0.0.1")


@pytest.mark.parametrize("threads", MODELS)
def test_tls_under_every_model(serve, certificate, threads):
    command = serve("program:application", "--threads", threads, "--certfile",
                    certificate / "cert.pem", "--keyfile", certificate / "key.pem")
    with shake_hands(command, certificate) as client, client.makefile("rb") as answer:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"wsgi.url_scheme='https'" in answer.read()  # not cut off: the end is announced
    assert command.end() == (0, "")


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_tls_in_one_file_by_curl(serve, certificate):
    host, port = serve(".", "--certfile", certificate / "both.pem").address
    fetched = subprocess.run(
        ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert",
         certificate / "cert.pem", f"https://{host}:{port}/page.txt"],
        capture_output=True, timeout=30, check=True)
    assert (fetched.stdout, fetched.stderr) == (b"the page", b"")


def test_tls_client_that_does_not_shake_hands_holds_up_nobody(serve, certificate):
    command = serve("program:Upper", "--certfile", certificate / "both.pem")
    with command.connect(), command.connect() as wrong:
        wrong.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
        with contextlib.suppress(ConnectionResetError):
            wrong.recv(100)  # an alert, or nothing
        with shake_hands(command, certificate) as client:
            client.sendall(b"hello\n")
            assert client.recv(10) == b"HELLO\n"


def test_tls_request_that_goes_on_is_ended_by_the_drain_timeout(serve, certificate):
    command = serve("program:Upper", "--certfile", certificate / "both.pem",
                    "--drain-timeout", "0.1")
    with shake_hands(command, certificate) as client:
        client.sendall(b"hello\n")
        assert client.recv(10) == b"HELLO\n"
        status, errors = command.end()
    assert status == 0
    assert "1 requests were not finished in time" in errors


# How it ends.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [(), ("--workers", 2)], ids=["one process", "workers"])
def test_request_in_progress_is_finished(serve, workers, number):
    command = serve("program:Slow", *workers)
    with command.connect() as client:
        assert client.recv(10) == b"begun"
        threading.Timer(0.1, client.sendall, [b"rest\n"]).start()
        assert command.end(number) == (0, "")
        assert client.recv(10) == b"rest\n"


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["one process", "workers"])
def test_drain_timeout(serve, workers):
    command = serve("program:Slow", "--drain-timeout", "0.05", *workers)
    with command.connect() as client:
        assert client.recv(10) == b"begun"
        assert command.end()[0] == 0


def test_second_interrupt_does_not_wait(serve, eventually):
    command = serve("program:Slow")
    with command.connect() as client:
        assert client.recv(10) == b"begun"
        command.child.send_signal(signal.SIGINT)
        eventually(lambda: refuses(command))
        status, errors = command.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in errors


def refuses(command):
    try:
        command.connect().close()
    except OSError:
        return True
    return False


def test_hangup_replaces_the_workers(serve, eventually):
    command = serve("program:Who", "--workers", 1)
    first = command.ask(b"").split()[0]
    command.child.send_signal(signal.SIGHUP)
    eventually(lambda: command.ask(b"").split()[0] != first)
    assert command.end() == (0, "")


def test_number_of_workers_by_signal(serve, eventually):
    command = serve("program:Who", "--workers", 1)
    first = command.ask(b"").split()[0]
    command.child.send_signal(signal.SIGTTIN)
    eventually(lambda: command.ask(b"").split()[0] != first)
    command.child.send_signal(signal.SIGTTOU)
    assert command.end() == (0, "")


# Errors.


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


TARGET = "program:Upper"
ERRORS = {
    (): "TARGET",
    ("a", "b"): "unrecognized arguments: b",
    (TARGET, "--no-such-option"): "--no-such-option",
    (TARGET, "--work", "2"): "--work",
    ("nothing",): "'nothing' is neither a folder nor MODULE:HANDLER",
    ("page.txt",): "neither a folder",
    (":Upper",): "neither a folder",
    (".program:Upper",): "neither a folder",
    ("no_such.module:x",): "there is no module 'no_such'",
    ("program:Lower",): "module 'program' has no 'Lower'",
    ("program:number",): "of type int",
    (TARGET, "--bind", "8000"): "is not HOST:PORT",
    (TARGET, "--bind", "localhost:http"): "is not HOST:PORT",
    (TARGET, "--bind", "localhost:65536"): "is not HOST:PORT",
    (TARGET, "--bind", "::1:80"): "an IPv6 address needs brackets: [::1]:80",
    (TARGET, "--bind", "unix:"): "is not HOST:PORT",
    (TARGET, "--bind", "fd:x"): "is not HOST:PORT",
    (TARGET, "--bind", "fd:99"): "fd:99 is no socket",
    (TARGET, "--bind", "systemd"): "systemd has passed no socket",
    (TARGET, "--bind", "192.0.2.1:0"): "cannot listen on 192.0.2.1:0",
    (TARGET, "--bind", "unix:no/such/folder"): "cannot listen on no/such/folder",
    (TARGET, "--workers", "0"): "'0' is not a number, 1 or more",
    (TARGET, "--workers", "two"): "not a number",
    (TARGET, "--threads", "fibers"): "'fibers' is none of none, thread, pool, greenlet",
    (TARGET, "--threads", "thread:8"): "thread takes no number",
    (TARGET, "--threads", "pool:0"): "not a number, 1 or more",
    (TARGET, "--max-requests", "5"): "add --workers",
    (TARGET, "--workers", "1", "--max-requests", "0"): "not a number, 1 or more",
    (TARGET, "--timeout", "0"): "not a number of seconds",
    (TARGET, "--timeout", "nan"): "not a number of seconds",
    (TARGET, "--drain-timeout", "-1"): "not a number of seconds",
    (TARGET, "--drain-timeout", "inf"): "not a number of seconds",
    ("program:Bare", "--timeout", "5"): "--timeout needs a StreamRequestHandler, which Bare is not",
    (TARGET, "--access-log"): "a handler logs by itself",
    (".", "--udp"): "leave out --udp",
    ("program:echo", "--udp"): "leave out --udp",
    (TARGET, "--certfile", "none.pem"): "cannot read a certificate and its key from none.pem",
    (TARGET, "--certfile", "page.txt"): "cannot read a certificate and its key from page.txt",
    (TARGET, "--keyfile", "page.txt"): "--keyfile needs --certfile",
    ("program:Packet", "--udp", "--certfile", "page.txt"): "leave out --udp",
}


@pytest.mark.parametrize("arguments", ERRORS, ids=" ".join)
def test_error_is_one_line(refused, arguments):
    assert ERRORS[arguments] in refused(*arguments)


def test_port_in_use_is_one_line(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        assert f"cannot listen on {host}:{port}: " in refused(TARGET, "--bind", f"{host}:{port}")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_descriptor_of_the_other_kind_is_one_line(folder, kind):
    udp = ["--udp"] if kind == socket.SOCK_STREAM else []
    with socket.socket(type=kind) as passed:
        number = passed.fileno()
        child = subprocess.run([*COMMAND, TARGET, "--bind", f"fd:{number}", *udp], cwd=folder,
                               capture_output=True, text=True, timeout=30, pass_fds=[number])
    assert child.returncode == 2
    assert re.fullmatch(r"socketserver_fast serve: fd:\d+ is a socket of .* --udp\n", child.stderr)


def test_greenlets_that_are_missing_are_one_line(refused, folder):
    (folder / "greenlet.py").write_text("raise ImportError")
    assert "--threads greenlet: greenlet servers need" in refused(TARGET, "--threads", "greenlet")


def test_exception_of_the_module_has_its_traceback(folder):
    (folder / "broken.py").write_text("import no_such_module_either\n")
    child = subprocess.run([*COMMAND, "broken:app"], cwd=folder, capture_output=True, text=True,
                           timeout=30)
    assert child.returncode == 1
    assert "broken.py" in child.stderr
    assert "ModuleNotFoundError: No module named 'no_such_module_either'" in child.stderr


def test_help_names_the_attributes(folder):
    child = subprocess.run([*COMMAND, "--help"], cwd=folder, capture_output=True, text=True,
                           timeout=30, check=True)
    attributes = re.findall(r"[a-z]+_[a-z_]+", textwrap.dedent(child.stdout))
    known = {*dir(socketserver_fast.ThreadPoolTCPServer), *dir(socketserver_fast.PreforkMixIn)}
    for name in ("max_requests", "max_workers", "drain_timeout", "server_address"):
        assert name in attributes
        assert name in known or name == "server_address"
