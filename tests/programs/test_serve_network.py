"""`python -m socketserver_fast serve` with TLS, under systemd, and asked by Prometheus."""

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it is ended by signals")

COMMAND = [sys.executable, "-m", "socketserver_fast", "serve"]

# TLS.

OPENSSL = """
genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.pem
pkey -in key.pem -aes256 -passout pass:secret -out locked.pem
req -x509 -key key.pem -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -out cert.pem
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A folder with a certificate, its key, another key, and its key with a password."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    made = tmp_path_factory.mktemp("certificate")
    for arguments in OPENSSL.strip().splitlines():
        subprocess.run(["openssl", *arguments.split()], cwd=made, check=True, capture_output=True,
                       timeout=60)
    both = (made / "key.pem").read_text() + (made / "cert.pem").read_text()
    (made / "both.pem").write_text(both)
    return made


def shake_hands(command, certificate):
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    return context.wrap_socket(command.connect(), server_hostname="127.0.0.1")


@pytest.mark.parametrize("threads", ["none", "thread", "pool", "greenlet"])
def test_tls_under_every_model(serve, certificate, threads):
    if threads == "greenlet":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
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


UNFIT = {
    "cert.pem": "no certificate with its key, in PEM, in ",
    "key.pem": "no certificate with its key, in PEM, in ",
    "cert.pem other.pem": "KEY_VALUES_MISMATCH",
    "cert.pem locked.pem": "the certificate's key is encrypted",
}


@pytest.mark.parametrize("files", UNFIT)
def test_certificate_without_its_key_is_one_line(refused, certificate, files):
    cert, *keys = (certificate / name for name in files.split())
    options = ["--certfile", cert, *(f"--keyfile={key}" for key in keys)]
    assert UNFIT[files] in refused("program:Upper", *options)


# systemd.

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


# Metrics.


class Metrics:
    """A command with --metrics, and what Prometheus gets of it."""

    def __init__(self, serve, *arguments):
        pytest.importorskip("prometheus_client")
        self.command = serve(*arguments, "--metrics", "127.0.0.1:0")
        said = self.command.child.stdout.readline()
        self.port = int(re.fullmatch(r"metrics on http://127.0.0.1:(\d+)/metrics\n", said)[1])

    def scrape(self):
        """The value of each metric, which is named with its labels but `server`."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=20) as page:
            lines = page.read().decode().splitlines()
        return {re.sub(r',?server="program:\w+"', "", name): float(value) for name, value in
                (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


FINISHED = 'socketserver_requests_total{outcome="finished"}'


@pytest.mark.parametrize("model", ["--threads=none", "--threads=thread", "--threads=pool",
                                   "--workers=2", "--workers=2 --threads=pool"])
def test_metrics(serve, eventually, model):
    metrics = Metrics(serve, "program:Upper", *model.split())
    assert metrics.scrape()[FINISHED] == 0
    for _ in range(5):
        assert metrics.command.ask() == b"HELLO\n"
    eventually(lambda: metrics.scrape()[FINISHED] == 5)
    assert metrics.command.end() == (0, "")


@pytest.mark.parametrize("model", ["--threads=thread", "--workers=1"])
def test_metrics_say_what_is_in_progress(serve, eventually, model):
    metrics = Metrics(serve, "program:Slow", model)
    with metrics.command.connect() as client:
        assert client.recv(10) == b"begun"
        eventually(lambda: metrics.scrape()["socketserver_in_progress{}"] == 1)
    assert metrics.command.end() == (0, "")


def test_metrics_of_datagrams(serve, eventually):
    metrics = Metrics(serve, "program:Packet", "--udp")
    with metrics.command.connect(socket.SOCK_DGRAM) as client:
        client.send(b"hello")
        assert client.recv(10) == b"HELLO"
    eventually(lambda: metrics.scrape()[FINISHED] == 1)
    if sys.platform == "linux":
        assert metrics.scrape()["socketserver_datagrams_dropped_total{}"] == 0


@pytest.mark.parametrize("model", ["--threads=thread", "--workers=1"])
@pytest.mark.parametrize("said", [b"", b"GET /metrics", b"x" * 100_000], ids=len)
def test_metrics_are_given_beside_a_client_that_does_not_ask(serve, model, said):
    metrics = Metrics(serve, "program:Upper", model)
    with socket.create_connection(("127.0.0.1", metrics.port), 20) as client:
        client.sendall(said)
        assert metrics.scrape()[FINISHED] == 0
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):  # until it is closed
                pass
    assert metrics.command.end() == (0, "")


def test_metrics_are_given_by_the_parent_alone(serve):
    psutil = pytest.importorskip("psutil")
    metrics = Metrics(serve, "program:Who", "--workers", 1)
    worker = psutil.Process(int(metrics.command.ask(b"").split()[0]))
    listening = {one.laddr.port for one in worker.net_connections() if one.status == "LISTEN"}
    assert listening == {metrics.command.address[1]}
