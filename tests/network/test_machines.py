"""Three servers behind a real haproxy or nginx, with the files of docs/machines.md."""

import contextlib
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

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"
if not PAGE.exists() or os.name != "posix":
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)

TELL = """
def tell(self):
    self.rfile.readline()
    self.wfile.write(repr((tuple(self.client_address), self.client_address.proxy)).encode())

Echo.handle = tell
"""


def block(language):
    """Return the block of the page in this language."""
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Machine:
    """A server of the page's program on a port of its own."""

    def __init__(self, change=""):
        self.port = free_port()
        head, serve = block("python").split("with Server(")
        serve = "with Server(" + serve.replace('("", 9999)', f'("127.0.0.1", {self.port})')
        ready = "    print('ready', flush=True)\n    server.serve"
        self.program = head + change + serve.replace("    server.serve", ready)
        self.process = None

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", self.program], stdout=-1, stderr=-1)
        assert self.process.stdout.readline() == b"ready\n"

    def end(self, number=signal.SIGTERM):
        """Return its exit status, and what it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def haproxy(folder, addresses, front, **changes):
    """Return the command that runs it."""
    text = block("haproxy").replace("bind :9999", f"bind 127.0.0.1:{front}")
    return ["haproxy", "-db", "-f", configuration(folder, text, addresses, changes)]


def nginx(folder, addresses, front, **changes):
    """Return the command that runs it."""
    text = block("nginx").replace("listen 9999", f"listen 127.0.0.1:{front}")
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        pytest.skip("without the stream module of nginx")
    return ["nginx", "-e", f"{folder}/error.log", "-c", configuration(folder, text, addresses,
            changes), "-g", f"daemon off; pid {folder}/pid; error_log {folder}/error.log;"]


def configuration(folder, text, addresses, changes):
    """Write the text with other addresses and words; return its path."""
    for number, address in enumerate(addresses, 11):
        text = text.replace(f"10.0.0.{number}:9999", address)
    for old, new in changes.items():
        text = text.replace(old.replace("_", "-"), new)
    path = folder / "configuration"
    path.write_text(text)
    return str(path)


@pytest.fixture
def behind(tmp_path, eventually):
    """`behind(proxy, change, **changes)`: the proxy's address and three machines behind it."""
    with contextlib.ExitStack() as stack:

        def start(proxy, change="", **changes):
            if not shutil.which(proxy.__name__):
                pytest.skip(f"{proxy.__name__} is not installed")
            machines = [Machine(change) for _ in range(3)]
            for machine in machines:
                machine.start()
                stack.callback(machine.end, signal.SIGKILL)
            front = free_port()
            addresses = [f"127.0.0.1:{machine.port}" for machine in machines]
            child = stack.enter_context(subprocess.Popen(
                proxy(tmp_path, addresses, front, **changes), stdout=-3, stderr=-3))
            stack.callback(child.terminate)
            eventually(lambda: answers(("127.0.0.1", front)))
            return ("127.0.0.1", front), machines

        yield start


def answers(address):
    with contextlib.suppress(OSError):
        return ask(address)
    return None


def ask(address, line=b"hello\n"):
    """Send a line, and return its answer; b"" or an OSError for a request that is lost."""
    with socket.create_connection(address, 20) as client:
        client.sendall(line)
        with client.makefile("rb") as answer:
            return answer.readline()


class Load:
    """Clients that ask all the time; `done` and `lost` count."""

    def __init__(self, address, eventually, clients=4):
        self.address = address
        self.eventually = eventually
        self.done, self.lost = [], []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self):
        while not self.ended.is_set():
            (self.done if answers(self.address) == b"hello\n" else self.lost).append(None)

    def more(self, number):
        """Wait until so many more were answered."""
        count = len(self.done) + number
        self.eventually(lambda: len(self.done) >= count, 60)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *details):
        self.ended.set()
        for thread in self.threads:
            thread.join(60)


PROXIES = pytest.mark.parametrize("proxy", [haproxy, nginx], ids=["haproxy", "nginx"])


@PROXIES
def test_all_are_replaced_under_load(proxy, behind, eventually):
    address, machines = behind(proxy)
    with Load(address, eventually) as load:
        for machine in machines:
            load.more(50)
            assert machine.end() == (0, b"")
            machine.start()
        load.more(50)
    assert len(load.lost) <= len(machines)  # one made while a listener closes is reset


@PROXIES
def test_one_that_is_killed_loses_only_what_it_was_doing(proxy, behind, eventually):
    address, machines = behind(proxy)
    with Load(address, eventually) as load:
        load.more(50)
        assert machines[1].end(signal.SIGKILL)[0] == -signal.SIGKILL
        load.more(100)
    assert len(load.lost) <= len(load.threads)


@pytest.mark.parametrize(("proxy", "changes"), [
    (haproxy, {}), (haproxy, {"send_proxy_v2": "send-proxy"}), (nginx, {}),
], ids=["haproxy-v2", "haproxy-v1", "nginx-v1"])
def test_handler_sees_the_client(proxy, changes, behind):
    address, machines = behind(proxy, TELL, **changes)
    with socket.create_connection(address, 20) as client:
        client.sendall(b"hello\n")
        seen, by = eval(client.makefile("rb").read().decode())
        assert seen == client.getsockname()
    assert by[0] == "127.0.0.1"
    assert by != seen
    assert [machine.end() for machine in machines] == [(0, b"")] * 3  # no word of health checks
