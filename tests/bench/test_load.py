"""The load generator of bench: it counts exactly and notices every wrong answer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "bench").is_dir() or not hasattr(os, "fork"):
    pytest.skip("bench needs a source checkout on a POSIX system", allow_module_level=True)
if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
    pytest.skip("bench needs a C compiler", allow_module_level=True)
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested

from bench import web  # noqa: E402
from bench.build import BuildError, compile_program, program  # noqa: E402


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
def floor():
    """The floor's server, by transport and traffic; its address."""
    servers = []

    def start(transport="tcp", traffic="echo", path=None):
        server = subprocess.Popen(
            [program("floor"), transport, traffic, *([path] if path else [])],
            stdout=subprocess.PIPE,
        )
        servers.append(server)
        return json.loads(server.stdout.readline())["address"]

    yield start
    for server in servers:
        server.kill()
        server.communicate()


LIMITED = ["--warm-up", "0", "--operations", "10", "--seconds", "5"]


@pytest.mark.parametrize("options", [
    [], ["--per-connection", "1"], ["--window", "5"], ["--connections", "3"], ["--size", "300000"],
    ["--idle", "4", "--slow", "2"],
])
def test_load_counts_exactly(generator, floor, options):
    run = generator(floor(), *LIMITED, *options)
    assert (run["operations"], run["started"], run["finished"]) == (10, 10, 10)
    assert run["errors"] == {}
    assert sum(count for _, count in run["histogram_us"]) == 10
    latency = run["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]


@pytest.mark.parametrize(("transport", "traffic", "options"), [
    ("unix", "echo", ["--per-connection", "1"]),
    ("udp", "echo", ["--window", "4", "--size", "1400"]),
    ("unixgram", "echo", ["--window", "4"]),
    ("tcp", "bulk", ["--traffic", "up", "--size", "1048576"]),
    ("tcp", "bulk", ["--traffic", "down", "--size", "1048576"]),
])
def test_load_over_every_transport(generator, floor, tmp_path, transport, traffic, options):
    path = str(tmp_path / "s") if transport.startswith("unix") else None
    run = generator(floor(transport, traffic, path), *LIMITED, *options)
    assert (run["finished"], run["errors"]) == (10, {})


@pytest.fixture
def spoken(tmp_path):
    """The options for a GET and the body that must come back."""
    request, answer = web.exchange("http", "keep", 16)
    (tmp_path / "request").write_bytes(request)
    (tmp_path / "body").write_bytes(answer)
    return ["--traffic", "http", "--request", tmp_path / "request", "--body", tmp_path / "body"]


@pytest.mark.parametrize("options", [[], ["--per-connection", "1"]])
def test_load_over_http(generator, floor, spoken, options):
    run = generator(floor("tcp", "http:1024"), *LIMITED, *spoken, *options)
    assert (run["finished"], run["errors"]) == (10, {})


@pytest.mark.parametrize(("head", "error"), [
    (b"HTTP/1.0 200 OK\r\n\r\n", set()), (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", set()),
    (b"HTTP/1.1 200 OK\r\n\r\n", {"eof", "reset"}), (b"HTTP/1.1 404 Not Found\r\n\r\n", {"wrong"}),
])
def test_load_opens_anew_where_an_answer_says_that_it_closes(
    generator, answering, spoken, head, error
):
    def answer_once(connection):
        connection.recv(4096)
        connection.sendall(head + web.PAGE)

    run = generator(answering(answer_once), *LIMITED, *spoken)
    assert set(run["errors"]) <= error
    assert bool(run["errors"]) == bool(error)


def swap_case(connection):
    connection.sendall(connection.recv(64).swapcase())


def answer_twice(connection):
    connection.sendall(connection.recv(64) * 2)


def answer_another(connection):
    connection.sendall(connection.recv(64).replace(b"0000000", b"0000001"))


def hang_up(connection):
    connection.recv(64)


def say_nothing(connection):
    while connection.recv(64):
        pass


@pytest.mark.parametrize(("treat", "error"), [
    (swap_case, "wrong"), (answer_twice, "wrong"), (answer_another, "wrong"), (hang_up, "eof"),
    (say_nothing, "timeout"),
])
def test_load_reports_what_the_server_does_wrong(generator, answering, treat, error):
    run = generator(answering(treat), "--warm-up", "0", "--operations", "1", "--timeout", "0.2")
    assert run["errors"] == {error: 1}
    assert run["operations"] == 0


def test_load_reports_a_server_that_is_not_there(generator):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{unused.getsockname()[1]}"
        assert generator(address, "--operations", "1", "--warm-up", "0")["errors"] == {"connect": 1}


def test_load_gives_up_after_a_thousand_errors(generator, answering):
    run = generator(answering(hang_up), "--seconds", "60", "--warm-up", "0")
    assert run["errors"]["eof"] == 1000
    assert run["seconds"] < 30


def test_load_counts_lost_packets(generator):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"udp:127.0.0.1:{deaf.getsockname()[1]}"
        run = generator(address, "--operations", "3", "--window", "3", "--warm-up", "0",
                        "--timeout", "0.1")
    assert run["errors"] == {"lost": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_load_reads_the_servers_cpu_time(generator, floor):
    address = floor()
    pid = os.getpid()
    run = generator(address, "--server", str(pid), "--seconds", "0.2")
    assert 0 <= run["server_cpu"] < 0.2
    assert generator(address, "--server", "999999999", *LIMITED)["server_cpu"] is None


def test_no_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(BuildError, match="/nonexistent/cc"):
        compile_program("load", tmp_path / "load")


def test_poll_serves_where_there_is_no_epoll(monkeypatch, tmp_path, floor, generator):
    monkeypatch.setenv("CC", os.environ.get("CC", "cc") + " -DBENCH_POLL -Wall -Wextra -Werror")
    compile_program("load", tmp_path / "load")
    monkeypatch.setattr(sys.modules[__name__], "program", lambda name: tmp_path / name)
    compile_program("floor", tmp_path / "floor")
    run = generator(floor(), *LIMITED, "--connections", "3", "--per-connection", "2")
    assert (run["finished"], run["errors"]) == (10, {})
