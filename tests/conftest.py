"""Each behaviour test takes the fixture `socketserver` and so runs on all three: the stdlib, the
package, and the stdlib's own classes patched."""

import concurrent.futures
import contextlib
import http.server
import itertools
import shutil
import signal
import socket
import socketserver as stdlib
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

import socketserver_fast


def pytest_configure():
    """A shell's job in the background ignores SIGINT, and one of nohup SIGHUP; so would every
    program that is tested."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item):
    """Skip what cannot run here: servers of greenlets on a Python without them, and what a tracer
    would spoil, which runs between any two lines, the compiled ones too."""
    if hasattr(item, "callspec") and "greenlet" in item.callspec.id.lower():
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    if sys.gettrace() is not None and (mark := item.get_closest_marker("untraced")):
        pytest.skip(mark.kwargs["reason"])


@pytest.fixture(autouse=True)
def no_idle_threads():
    """End those of run_in_thread(): with them os.fork() warns in the tests that follow."""
    yield
    green = sys.modules.get("socketserver_fast.green")
    while green and green._executors:
        green._executors.pop().shutdown()


@pytest.fixture(params=["stdlib", "fast", "patched"])
def implementation(request):
    """The name of the implementation under test: "stdlib", "fast" or "patched"."""
    return request.param


@pytest.fixture
def socketserver(implementation):
    """The module under test, to be used as a program uses `import socketserver`."""
    if implementation == "fast":
        yield socketserver_fast
    elif implementation == "patched":
        socketserver_fast.patch()
        try:
            yield stdlib
        finally:
            socketserver_fast.unpatch()
    else:
        yield stdlib


@pytest.fixture
def serving():
    """`with serving(server) as address:` runs serve_forever in a thread, then stops and closes."""

    @contextlib.contextmanager
    def run(server, poll_interval=0.02):
        thread = threading.Thread(target=server.serve_forever, args=(poll_interval,), daemon=True)
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
            assert not thread.is_alive(), "serve_forever did not end"

    return run


@pytest.fixture
def unix_path():
    """`unix_path()`: a fresh short path for a Unix socket (they end at 104 bytes on macOS)."""
    with tempfile.TemporaryDirectory(prefix="ss") as folder:
        numbers = itertools.count()
        yield lambda: f"{folder}/{next(numbers)}"


@pytest.fixture
def make_server(socketserver, unix_path):
    """`make_server("ThreadingMixIn", "TCPServer", handler=…, timeout=1)`: a server of a subclass of
    these with these class attributes, on a free loopback address, closed after the test.

    A handler may be a class, a `handle` function, or a dict of a handler's attributes."""
    with contextlib.ExitStack() as stack:

        def make(*bases, handler=None, activate=True, **attributes):
            bases = tuple(getattr(socketserver, b) if isinstance(b, str) else b for b in bases)
            plain = len(bases) == 1 and not attributes
            server_class = bases[0] if plain else type("Server", bases, attributes)
            if not isinstance(handler, type):
                datagrams = server_class.socket_type == socket.SOCK_DGRAM
                base = "DatagramRequestHandler" if datagrams else "StreamRequestHandler"
                methods = handler if isinstance(handler, dict) else {"handle": handler}
                methods = methods if handler else {}
                handler = type("Handler", (getattr(socketserver, base),), methods)
            server = server_class(free_address(server_class), handler, activate)
            stack.callback(server.server_close)
            return server

        def free_address(server_class):
            if server_class.address_family == getattr(socket, "AF_UNIX", None):
                return unix_path()
            return ("::1" if server_class.address_family == socket.AF_INET6 else "127.0.0.1", 0)

        yield make


@pytest.fixture
def connect(unix_path):
    """`connect(server, b"text")`: a client's connected socket that has sent this, whatever kind the
    server is of; closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_client(server, data=b""):
            client = stack.enter_context(socket.socket(server.address_family, server.socket_type))
            client.settimeout(10)
            if client.type == socket.SOCK_DGRAM and isinstance(server.server_address, str):
                client.bind(unix_path())
            client.connect(server.server_address)
            if data:
                client.sendall(data)
            return client

        yield open_client


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """`make_certificate(name)`: paths of a self-signed certificate and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command here")

    def make(name):
        folder = tmp_path_factory.mktemp("certificate")
        cert, key = folder / "cert.pem", folder / "key.pem"
        request = f"req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={name}"
        command = ["openssl", *request.split(), "-addext", f"subjectAltName=DNS:{name}",
                   "-keyout", str(key), "-out", str(cert)]
        subprocess.run(command, check=True, capture_output=True)
        return cert, key

    return make


@pytest.fixture(scope="session")
def certificate(make_certificate):
    """Paths of a certificate for localhost and its key."""
    return make_certificate("localhost")


@pytest.fixture
def background():
    """`background(function, *args)` calls it in a thread and returns its Future."""
    threads = []

    def start(function, *args):
        future = concurrent.futures.Future()

        def run():
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return future

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a background call did not end"


@pytest.fixture
def eventually():
    """`eventually(condition)` polls until the condition holds, at most ten seconds; returns it."""

    def wait(condition, seconds=10):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.002)
        return value

    return wait


@pytest.fixture
def python(implementation, tmp_path):
    """`python(script, *args)` starts a script, a path or a text, in which `import socketserver`
    gives the module under test; returns the Popen, with pipes."""
    stand_in = {
        "stdlib": "",
        "fast": "import socketserver_fast; sys.modules['socketserver'] = socketserver_fast",
        "patched": "import socketserver_fast; socketserver_fast.patch()",
    }[implementation]
    start = f"import runpy, sys\n{stand_in}\ndel sys.argv[0]\n"
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with contextlib.ExitStack() as stack:

        def run(script, *args):
            if isinstance(script, str):
                script, text = tmp_path / "script.py", script
                script.write_text(textwrap.dedent(text))
            command = [sys.executable, "-c", start, str(script), *map(str, args)]
            child = subprocess.Popen(
                command, stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield run


@pytest.fixture
def make_green(unix_path):
    """`make_green(handler, base=…, **attributes)`: a greenlet server of a subclass with these class
    attributes, on a free loopback address, closed after the test.

    A handler may be a class or a `handle` function; by default it echoes lines."""
    with contextlib.ExitStack() as stack:

        def echo(handler):
            for line in handler.rfile:
                handler.wfile.write(line)

        def make(handler=echo, base=None, **attributes):
            base = base or socketserver_fast.GreenletTCPServer
            if not isinstance(handler, type):
                kind = "Datagram" if base.socket_type == socket.SOCK_DGRAM else "Stream"
                kind = getattr(socketserver_fast, f"{kind}RequestHandler")
                handler = type("Handler", (kind,), {"handle": handler})
            server_class = type("Server", (base,), {"request_queue_size": 1024, **attributes})
            unix = base.address_family == getattr(socket, "AF_UNIX", None)
            server = server_class(unix_path() if unix else ("127.0.0.1", 0), handler)
            stack.callback(server.server_close)
            return server

        yield make


@pytest.fixture
def hello_handler():
    """A handler class of http.server that keeps connections and answers each GET with "hello"."""

    class Hello(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    return Hello


@pytest.fixture
def receive():
    """`receive(client, size)` returns exactly so many bytes."""

    def read(client, size):
        data = b""
        while len(data) < size:
            part = client.recv(size - len(data))
            assert part, f"closed after {data[-100:]!r}"
            data += part
        return data

    return read
