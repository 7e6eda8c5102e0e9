"""The programs of docs/examples, each started as a user starts it and asked by a real client."""

import contextlib
import http.client
import logging
import logging.handlers
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are not beside the tests", allow_module_level=True)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="they are stopped by SIGINT")


class Program:
    """A running example: where it listens, and how to end it."""

    def __init__(self, name, *arguments):
        command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
        self.child = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
        first = self.child.stdout.readline().split()
        if first[:2] != ["listening", "on"]:
            self.child.kill()
            pytest.fail(f"{name} did not start:\n{self.child.communicate()[1]}")
        self.address = first[2], int(first[3])

    def connect(self):
        """A client's socket and the file to read its lines from."""
        client = socket.create_connection(self.address, 10)
        return client, client.makefile("rb")

    def interrupt(self):
        """Ctrl-C: its exit status and what it wrote to stderr."""
        self.child.send_signal(signal.SIGINT)
        _, errors = self.child.communicate(timeout=30)
        return self.child.returncode, errors


@pytest.fixture
def program():
    """`program(name, *arguments)` starts an example, which at the end stops cleanly by Ctrl-C."""
    started = []

    def start(name, *arguments):
        started.append(Program(name, *arguments))
        return started[-1]

    yield start
    endings = [one.interrupt() for one in started if one.child.returncode is None]
    assert endings == [(0, "")] * len(endings)


@pytest.fixture
def client():
    """`client(program)`: a function that sends a line and returns the next one, and one to read."""
    with contextlib.ExitStack() as stack:

        def open_client(program):
            connection, file = program.connect()
            stack.enter_context(connection)
            stack.enter_context(file)

            def ask(line):
                connection.sendall(line + b"\n")
                return file.readline().strip()

            return ask, lambda: file.readline().strip()

        yield open_client


def test_chat(program, client):
    server = program("chat.py", 0)
    say, _ = client(server)
    assert say(b"Ada") == b"* Ada is here"
    answer, listen = client(server)
    assert answer(b"Bob") == b"* Bob is here"
    assert say(b"hello") == b"* Bob is here"
    assert listen() == b"<Ada> hello"
    assert client(server)[0](b"Bob") == b"* that name is taken"
    assert client(server)[0](b"") == b"* a name, please"


def test_chat_tells_who_leaves(program, client):
    server = program("chat.py", 0)
    say, listen = client(server)
    say(b"Ada")
    other, file = server.connect()
    with other, file:
        other.sendall(b"Bob\n")
        assert listen() == b"* Bob is here"
    assert listen() == b"* Bob has left"


def test_proxy(program):
    with socket.create_server(("127.0.0.1", 0)) as target:
        proxy = program("proxy.py", 0, *target.getsockname())
        near, file = proxy.connect()
        far, _ = target.accept()
        with near, far, file:
            far.settimeout(10)
            near.sendall(b"there")
            assert far.recv(5) == b"there"
            near.shutdown(socket.SHUT_WR)  # one half of it ends, the other goes on
            assert far.recv(1) == b""
            far.sendall(b"and back" * 10_000)
            far.close()
            assert file.read() == b"and back" * 10_000


def test_proxy_without_its_target(program):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = closed.getsockname()
    proxy = program("proxy.py", 0, *target)
    near, file = proxy.connect()
    with near, file:
        assert file.read() == b""
    status, errors = proxy.interrupt()
    assert status == 0
    assert str(target) in errors
    assert "Traceback" not in errors


def test_syslog_collector(program, tmp_path, eventually):
    collected = tmp_path / "messages"
    server = program("syslog_collector.py", collected, 0)
    handler = logging.handlers.SysLogHandler(server.address)
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(handler)
    logger.info("all is well")
    logger.error("all is\nlost")
    handler.close()
    eventually(lambda: collected.read_text().count("\n") == 2)
    words = [line.split(" ", 1)[1] for line in collected.read_text().splitlines()]
    assert words == ["127.0.0.1 info all is well", "127.0.0.1 err all is\\nlost"]
    status, log = server.interrupt()
    assert status == 0
    assert "Traceback" not in log  # but perhaps a warning of the system's limit for buffers


