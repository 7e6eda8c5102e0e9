"""The mix-ins over server classes of the stdlib, patched or not: over http.server.HTTPServer."""

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

import socketserver_fast
from socketserver_fast._serving.serving import serving_thread

PROGRAM = """
    import http.server, os, signal, socket, socketserver, sys, threading, warnings
    import socketserver_fast
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
    if sys.argv[1] == "patched":
        socketserver_fast.patch()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                os.kill(main, signal.SIGTERM)
                while_ending.wait(0.2)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    class Server(*[getattr(socketserver_fast, name) for name in sys.argv[2].split("+")],
                 http.server.HTTPServer):
        workers = 1

    main, while_ending = os.getpid(), threading.Event()
    server = Server(("127.0.0.1", 0), Handler)

    def say(*words):
        os.write(1, " ".join(map(str, words)).encode() + b"\\n")

    def ask(path):
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"GET %s HTTP/1.0\\r\\n\\r\\n" % path)
            return client.makefile("rb").read()[-5:]

    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    say(ask(b"/"), server.shutdown(10), server.requests_in_progress < 2)
    thread.join()
    thread = threading.Thread(target=lambda: say(ask(b"/slow")))
    thread.start()
    say(server.serve_until_signal() == signal.SIGTERM, server.fileno())
    thread.join()
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    say(ask(b"/"), server.drain(10), server.drain(10))
    thread.join()
"""
MIXINS = ["ThreadingMixIn", "ThreadPoolMixIn", "GreenletMixIn"]
if hasattr(os, "fork"):
    MIXINS += ["ForkingMixIn", "PreforkMixIn", *(
        f"PreforkMixIn+{name}" for name in [*MIXINS, "ForkingMixIn"])]


@pytest.mark.parametrize("how", ["unpatched", "patched"])
@pytest.mark.parametrize("names", MIXINS)
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals to itself")
def test_mixin_over_http_server(tmp_path, names, how):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run([sys.executable, script, how, names], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted([
        "b'hello' True True", "True -1", "b'hello'", "b'hello' True True"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_prefork_refuses_the_threads_of_the_stdlib():
    """They are not counted, so that a worker would end in the middle of their requests."""
    with pytest.raises(TypeError, match=r"use socketserver_fast's: class \w+\(PreforkMixIn, "
                                        r"socketserver_fast.ThreadingMixIn, \.\.\.\)"):
        type("Server", (socketserver_fast.PreforkMixIn, http.server.ThreadingHTTPServer), {})


@pytest.mark.parametrize("name", ["ThreadingMixIn", "ThreadPoolMixIn"])
def test_a_shutdown_of_the_server_class_is_called(serving, name):
    called = []

    class Own(http.server.HTTPServer):
        def shutdown(self):
            called.append(self)
            super().shutdown()

    server = type("Server", (getattr(socketserver_fast, name), Own), {})(("127.0.0.1", 0), None)
    with serving(server):
        pass
    assert called == [server]


@pytest.mark.parametrize("names", ["ThreadingMixIn", "ThreadPoolMixIn", "GreenletMixIn"])
def test_drain_answers_what_is_queued(names, eventually):
    """The clients connect before anybody accepts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    server = type("Server", (getattr(socketserver_fast, names), http.server.HTTPServer), {})(
        ("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    eventually(lambda: serving_thread(server) is not None)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(server.server_address, 10))
                   for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert server.drain(10) is True
        serving.join()
        for client in clients:
            assert client.makefile("rb").read().endswith(b"hello")
