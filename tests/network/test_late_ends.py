"""A connection that is ended by another thread while its own thread closes it or starts TLS."""

import os
import shutil
import socket
import ssl
import subprocess
import sys

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait
from socketserver_fast.limits import LimitsMixIn
from socketserver_fast.tls import TLSMixIn

# Makes shutdown(2) slow, once it is called by a second thread of the program.
SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int shutdown(int fd, int how) {
    int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "shutdown");
    write(1, "shutdown\\n", 9);
    usleep(200000);
    return real(fd, how);
}
"""

CLOSE = """
import os, socket, threading
from socketserver_fast._serving import ending

ours, peer = socket.socketpair()
number = ours.fileno()
reading, os_stdout = os.pipe()
stdout = os.dup(1)
os.dup2(os_stdout, 1)
ender = threading.Thread(target=ending.close_request, args=(ours,))
ender.start()
assert os.read(reading, 9) == b"shutdown\\n"
ours.close()
innocent, other = socket.socketpair()
assert number in (innocent.fileno(), other.fileno())
ender.join()
other.settimeout(0)
try:
    gone = other.recv(1) == b""
except BlockingIOError:
    gone = False
os.dup2(stdout, 1)
print("gone" if gone else "still there")
"""


@pytest.mark.skipif(not wait.native or sys.platform != "linux" or not shutil.which("cc"),
                    reason="needs a library that is loaded before others")
def test_connection_that_gets_the_descriptor_of_one_that_is_ended(tmp_path):
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", CLOSE], env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True, text=True, timeout=60)
    assert done.stdout == "still there\n", done.stderr


@pytest.fixture
def takeover(certificate):
    """`takeover(call)`: a context whose wrap_socket() calls this once TLS has the descriptor."""

    def make(call):
        class Context(ssl.SSLContext):
            def wrap_socket(self, *args, **options):
                connection = super().wrap_socket(*args, **options)
                call()
                return connection

        context = Context(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        return context

    return make


def assert_is_ended(server_class, background):
    """The server ends the connection of a client that says nothing."""
    with server_class(("127.0.0.1", 0), None) as server:
        serving = background(server.serve_forever)
        with socket.create_connection(server.server_address, 10) as client:
            assert client.recv(1) == b""
        server.shutdown()
        serving.result(10)


def test_drain_ends_a_connection_that_tls_takes_over_just_now(takeover, background):
    class Server(TLSMixIn, socketserver_fast.ThreadingTCPServer):
        handshake_timeout = 60

        def ssl_context(self):
            return takeover(self._close_requests)

    assert_is_ended(Server, background)


def test_request_timeout_ends_a_connection_that_tls_takes_over_just_now(
        takeover, background, eventually):
    class Server(LimitsMixIn, TLSMixIn, socketserver_fast.ThreadingTCPServer):
        handshake_timeout = 60
        request_timeout = 0.01

        def ssl_context(self):
            return takeover(lambda: eventually(lambda: self.limited["request_timeout"]))

    assert_is_ended(Server, background)
