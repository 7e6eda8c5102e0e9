"""CPython may rename its private names in any version. Each one that the package uses is renamed
here, everywhere in the stdlib: the package then takes the slow path, and never crashes."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

# In the sources of these modules.
NAMES = {
    "socket": [
        "_io_refs", "_closed", "_real_close", "_decref_socketios", "_accept", "_sock",
        "_timeout_occurred", "_check_sendfile_params", "_sendfile_use_send"],
    "ssl": ["_create", "_sslobj"],
    "threading": ["_register_atexit", "_name"],
    "socketserver": [
        "_ServerSelector", "_SocketWriter", "_Threads", "_NoThreads", "_threads",
        "_handle_request_noblock", "__is_shut_down", "__shutdown_request"],
}
ROWS = [(module, name) for module, names in NAMES.items() for name in names]

# Renames a name in the stdlib's sources as they are imported, and in _socket.socket's own dict.
# Of modules that are written in C.
DELETED = [("sys", "_current_frames"), ("_asyncio", "_get_running_loop"),
           ("_asyncio", "_set_running_loop"), ("_asyncio", "_swap_current_task"),
           ("_ssl", "_SSLSocket")]
# Attributes of our own objects, and one of a module's spec that is asked for with a default.
OWN = {"_accepted", "_nagle", "_initializing"}

RENAME = """
import gc, importlib.machinery, re, sys, sysconfig, types
name, library = sys.argv[1], sysconfig.get_path("stdlib")
for module in "socket", "ssl", "threading", "socketserver", "logging", "concurrent.futures":
    sys.modules.pop(module, None)
pattern = re.compile(rf"\\b{name}\\b")

class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        source = pattern.sub(name + "_renamed", self.get_data(self.path).decode())
        return compile(source, self.path, "exec")

class Finder:
    def find_spec(fullname, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if (spec and type(spec.loader) is importlib.machinery.SourceFileLoader
                and spec.origin.startswith(library) and "site-packages" not in spec.origin):
            spec.loader = Loader(fullname, spec.origin)
        return spec

sys.meta_path.insert(0, Finder)
import _socket
attributes = gc.get_referents(_socket.socket.__dict__)[0]
if name in attributes:
    attributes[name + "_renamed"] = attributes.pop(name)
    class Derived(_socket.socket): pass  # so that the type forgets what it has looked up
    Derived.x = 1
"""

SERVE = """
import socket, threading
import socketserver as stdlib
import socketserver_fast as fast
from socketserver_fast._sockets.reader import open_reader

def serve(module, model, kind):
    class Handler(getattr(module, kind + "RequestHandler")):
        timeout = 10
        def handle(self):
            self.wfile.write(self.rfile.readline())
    with getattr(module, model)(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for _ in range(3):
            with socket.socket(type=server.socket_type) as client:
                client.settimeout(10)
                client.connect(server.server_address)
                client.sendall(b"line\\n")
                assert client.recv(9) == b"line\\n", model
        server.shutdown()
        thread.join()

modules = [fast]
try:
    fast.patch()
except ImportError as error:
    assert sys.argv[1] in str(error)
else:
    modules.append(stdlib)
for module in modules:
    for model in "TCPServer", "ThreadingTCPServer":
        serve(module, model, "Stream")
    for model in "UDPServer", "ThreadingUDPServer":
        serve(module, model, "Datagram")
serve(fast, "ThreadPoolTCPServer", "Stream")
try:
    fast.GreenletTCPServer
except ImportError:
    pass
else:
    serve(fast, "GreenletTCPServer", "Stream")

ours, peer = socket.socketpair()
with ours, peer, open_reader(ours, -1) as reader:
    peer.sendall(b"line\\n")
    assert reader.readline() == b"line\\n"
    ours.settimeout(0.01)
    try:
        reader.read(1)
    except TimeoutError:
        pass
    reader.raw
print("served")
"""

SERVE_TLS = """
import ssl
from socketserver_fast.tls import TLSMixIn

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[2:])
trusting = ssl.create_default_context(cafile=sys.argv[2])

class Echo(fast.StreamRequestHandler):
    timeout = 10
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
            self.wfile.write(memoryview(self.rfile.read(len(line))))

def serve_tls(model):
    Server = type("Server", (TLSMixIn, model), {"ssl_context": context})
    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for _ in range(3):
            with socket.create_connection(server.server_address, 10) as client:
                with trusting.wrap_socket(client, server_hostname="localhost") as client:
                    client.sendall(b"line\\nmore\\n")
                    with client.makefile("rb") as answer:
                        assert answer.read(10) == b"line\\nmore\\n", model
        server.shutdown()
        thread.join()

serve_tls(fast.ThreadPoolTCPServer)
if hasattr(fast, "GreenletTCPServer"):
    serve_tls(fast.GreenletTCPServer)
print("served by TLS")
"""


@pytest.mark.parametrize(("module", "name"), ROWS, ids=[f"{m}.{n}" for m, n in ROWS])
def test_renamed(module, name, tmp_path):
    if not wait.native and module == "socket" and name in ("_accept", "_sock"):
        pytest.skip("a portable build goes through the methods that use it")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RENAME + SERVE))
    source = Path(__import__(module).__file__).read_text()
    assert re.search(rf"\b{name}\b", source), f"{module} has no {name} any more"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr[-2000:]


@pytest.mark.parametrize("change", [
    RENAME.replace("sys.argv[1]", repr("_sslobj")) + SERVE,
    "import _ssl, sys\ndel _ssl._SSLSocket\nsys.argv[1] = ''\n" + SERVE,
], ids=["ssl._sslobj", "_ssl._SSLSocket"])
def test_tls_without(change, certificate, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(change + SERVE_TLS))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, "", *certificate],
        capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "served\nserved by TLS\n"), done.stderr[-2000:]


@pytest.mark.parametrize(("module", "name"), DELETED, ids=[".".join(row) for row in DELETED])
def test_deleted(module, name):
    if not hasattr(pytest.importorskip(module), name):
        pytest.skip("this Python has no such name")
    program = f"import {module}, sys\nsys.argv.append('')\ndel {module}.{name}\n{SERVE}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr[-2000:]


def test_no_name_is_missing_here():
    """Each private name that is used stands in the tables above."""
    package = Path(socketserver_fast.__file__).parent
    used = set()
    for path in [*package.glob("**/*.py"), *package.glob("**/*.pyx")]:
        used.update(re.findall(
            r"(?:socket\.socket|SocketIO|ssl\.SSLSocket|threading|_stdlib|_socket\.socket|super\(\))"
            r"\.(_[a-z]\w*)", path.read_text()))
        used.update(re.findall(r'getattr\(\w+(?:\.\w+)*, "(_[A-Za-z]\w*)"', path.read_text()))
    ours = {name for name in used if any(
        re.search(rf"def {name}\b|^\s*{name} =", path.read_text(), re.MULTILINE)
        for path in package.glob("**/*.py"))}
    assert used - ours - OWN <= {name for _, name in [*ROWS, *DELETED]}
