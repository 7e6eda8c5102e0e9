"""A listener that another process accepts from, too, which may take what made it ready."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

import socketserver_fast
from socketserver_fast._serving.serving import is_draining
from socketserver_fast._sockets import wait

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not wait.native, reason="without accept4(2) they may wait")


@pytest.fixture
def ready():
    """A descriptor that is always readable, like a listener that another process has emptied."""
    here, there = socket.socketpair()
    with here, there:
        there.send(b"!")
        yield here.fileno()


def test_drain_does_not_wait_for_a_connection_that_another_process_took(ready, serving):
    class Server(socketserver_fast.ThreadingTCPServer):
        def fileno(self):
            return ready if is_draining(self) else super().fileno()

    server = Server(("127.0.0.1", 0), socketserver_fast.BaseRequestHandler)
    with server.socket.dup() as shared, serving(server):
        assert server.drain(20)
        assert os.get_blocking(shared.fileno())


def test_drain_still_takes_what_is_queued(serving):
    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    server = socketserver_fast.TCPServer(("127.0.0.1", 0), Handler)
    clients = [socket.create_connection(server.server_address) for _ in range(3)]
    for client in clients:
        client.sendall(b"hello\n")
    with server.socket.dup():
        server._stop_accepting(None)
        server._BaseServer__shutdown_request = True
        server.serve_forever()
        assert server.drain(20)
    for client in clients:
        with client:
            assert client.recv(9) == b"hello\n"


def test_signal_ends_a_server_whose_connection_another_process_took(ready):
    program = f"""
        import os, signal, threading, socketserver_fast
        signal.signal(signal.SIGUSR1, lambda *arguments: None)
        entered, ended = threading.Event(), threading.Event()

        class Server(socketserver_fast.TCPServer):
            def fileno(self):
                return {ready}
            def get_request(self):
                entered.set()
                return super().get_request()

        def interrupt():
            entered.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            while not ended.wait(0.01):  # in case the first one came before accept4()
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        with Server(("127.0.0.1", 0), None) as server:
            thread = threading.Thread(target=interrupt)
            thread.start()
            print(server.serve_until_signal())
            ended.set()
            thread.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], pass_fds=[ready],
                          capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")
