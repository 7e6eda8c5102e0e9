"""Fixtures that the tests of rfile and wfile share."""

import socket

import pytest

from socketserver_fast._sockets import wait
from socketserver_fast._sockets.reader import SocketReader

READERS = {"makefile": lambda sock: sock.makefile("rb", -1)}  # the oracle
if wait.native:
    READERS["SocketReader"] = SocketReader


@pytest.fixture(params=READERS)
def open_reader(request):
    """`open_reader(sock)`: the file to be tested, the stdlib's or ours."""
    return READERS[request.param]


@pytest.fixture
def pair():
    """Two connected sockets, of which the first is the server's."""
    ours, peer = socket.socketpair()
    with ours, peer:
        yield ours, peer
