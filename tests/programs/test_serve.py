"""`python -m socketserver_fast serve`: asked by real clients and ended by real signals."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it is ended by signals")

MODELS = ["none", "thread", "pool", "pool:2", "greenlet", "greenlet:10"]


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
    command = [sys.executable, "-m", "socketserver_fast", "./serve"]
    child = subprocess.run(command, cwd=folder, capture_output=True, timeout=30)
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