def ask_dns(address, name, kind=1, flags=0x0100):
    """The answer's code and its record's last four bytes, if it has one."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", 4711, flags, 1, 0, 0, 0) + labels + struct.pack("!xHH", kind, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(query, address)
        answer = client.recv(512)
    identity, flags, _, answers, _, _ = struct.unpack_from("!6H", answer)
    assert identity == 4711
    assert flags & 0x8000
    return flags & 15, socket.inet_ntoa(answer[-4:]) if answers else None


def test_dns_responder(program):
    server = program("dns_responder.py", 0, "one.example=192.0.2.1", "Two.example=192.0.2.2")
    assert ask_dns(server.address, "one.example") == (0, "192.0.2.1")
    assert ask_dns(server.address, "TWO.example") == (0, "192.0.2.2")
    assert ask_dns(server.address, "two.example", kind=28) == (0, None)
    assert ask_dns(server.address, "three.example") == (3, None)
    assert ask_dns(server.address, "one.example", flags=0x1000) == (4, None)


def test_dns_responder_with_what_is_no_question(program):
    server = program("dns_responder.py", 0, "one.example=192.0.2.1")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(server.address)
        client.send(b"short")
        client.send(struct.pack("!6H", 1, 0x8180, 0, 0, 0, 0))  # an answer
        client.send(struct.pack("!6H", 2, 0, 1, 0, 0, 0) + b"\x3fcut off")
        assert client.recv(512) == struct.pack("!6H", 2, 0x8401, 0, 0, 0, 0)


@pytest.fixture
def http_client():
    """`http_client(program)`: an HTTP connection that is kept."""
    with contextlib.ExitStack() as stack:

        def connect(program):
            connection = http.client.HTTPConnection(*program.address, timeout=10)
            stack.callback(connection.close)
            return connection

        yield connect


def test_http_files(program, http_client, tmp_path):
    (tmp_path / "page.txt").write_text("the page")
    server = program("http_files.py", tmp_path, 0)
    connection = http_client(server)
    for path, status, body in [("/page.txt", 200, b"the page"), ("/none", 404, None)]:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        assert response.read() == body or body is None
    started = time.monotonic()
    status, log = server.interrupt()  # with the connection kept
    assert time.monotonic() - started < 8  # less than drain_timeout
    connection.close()
    assert status == 0
    assert '"GET /page.txt HTTP/1.1" 200' in log
    assert "Traceback" not in log


def test_wsgi_app(program):
    server = program("wsgi_app.py", 0)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = "http://{}:{}/there".format(*server.address)
    with opener.open(url, timeout=10) as response:
        assert response.read() == b"Hello from /there\n"
    with opener.open(url, data=b"x" * 100_000, timeout=10) as response:
        assert response.read() == b"x" * 100_000
    status, log = server.interrupt()
    assert status == 0
    assert '"GET /there HTTP/1.1" 200' in log
    assert "Traceback" not in log


def test_key_values(program, client, tmp_path):
    file = tmp_path / "values"
    ask, _ = client(program("key_values.py", file, 0))
    assert ask(b"GET a") == b"NONE"
    assert ask(b"SET a the first value") == b"OK"
    assert ask(b"SET b 2") == b"OK"
    assert ask(b"GET a") == b"VALUE the first value"
    assert ask(b"DEL b") == b"OK"
    assert ask(b"DEL b") == b"NONE"
    assert ask(b"FLY").startswith(b"ERROR")


def test_key_values_survive_a_crash_in_the_middle_of_a_write(program, client, tmp_path):
    file = tmp_path / "values"
    first = program("key_values.py", file, 0)
    ask, _ = client(first)
    assert ask(b"SET a 1") == b"OK"
    assert ask(b"SET b 2") == b"OK"
    first.child.kill()
    first.child.communicate(timeout=30)
    with file.open("ab") as log:
        log.write(b"SET a 3")
    ask, _ = client(program("key_values.py", file, 0))
    assert ask(b"GET a") == b"VALUE 1"
    assert ask(b"SET c 3") == b"OK"
    assert file.read_bytes() == b"SET a 1\nSET b 2\nSET c 3\n"
