"""The load generator of bench: it counts exactly and notices every wrong answer."""

import json
import os
import socket
import socketserver
import subprocess
import threading
import time

import pytest

from bench import web
from bench.build import compiled

TEN = ["--warm-up", "0", "--operations", "10", "--seconds", "5"]
ONE = [*TEN, "--operations", "1"]


def load(address, *options, spoken=b""):
    """Return the report of the load generator."""
    done = subprocess.run([compiled("load"), address, *options], input=spoken,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    return run | {"errors": {kind: count for kind, count in run["errors"].items() if count}}


def echo(connection):
    while data := connection.recv(1 << 20):
        connection.sendall(data)


@pytest.fixture
def answering(request):
    """Start a server that treats each connection as it is told; its address."""

    def start(treat):
        handler = type("Handler", (socketserver.BaseRequestHandler,),
                       {"handle": lambda self: treat(self.request)})
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        request.addfinalizer(server.server_close)
        request.addfinalizer(server.shutdown)
        return "tcp:{}:{}".format(*server.server_address)

    return start


@pytest.mark.parametrize("options", [
    [], ["--close"], ["--window", "5"], ["--connections", "3"], ["--size", "300000"],
])
def test_load_counts_exactly(answering, options):
    run = load(answering(echo), *TEN, *options, "--server", str(os.getpid()))
    assert 0 < run["server_cpu"] < 1
    assert (run["operations"], run["started"], run["finished"], run["errors"]) == (10, 10, 10, {})
    assert 0 < run["latency_us"]["p50"] <= run["latency_us"]["p99"] <= run["latency_us"]["max"]


@pytest.mark.parametrize(("head", "error"), [
    (b"HTTP/1.0 200 OK\r\n\r\n", set()), (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", set()),
    (b"HTTP/1.1 200 OK\r\n\r\n", {"eof", "reset"}), (b"HTTP/1.1 404 Not Found\r\n\r\n", {"wrong"}),
    (b"HTTP/1.1 200 OK\r\n\r\nab", {"wrong"}),
])
def test_load_opens_anew_where_an_answer_says_that_it_closes(answering, head, error):
    def answer_once(connection):
        connection.recv(4096)
        connection.sendall(head + web.PAGE)

    request, answer = web.exchange("http", "keep", 16)
    sizes = ["--request", str(len(request)), "--answer", str(len(answer))]
    errors = load(answering(answer_once), *TEN, *sizes, spoken=request + answer)["errors"]
    assert error & errors.keys() if error else not errors


@pytest.mark.parametrize(("answer", "error"), [
    (bytes.swapcase, "wrong"), (lambda line: line * 2, "wrong"),
    (lambda line: line.replace(b"0000000", b"0000001"), "wrong"), (lambda line: b"", "eof"),
    (lambda line: time.sleep(1) or b"", "timeout"),
])
def test_load_reports_wrong_answers(answering, answer, error):
    run = load(answering(lambda client: client.sendall(answer(client.recv(64)))), *ONE,
               "--timeout", "0.2")
    assert (run["errors"], run["operations"]) == ({error: 1}, 0)


def test_load_counts_lost_packets_and_servers_that_are_not_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf, socket.socket() as unused:
        deaf.bind(("127.0.0.1", 0))
        unused.bind(("127.0.0.1", 0))
        lost = load(f"udp:127.0.0.1:{deaf.getsockname()[1]}", *ONE, "--timeout", "0.1")
        nobody = load(f"tcp:127.0.0.1:{unused.getsockname()[1]}", *ONE)
    assert (lost["errors"], nobody["errors"]) == ({"lost": 1}, {"connect": 1})
