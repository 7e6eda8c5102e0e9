"""Prints what is left of a server when KeyboardInterrupt is raised at any one line of the package.

For each line that the serving thread runs in a server's life of one request: raise it there, close
the server, and look at the descriptors and at the interpreter's wake-up descriptor.
Usage: interrupted.py CLASS [MOST], at most so many lines of them.
"""

import contextlib
import gc
import os
import pathlib
import signal
import socket
import sys
import threading
import warnings

import socketserver_fast
from socketserver_fast import prefork  # noqa: F401

FOLDER = str(pathlib.Path(socketserver_fast.__file__).parent)
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the client's thread


class Handler(socketserver_fast.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())


class Server(getattr(socketserver_fast, sys.argv[1])):
    workers = 1

    def handle_error(self, request, client_address):
        """An interrupt may close the connection under the handler's thread."""


def interrupting(at, lines):
    """Return a trace function that raises at this line, and notes all lines."""
    process = os.getpid()

    def trace(frame, event, _):
        # A handler is user code: what it opens is its own business.
        path = frame.f_code.co_filename
        if os.getpid() != process or not path.startswith(FOLDER) or path.endswith("handlers.py"):
            return None
        if event == "line":
            lines.append(f"{path[len(FOLDER):]}:{frame.f_lineno}")
            if len(lines) == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    return trace


def life(at):
    """Serve one request; return the lines of the package that ran, up to the interrupted one."""
    lines = []
    server = Server(("127.0.0.1", 0), Handler)
    with server, socket.create_connection(server.server_address) as client:
        client.settimeout(10)

        def drive():
            with contextlib.suppress(OSError):  # interrupted before
                client.sendall(b"line\n")
                client.recv(9)
            server.shutdown(10)

        driver = threading.Thread(target=drive)
        driver.start()
        sys.settrace(interrupting(at, lines))
        try:
            server.serve_forever(0.05)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # reset by the server
                client.shutdown(socket.SHUT_RDWR)
            server._BaseServer__is_shut_down.set()
        finally:
            sys.settrace(None)
        driver.join()
    return lines


def state():
    for thread in threading.enumerate():  # one whose start was interrupted is joined by nobody
        if thread is not threading.main_thread():
            thread.join(10)
    gc.collect()
    wakeup = signal.set_wakeup_fd(-1)
    return len(list(pathlib.Path("/dev/fd").iterdir())), wakeup


life(0)
before = state()
for at in range(1, min(len(life(0)), int(sys.argv[2])) + 1):
    lines = life(at)
    if state() != before:
        print(lines[-1], state(), "instead of", before)
        before = state()
