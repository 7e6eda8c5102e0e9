"""The load generator of bench: it counts exactly and notices every wrong answer."""

import json
import os
import socket
import subprocess
import threading

import pytest

from bench import web
from bench.build import BuildError, compile_program, program


@pytest.fixture
def generator():
    """Run the load generator against an address; its report."""

    def run(address, *options):
        done = subprocess.run(
            [program("load"), address, *options], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def answering():
    """A server in a thread that treats each connection as it is told; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve(treat):
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    treat(connection)

        def start(treat):
            threading.Thread(target=serve, args=(treat,), daemon=True).start()
            return f"tcp:127.0.0.1:{listener.getsockname()[1]}"

        yield start
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def floor(request):
    """Start the floor's server; its address."""

    def start(transport="tcp"):
        server = subprocess.Popen([program("floor"), transport, "echo"], stdout=subprocess.PIPE)
        request.addfinalizer(server.communicate)
        request.addfinalizer(server.kill)
        return json.loads(server.stdout.readline())["address"]

    return start


LIMITED = ["--warm-up", "0", "--operations", "10", "--seconds", "5"]


@pytest.mark.parametrize("options", [
    [], ["--per-connection", "1"], ["--window", "5"], ["--connections", "3"], ["--size", "300000"],
    ["--idle", "4"],
])
def test_load_counts_exactly(generator, floor, options):
    run = generator(floor(), *LIMITED, *options)
    assert (run["operations"], run["started"], run["finished"]) == (10, 10, 10)
    assert run["errors"] == {}
    latency = run["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]


def test_load_counts_packets_exactly(generator, floor):
    run = generator(floor("udp"), *LIMITED, "--window", "4", "--size", "1400")
    assert (run["operations"], run["finished"], run["errors"]) == (10, 10, {})


@pytest.mark.parametrize(("head", "error"), [
    (b"HTTP/1.0 200 OK\r\n\r\n", set()), (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", set()),
    (b"HTTP/1.1 200 OK\r\n\r\n", {"eof", "reset"}), (b"HTTP/1.1 404 Not Found\r\n\r\n", {"wrong"}),
])
def test_load_opens_anew_where_an_answer_says_that_it_closes(
    generator, answering, tmp_path, head, error
):
    def answer_once(connection):
        connection.recv(4096)
        connection.sendall(head + web.PAGE)

    options = []
    for name, content in zip(("request", "answer"), web.exchange("http", "keep", 16), strict=True):
        (tmp_path / name).write_bytes(content)
        options += [f"--{name}", tmp_path / name]
    run = generator(answering(answer_once), *LIMITED, *options)
    assert set(run["errors"]) <= error
    assert bool(run["errors"]) == bool(error)


@pytest.mark.parametrize(("answer", "error"), [
    (bytes.swapcase, "wrong"), (lambda line: line * 2, "wrong"),
    (lambda line: line.replace(b"0000000", b"0000001"), "wrong"), (lambda line: b"", "eof"),
])
def test_load_reports_wrong_answers(generator, answering, answer, error):
    address = answering(lambda client: client.sendall(answer(client.recv(64))))
    run = generator(address, "--warm-up", "0", "--operations", "1")
    assert (run["errors"], run["operations"]) == ({error: 1}, 0)


def test_load_does_not_wait_for_ever(generator, answering):
    address = answering(lambda client: client.recv(64) and client.recv(64))
    run = generator(address, "--warm-up", "0", "--operations", "1", "--timeout", "0.2")
    assert run["errors"] == {"timeout": 1}


def test_load_reports_a_server_that_is_not_there(generator):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{unused.getsockname()[1]}"
        assert generator(address, "--operations", "1", "--warm-up", "0")["errors"] == {"connect": 1}


def test_load_counts_lost_packets(generator):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"udp:127.0.0.1:{deaf.getsockname()[1]}"
        run = generator(address, "--operations", "3", "--window", "3", "--warm-up", "0",
                        "--timeout", "0.1")
    assert run["errors"] == {"lost": 3}


def test_load_reads_the_servers_cpu_time(generator, floor):
    run = generator(floor(), "--server", str(os.getpid()), "--seconds", "0.2")
    assert 0 <= run["server_cpu"] < 0.2
    assert generator(floor(), "--server", "999999999", *LIMITED)["server_cpu"] is None


def test_no_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(BuildError, match="/nonexistent/cc"):
        compile_program("load", tmp_path / "load")
