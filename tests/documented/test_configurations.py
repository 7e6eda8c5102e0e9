"""The blocks that are for other programs: nginx, systemd, Docker, Kubernetes and Prometheus.

nginx and systemd read them where they are installed. Docker and Kubernetes are not: their part is
done by hand here, with what the blocks say.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import xmlrpc.client
from pathlib import Path

import psutil
import pytest

from socketserver_fast._cli import command_line

DOCS = Path(__file__).parents[2] / "docs"
if not DOCS.is_dir():
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)


def blocks(page, language):
    """The blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(),
                      re.MULTILINE | re.DOTALL)


def program(page, word):
    """The program in Python of a page that has this word."""
    [found] = [block for block in blocks(page, "python") if word in block]
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def start():
    """`start(command)`: a process, which is killed at the end if it still runs."""
    with contextlib.ExitStack() as stack:

        def run(command):
            child = stack.enter_context(subprocess.Popen(command, stdout=-3, stderr=-1, text=True))
            stack.callback(child.kill)
            return child

        yield run


def reachable(port):
    """Whether somebody listens there; connects and closes, as a probe does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 20):
        return True
    return False


# nginx.


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_xmlrpc_behind_nginx(start, eventually, tmp_path):
    [location] = blocks("recipes.md", "nginx")
    port, front = free_port(), free_port()
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{front};\n{location}}} }}\n"
        .replace(":9999", f":{port}"))
    source = program("recipes.md", "SimpleXMLRPCServer").replace(", 9999)", f", {port})")
    start([sys.executable, "-c", source])
    start(["nginx", "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"])
    eventually(lambda: reachable(port) and reachable(front))
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{front}/RPC2") as proxy:
        assert proxy.pow(2, 5) == 32


# systemd.


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_knows_every_setting_of_the_units(tmp_path):
    for page in ("deploying.md", "recipes.md"):
        for number, unit in enumerate(blocks(page, "ini")):
            kind = "socket" if "[Socket]" in unit else "service"
            path = tmp_path / f"{page[:4]}{number}.{kind}"
            path.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit))
            if kind == "socket":
                path.with_suffix(".service").write_text("[Service]\nExecStart=/bin/true\n")
            done = subprocess.run(
                ["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60)
            said = [line for line in done.stderr.splitlines() if path.name in line]
            assert [line for line in said if "Unknown" in line or "Failed to parse" in line] == []


def test_settings_of_the_units_are_written_as_systemd_writes_them():
    units = "\n".join(blocks("deploying.md", "ini") + blocks("recipes.md", "ini"))
    units = units.replace("\\\n", "")
    lines = [line for line in units.splitlines() if line and not line.startswith(("#", "["))]
    assert lines
    assert [line for line in lines if not re.match(r"[A-Z][A-Za-z]+=\S", line)] == []


# Containers.

AS_PROCESS_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def may_be_process_1():
    """Whether unshare(1) is here and may make a namespace of processes."""
    return bool(shutil.which("unshare")) and not subprocess.run(
        [*AS_PROCESS_1, "true"], capture_output=True, timeout=30).returncode


def steps():
    """The instructions of the Dockerfile: {name: what follows}."""
    [text] = blocks("deploying.md", "dockerfile")
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_dockerfile_installs_what_there_is():
    install, useradd = steps()["RUN"].split(" && ")
    assert useradd == f"useradd --system {steps()['USER']}"
    subprocess.run([sys.executable, "-m", *install.split(), "--no-index", "--dry-run"], check=True,
                   capture_output=True, timeout=60,
                   env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    python = re.fullmatch(r"python:(\d\.\d+)-slim", steps()["FROM"])[1]
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_command_of_the_dockerfile_answers_and_stops(start, eventually, tmp_path):
    port, expected = free_port(), steps()["EXPOSE"]
    source = program("deploying.md", "systemd.open_server")
    assert f'("127.0.0.1", {expected})' in source
    (tmp_path / "echo.py").write_text(source.replace(expected, str(port)))
    python, *arguments = json.loads(steps()["CMD"].replace("/srv", str(tmp_path)))
    assert python == "python"
    alone = AS_PROCESS_1 if may_be_process_1() else []
    child = start([*alone, sys.executable, *arguments])
    eventually(lambda: reachable(port))
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"hello\n")
        assert client.recv(10) == b"hello\n"
    [process] = psutil.Process(child.pid).children() if alone else [child]
    process.send_signal(signal.Signals[steps()["STOPSIGNAL"]])
    assert child.communicate(timeout=60)[1] == ""
    assert child.returncode == 0


def test_kubernetes_waits_as_long_as_the_server_needs():
    yaml = pytest.importorskip("yaml")
    pod = yaml.safe_load(blocks("machines.md", "yaml")[0])["spec"]
    [container] = pod["containers"]
    sleep, delay = container["lifecycle"]["preStop"]["exec"]["command"]
    source = program("machines.md", "serve_until_signal")
    drain = float(re.search(r"drain_timeout=(\d+)", source)[1])
    assert sleep == "sleep"
    assert float(delay) + drain < pod["terminationGracePeriodSeconds"]
    assert f'("", {container["readinessProbe"]["tcpSocket"]["port"]})' in source


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_server_for_kubernetes_is_not_ready_while_it_drains(start, eventually):
    port = free_port()
    source = program("machines.md", "serve_until_signal")
    source = source.replace('("", 9999)', f'("127.0.0.1", {port})')
    source = source.replace('("127.0.0.1", "10.0.0.0/24")', '["10.0.0.0/24"]')  # not the prober's
    child = start([sys.executable, "-c", source])
    eventually(lambda: reachable(port))
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"before\n")
        assert client.recv(10) == b"before\n"
        child.terminate()
        eventually(lambda: not reachable(port))
        client.sendall(b"after\n")
        assert client.recv(10) == b"after\n"
    assert child.communicate(timeout=60)[1] == ""
    assert child.returncode == 0


# Prometheus.


def test_prometheus_asks_at_the_address_of_the_option():
    yaml = pytest.importorskip("yaml")
    [job] = yaml.safe_load(blocks("serving.md", "yaml")[0])["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    assert f"http://{target}/metrics" in (DOCS / "serving.md").read_text()
    assert command_line.web_address(target).address == ("127.0.0.1", 9100)
