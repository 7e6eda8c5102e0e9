"""Signal handlers that run at any moment, and the exit of the interpreter."""

import pathlib
import socket
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.parametrize("implementation", ["fast"], indirect=True)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")


@pytest.mark.parametrize("base", ["TCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"])
@pytest.mark.parametrize("method", ["set", "clear"])
def test_shutdown_in_a_signal_handler_that_interrupts_the_event(socketserver, base, method):
    """A signal may come while serve_forever() holds the lock of the event on which others wait."""
    said = []

    class Event(threading.Event):
        """One whose methods are interrupted before and after the flag has changed."""

        def interrupted(self, change):
            with self._cond:
                call()
                change(self)
                call()

        def set(self):
            self.interrupted(lambda self: setattr(self, "_flag", True))
            super().set()

        def clear(self):
            self.interrupted(lambda self: setattr(self, "_flag", False))

    def call():
        if sys._getframe(2).f_code.co_name == method:
            try:
                said.append(server.shutdown(5))
            except RuntimeError:
                said.append("refused")

    with getattr(socketserver, base)(("127.0.0.1", 0), None) as server:
        server._BaseServer__is_shut_down = Event()
        server._BaseServer__is_shut_down._flag = True
        server._BaseServer__shutdown_request = True
        server.serve_forever()
    assert said == (["refused", True] if method == "set" else [True, "refused"])


EXIT = """
    import socketserver, sys, threading
    running = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            running.set()
            self.wfile.write(self.rfile.readline())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = sys.argv[1] == "True"

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.handle_request()
    running.wait()
    print(server.requests_in_progress, flush=True)
"""


@pytest.mark.parametrize("daemon", [True, False])
def test_exit_of_the_interpreter_with_requests_in_progress(python, daemon):
    process = python(EXIT, daemon)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client:
        assert client.recv(9) == b"hello\n"
        assert process.stdout.readline() == "1\n"
        if not daemon:
            client.sendall(b"last\n")
        assert client.makefile("rb").read() == (b"" if daemon else b"last\n")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@posix
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(("name", "lines"), [
    ("TCPServer", 100), ("ThreadingTCPServer", 100), ("PreforkTCPServer", 60)])
def test_interrupted_at_any_line_leaves_nothing(name, lines):
    """With worker processes, at any line before the server handles SIGINT itself."""
    script = pathlib.Path(__file__).parent / "interrupted.py"
    done = subprocess.run([sys.executable, script, name, str(lines)], capture_output=True,
                          text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("", "")
