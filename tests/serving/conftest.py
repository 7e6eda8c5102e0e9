"""Fixtures that the tests of how a server ends share."""

import socket

import pytest

from socketserver_fast._serving.serving import serving_thread


@pytest.fixture
def started(background, eventually):
    """`started(server)`: serve_forever in a thread, already in its loop; returns its Future."""

    def start(server):
        serving = background(server.serve_forever)
        eventually(lambda: serving_thread(server) is not None)
        return serving

    return start


@pytest.fixture
def echo_lines():
    """A handle() that says hello, so that the client knows that it runs, and echoes lines."""

    def handle(self):
        self.wfile.write(b"hello\n")
        for line in self.rfile:
            self.wfile.write(line)

    return handle


class Client:
    """A client of echo_lines whose handler is running."""

    def __init__(self, connected):
        self.socket = connected
        self.file = self.socket.makefile("rb")
        assert self.file.readline() == b"hello\n"

    def finish(self, text=b"last\n"):
        """Send a last line; returns what comes back up to the end."""
        self.socket.sendall(text)
        # Not close(): a forked handler has a copy of this socket.
        self.socket.shutdown(socket.SHUT_WR)
        return self.file.read()


@pytest.fixture
def client_of(connect):
    """`client_of(server)`: a Client of a server with echo_lines."""
    return lambda server: Client(connect(server))
