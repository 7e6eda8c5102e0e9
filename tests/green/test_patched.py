"""patch(threads="greenlet"): the stdlib's threading servers on greenlets."""

import http.server
import socketserver as stdlib
import subprocess
import sys
import threading
import urllib.request

import pytest

import socketserver_fast

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)


@pytest.fixture
def patched():
    socketserver_fast.patch(threads="greenlet", max_connections=50)
    yield
    socketserver_fast.unpatch()


class Server(stdlib.ThreadingTCPServer):
    request_queue_size = 100


def test_connections_are_served_on_one_thread(patched, serving, connect, receive):
    threads = set()

    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                threads.add(threading.get_ident())
                self.wfile.write(line)

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server):
        clients = [connect(server, b"line\n") for _ in range(30)]
        for client in clients:
            assert receive(client, 5) == b"line\n"
            client.close()
    assert len(threads) == 1


def test_program_that_overrides_process_request_thread(patched, serving, connect, receive):
    calls = []

    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())
            if calls == [1, 1]:
                self.server.shutdown()

    class Counting(Server):
        def process_request_thread(self, request, client_address):
            calls.append(1)
            super().process_request_thread(request, client_address)

    server = Counting(("127.0.0.1", 0), Handler)
    with serving(server):
        for _ in range(2):
            assert receive(connect(server, b"line\n"), 5) == b"line\n"
    assert calls == [1, 1]


def test_daemon_threads_do_not_hold_up_the_end(patched, connect, receive, background):
    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    server = type("Daemons", (Server,), {"daemon_threads": True})(("127.0.0.1", 0), Handler)
    served = background(server.serve_forever)
    client = connect(server, b"line\n")
    assert receive(client, 5) == b"line\n"
    server.shutdown()
    served.result(10)
    server.server_close()
    assert client.recv(1) == b""


def test_http_server(patched, serving, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        for _ in range(3):
            url = f"http://127.0.0.1:{address[1]}/file"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.read() == b"x" * 1000


def test_requests_that_have_not_begun_are_handled_after_unpatch(
        patched, connect, receive, background):
    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            socketserver_fast.unpatch()
            self.wfile.write(self.rfile.readline())

    server = Server(("127.0.0.1", 0), Handler)
    clients = [connect(server, b"line\n") for _ in range(5)]
    served = background(server.serve_forever)
    assert [receive(client, 5) for client in clients] == [b"line\n"] * 5
    server.shutdown()
    served.result(10)
    server.server_close()


def test_unpatch_restores_everything():
    before = {name: vars(stdlib.ThreadingMixIn)[name] for name in vars(stdlib.ThreadingMixIn)}
    socketserver_fast.patch(threads="greenlet")
    assert vars(stdlib.ThreadingMixIn)["max_connections"] is None
    socketserver_fast.unpatch()
    assert dict(vars(stdlib.ThreadingMixIn)) == before
    with pytest.raises(TypeError, match="max_workers"):
        socketserver_fast.patch(threads="greenlet", max_workers=3)


@pytest.mark.parametrize("models", [("pool", "greenlet"), ("greenlet", "pool")])
def test_second_model_leaves_nothing_of_the_first(models):
    first, second = models
    try:
        socketserver_fast.patch(threads=second)
        alone = dict(vars(stdlib.ThreadingMixIn))
        socketserver_fast.unpatch()
        socketserver_fast.patch(threads=first)
        socketserver_fast.patch(threads=second)
        assert dict(vars(stdlib.ThreadingMixIn)) == alone
    finally:
        socketserver_fast.unpatch()


def test_command_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import socketserver; print(socketserver.ThreadingMixIn.max_connections)")
    run = subprocess.run(
        [sys.executable, "-m", "socketserver_fast", "--threads", "greenlet:7", str(script)],
        capture_output=True, text=True, timeout=60)
    assert run.stdout == "7\n", run.stderr
