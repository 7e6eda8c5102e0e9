"""`python -m socketserver_fast serve` with a command line that makes no sense, and its help."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import socketserver_fast

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it is ended by signals")

COMMAND = [sys.executable, "-m", "socketserver_fast", "serve"]
TARGET = "program:Upper"
ERRORS = {
    (): "TARGET",
    ("a", "b"): "unrecognized arguments: b",
    (TARGET, "--no-such-option"): "--no-such-option",
    (TARGET, "--work", "2"): "--work",
    ("nothing",): "'nothing' is neither a folder nor MODULE:HANDLER",
    ("",): "'' is neither a folder",
    ("page.txt",): "neither a folder",
    (":Upper",): "neither a folder",
    (".program:Upper",): "neither a folder",
    ("no_such.module:x",): "there is no module 'no_such'",
    ("program:Lower",): "module 'program' has no 'Lower'",
    ("program:number",): "of type int",
    ("program:Server",): "is a class of servers",
    ("program:make_application",): "make_application() is no WSGI application",
    ("program:asgi",): "is asynchronous",
    ("program:ASGI",): "is asynchronous",
    ("program:Packet",): "Packet is a DatagramRequestHandler: add --udp",
    (TARGET, "--udp"): "Upper is a StreamRequestHandler: leave out --udp",
    (TARGET, "--bind", "8000"): "is not HOST:PORT",
    (TARGET, "--bind", "localhost:http"): "is not HOST:PORT",
    (TARGET, "--bind", "localhost:65536"): "is not HOST:PORT",
    (TARGET, "--bind", ""): "is not HOST:PORT",
    (TARGET, "--bind", "localhost:\u0663"): "is not HOST:PORT",
    (TARGET, "--bind", "http://localhost:80"): "is not HOST:PORT",
    (TARGET, "--bind", "h\u00f4te" * 20 + ":80"): "is not HOST:PORT",
    (TARGET, "--bind", "no-such-host.invalid:80"): "cannot listen on no-such-host.invalid:80",
    (TARGET, "--bind", "::1"): "is not HOST:PORT, [IPV6]:PORT",
    (TARGET, "--bind", "::1:80"): "is not HOST:PORT, [IPV6]:PORT",
    (TARGET, "--bind", "[::1]"): "is not HOST:PORT, [IPV6]:PORT",
    (TARGET, "--bind", "[::1:80"): "is not HOST:PORT, [IPV6]:PORT",
    (TARGET, "--bind", "[]:80"): "is not HOST:PORT, [IPV6]:PORT",
    (TARGET, "--bind", "unix:"): "is not HOST:PORT",
    (TARGET, "--bind", "unix:@"): "is not HOST:PORT",
    (TARGET, "--bind", "unix:" + "long" * 30): "AF_UNIX path too long",
    (TARGET, "--bind", "unix:page.txt"): "cannot listen on unix:page.txt",
    (TARGET, "--bind", "fd:x"): "is not HOST:PORT",
    (TARGET, "--bind", "fd:-1"): "is not HOST:PORT",
    (TARGET, "--bind", "fd:99"): "fd:99 is no socket",
    (TARGET, "--bind", "fd:" + "9" * 30): "is not HOST:PORT",
    (TARGET, "--bind", "systemd"): "systemd has passed no socket",
    (TARGET, "--bind", "192.0.2.1:0"): "cannot listen on 192.0.2.1:0",
    (TARGET, "--bind", "unix:no/such/folder"): "cannot listen on unix:no/such/folder",
    (TARGET, "--workers", "0"): "'0' is not a number from 1 to 1,000,000,000",
    (TARGET, "--workers", "-1"): "is not a number",
    (TARGET, "--workers", "two"): "is not a number",
    (TARGET, "--workers", "9" * 30): "is not a number",
    (TARGET, "--threads", "fibers"): "'fibers' is none of none, thread, pool, greenlet",
    (TARGET, "--threads", "8"): "'8' is none of none, thread, pool, greenlet",
    (TARGET, "--threads", "thread:8"): "thread takes no number",
    (TARGET, "--threads", "pool:"): "is not a number",
    (TARGET, "--threads", "pool:" + "9" * 30): "is not a number",
    (TARGET, "--threads", "pool:0"): "is not a number",
    (TARGET, "--max-requests", "5"): "add --workers",
    (TARGET, "--workers", "1", "--max-requests", "0"): "is not a number",
    (TARGET, "--timeout", "0"): "not a number of seconds",
    (TARGET, "--timeout", "nan"): "not a number of seconds",
    (TARGET, "--drain-timeout", "-1"): "not a number of seconds",
    (TARGET, "--drain-timeout", "inf"): "not a number of seconds",
    ("program:Bare", "--timeout", "5"): "--timeout needs a StreamRequestHandler, which Bare is not",
    (TARGET, "--access-log"): "a handler logs by itself",
    (".", "--udp"): "leave out --udp",
    ("program:echo", "--udp"): "leave out --udp",
    (TARGET, "--certfile", "none.pem"): "No such file or directory: 'none.pem'",
    (TARGET, "--certfile", "page.txt", "--keyfile", "none.pem"): "directory: 'none.pem'",
    (TARGET, "--certfile", "."): "Is a directory: '.'",
    (TARGET, "--certfile", ""): "Is a directory",
    (TARGET, "--certfile", "page.txt"): "no certificate with its key, in PEM, in page.txt",
    (TARGET, "--keyfile", "page.txt"): "--keyfile needs --certfile",
    (TARGET, "--keyfile", ""): "--keyfile needs --certfile",
    ("program:Packet", "--udp", "--certfile", "page.txt"): "leave out --udp",
    (TARGET, "--metrics", "unix:path"): "'unix:path' is not HOST:PORT or [IPV6]:PORT",
    (TARGET, "--metrics", "9100"): "is not HOST:PORT or [IPV6]:PORT",
}


@pytest.mark.parametrize("arguments", ERRORS, ids=" ".join)
def test_error_is_one_line(refused, arguments):
    assert ERRORS[arguments] in refused(*arguments)


def test_port_in_use_is_one_line(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        assert f"cannot listen on {host}:{port}: " in refused(TARGET, "--bind", f"{host}:{port}")


def test_port_of_the_metrics_in_use_is_one_line(refused, unix_path):
    pytest.importorskip("prometheus_client")
    path = unix_path()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = "{}:{}".format(*taken.getsockname())
        said = refused(TARGET, "--bind", f"unix:{path}", "--metrics", place)
    assert f"cannot listen on {place}: " in said
    assert not Path(path).exists()


def test_metrics_without_prometheus_client_are_one_line(refused, folder):
    (folder / "prometheus_client.py").write_text("raise ImportError('not there')")
    said = refused(TARGET, "--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    assert "(not there): pip install socketserver_fast[metrics]" in said


AS_SYSTEMD_WOULD_NOT = """
import os, sys
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1])
os.closerange(3, 10)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("count", ["many", "1"])
def test_sockets_of_systemd_that_are_not_there_are_one_line(folder, count):
    child = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD_WOULD_NOT, count, *COMMAND[1:], TARGET, "--bind",
         "systemd"], cwd=folder, capture_output=True, text=True, timeout=30)
    assert child.returncode == 2
    assert re.fullmatch("socketserver_fast serve: --bind systemd: .*\n", child.stderr)


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


@pytest.mark.parametrize(("line", "error"), [
    ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("a b", "SyntaxError: invalid syntax"),
])
def test_exception_of_the_module_has_its_traceback(folder, line, error):
    (folder / "broken.py").write_text(f"{line}\n")
    child = subprocess.run([*COMMAND, "broken:app"], cwd=folder, capture_output=True, text=True,
                           timeout=30)
    assert child.returncode == 1
    assert re.findall('File "(.*)"', child.stderr) == [str(folder / "broken.py")]
    assert child.stderr.endswith(f"{error}\n")


def test_help_names_the_attributes(folder):
    child = subprocess.run([*COMMAND, "--help"], cwd=folder, capture_output=True, text=True,
                           timeout=30, check=True)
    attributes = re.findall(r"[a-z]+_[a-z_]+", textwrap.dedent(child.stdout))
    known = {*dir(socketserver_fast.ThreadPoolTCPServer), *dir(socketserver_fast.PreforkMixIn)}
    for name in ("max_requests", "max_workers", "drain_timeout", "server_address"):
        assert name in attributes
        assert name in known or name == "server_address"
