"""Servers with workers, each in a program of its own: their signals must not reach the tests."""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

HEAD = """
import gc, os, signal, socket, socketserver_fast, sys, threading, time
from socketserver_fast import *
import socketserver_fast._prefork.worker  # ctypes may keep a descriptor, one in each process

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background

def say(*words):
    os.write(1, " ".join(map(str, words)).encode() + b"\\n")

class Obey:
    def handle(self):
        for line in self.rfile:
            self.wfile.write(repr(eval(line)).encode() + b"\\n")

class Server(PreforkMixIn, BASE):
    workers = 2
    drain_timeout = 20
    def worker_started(self):
        say("started", self.worker_index, os.getpid())
    def worker_stopping(self):
        say("stopping", self.worker_index, os.getpid())

class Handler(Obey, DatagramRequestHandler if Server.socket_type == socket.SOCK_DGRAM
              else StreamRequestHandler):
    pass
"""

TAIL = """
with Server(ADDRESS, Handler) as server:
    say("port", repr(server.server_address))
MAIN
say("returned")
"""


class Program:
    """A running program. What it says with say() are its `lines`."""

    def __init__(self, folder, base, setup, main, address):
        self.family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.kind = socket.SOCK_DGRAM if "UDP" in base or "Datagram" in base else socket.SOCK_STREAM
        tail = TAIL.replace("ADDRESS", repr(address))
        tail = tail.replace("MAIN", textwrap.indent(textwrap.dedent(main), "    "))
        self.folder = folder
        self.script = folder / f"program{time.monotonic_ns()}.py"
        self.script.write_text(HEAD.replace("BASE", base) + textwrap.dedent(setup) + tail)
        self.stderr = self.script.with_suffix(".err")
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, self.script], stdin=-1, stdout=-1, stderr=stderr, text=True
            )
        self.pid = self.process.pid
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def said(self, word):
        """Return what follows this word, for each line that begins with it."""
        return [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == word]

    def expect(self, word, count=1):
        """said(word), once that is `count` lines."""
        deadline = time.monotonic() + 30
        while len(self.said(word)) < count:
            if time.monotonic() > deadline or not self.reader.is_alive():
                pytest.fail(f"only {self.lines}, errors:\n{self.errors()}")
            time.sleep(0.002)
        return self.said(word)

    def errors(self):
        return self.stderr.read_text()

    def started(self, count=2):
        """The process ids of `count` workers in the order of their starts."""
        return [int(line.split()[1]) for line in self.expect("started", count)]

    def connect(self):
        client = socket.socket(self.family, self.kind)
        client.settimeout(30)
        if self.kind == socket.SOCK_DGRAM and self.family == socket.AF_UNIX:
            client.bind(str(self.folder / f"c{time.monotonic_ns()}"))
        try:
            client.connect(self.address)
        except BaseException:
            client.close()
            raise
        return client

    def ask(self, expression):
        """Return what the expression is in a handler; None if the connection was closed instead."""
        with self.connect() as client:
            client.send(expression.encode() + b"\n")
            with contextlib.suppress(ConnectionResetError):
                answer = client.makefile("rb").readline() if self.kind == socket.SOCK_STREAM \
                    else client.recv(65536)
                # Not ast.literal_eval(), which fails in CPython 3.11 if two threads are in it.
                return eval(answer.decode()) if answer else None

    def ask_until(self, expression, condition):
        """Ask again and again until the answer is as wished."""
        deadline = time.monotonic() + 30
        while not condition(answer := self.ask(expression)):
            assert time.monotonic() < deadline, f"{expression} is {answer}"
        return answer

    def send_signal(self, number):
        self.process.send_signal(number)

    def go_on(self):
        """Give it a line to read."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, number=signal.SIGTERM):
        """Send a signal, wait until it has ended: its exit status."""
        self.send_signal(number)
        return self.wait()

    def wait(self):
        status = self.process.wait(40)
        self.reader.join(10)
        assert not self.reader.is_alive(), "a worker holds its output"
        return status


@pytest.fixture
def program():
    """`program("ThreadingTCPServer", setup, main=…)` starts a program whose Server class has
    PreforkMixIn and this base; `setup` is code before the server is there, `main` after that."""
    programs = []
    with tempfile.TemporaryDirectory(prefix="ss") as folder:

        def start(base="TCPServer", setup="", *, main="server.serve_forever()", address=None):
            if address is None:
                address = f"{folder}/{len(programs)}" if "Unix" in base else ("127.0.0.1", 0)
            programs.append(Program(pathlib.Path(folder), base, setup, main, address))
            programs[-1].address = eval(programs[-1].expect("port")[0])
            return programs[-1]

        yield start
        for started in programs:
            started.process.kill()
            started.process.wait(10)
            started.reader.join(10)
            started.process.stdout.close()
            started.process.stdin.close()


@pytest.fixture
def load():
    """`with load(program) as count:` has clients that ask it all the time; none of them may fail.
    `count()` is how many have been answered. With `tolerant` a closed connection is not a failure;
    `count.lost()` is how many there were."""

    @contextlib.contextmanager
    def run(program, *, clients=4, tolerant=False):
        answers, losses = [0] * clients, [0] * clients
        stop = threading.Event()

        def client(index):
            while not stop.is_set():
                answer = program.ask("6 * 7")
                assert answer == 42 or (tolerant and answer is None), "a request has failed"
                answers[index] += answer == 42
                losses[index] += answer is None

        def count():
            return sum(answers)

        count.lost = lambda: sum(losses)
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(client, index) for index in range(clients)]
            try:
                yield count
            finally:
                stop.set()
            for future in futures:
                future.result(60)

    return run


@pytest.fixture
def is_running():
    """`is_running(pid)`: whether there is such a process that has not ended."""

    def look(pid):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        with contextlib.suppress(FileNotFoundError):
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state not in "ZX"
        return not pathlib.Path("/proc/self").exists()

    return look
