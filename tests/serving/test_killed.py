"""A process that is killed while it serves leaves a shared listener as it was."""

import contextlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import textwrap

import pytest

import socketserver_fast

pytestmark = pytest.mark.parametrize("implementation", ["fast"], indirect=True)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")


KILLED = """
    import os, signal, socket, sys
    import socketserver_fast as socketserver
    from socketserver_fast._serving.serving import is_draining
    listener = socket.socket(fileno=int(sys.argv[3]))

    def killed(moment):
        if moment == sys.argv[2]:
            os.killpg(0, signal.SIGKILL)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            killed("in a request")
            self.wfile.write(b"hello\\n")
            if self.rfile.readline() == b"end\\n":
                os.kill(server_process, signal.SIGTERM)

    class Server(getattr(socketserver, sys.argv[1])):
        workers = 1

        def get_request(self):
            if is_draining(self):
                killed("while the queue is taken")
            request = super().get_request()
            killed("after an accept")
            return request

        def _stop_accepting(self, *args):
            killed("when the drain begins")
            return super()._stop_accepting(*args)

        def _wait_for_requests(self, *args):
            killed("while requests are waited for")
            return super()._wait_for_requests(*args)

    server_process = os.getpid()
    server = Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    print("serving", flush=True)
    server.serve_until_signal(drain_timeout=5)
    os.killpg(0, signal.SIGKILL)
"""
MOMENTS = ["after an accept", "in a request", "while the queue is taken", "when the drain begins",
           "while requests are waited for"]


@posix
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", [
    "TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "ForkingTCPServer",
    "PreforkTCPServer", "GreenletTCPServer"])
@pytest.mark.usefixtures("implementation")
def test_killed_process_leaves_nothing_on_a_shared_listener(tmp_path, name, moment):
    """Somebody else who has it, a supervisor for example, serves the next clients from it."""
    if not hasattr(socketserver_fast, name):
        pytest.skip("no fork on this platform")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        process = stack.enter_context(subprocess.Popen(
            [sys.executable, script, name, moment, str(listener.fileno())], stdout=-1,
            start_new_session=True, pass_fds=[listener.fileno()]))
        stack.callback(process.kill)
        assert process.stdout.readline() == b"serving\n"
        clients = [socket.create_connection(listener.getsockname(), 10) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)
        with contextlib.suppress(OSError):
            clients[0].sendall(b"end\n")
            for client in clients:
                client.shutdown(socket.SHUT_WR)
        assert process.wait(30) == -signal.SIGKILL
        # A pool and worker processes leave O_NONBLOCK: nobody else can take it away from them.
        if name not in ("ThreadPoolTCPServer", "PreforkTCPServer"):
            assert os.get_blocking(listener.fileno())
        served = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                served.append(self.client_address)

        server = stack.enter_context(
            socketserver.TCPServer(listener.getsockname(), Handler, bind_and_activate=False))
        server.socket.close()
        server.socket, server.timeout = listener, 10
        later = stack.enter_context(socket.create_connection(listener.getsockname(), 10))
        while later.getsockname() not in served:
            before = len(served)
            server.handle_request()
            assert len(served) == before + 1, "it was not served in time"
