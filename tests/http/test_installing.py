"""When http.server and wsgiref get their compiled methods, and that unpatch() undoes it."""

import http.client
import http.server
import inspect
import signal
import socket
import subprocess
import sys
import textwrap
import wsgiref.handlers
import wsgiref.simple_server

import pytest

import socketserver_fast
from socketserver_fast._http import downloads, gateway, https, requests, responses
from socketserver_fast._sockets import wait

CHANGED = {}
for module in (requests, responses, downloads, gateway, https):
    for cls, methods in module.METHODS.items():
        CHANGED.setdefault(cls, {}).update(methods)


def snapshot():
    """All that is in the classes and in the modules around."""
    holders = [*CHANGED, http.client, http.server, wsgiref.handlers, wsgiref.simple_server]
    return [list(vars(holder).items()) for holder in [*holders, http.client.HTTPMessage]]


def run(source):
    """Run the source in a new interpreter; what it printed."""
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60
    )
    assert (child.returncode, child.stderr) == (0, "")
    return child.stdout.split()


def test_methods_are_in_place_and_taken_out_again():
    for cls, methods in CHANGED.items():
        for name, method in methods.items():
            assert vars(cls)[name] is method
    socketserver_fast.unpatch()
    before = snapshot()
    for cls, methods in CHANGED.items():
        for name, method in methods.items():
            assert vars(cls).get(name) is not method
    socketserver_fast.patch()
    socketserver_fast.patch()
    assert snapshot() != before
    socketserver_fast.unpatch()
    assert snapshot() == before


def test_methods_look_the_same():
    patched = descriptions()
    socketserver_fast.unpatch()
    assert patched == descriptions()


def descriptions():
    return [describe(vars(cls)[name]) for cls, methods in CHANGED.items() for name in methods
            if cls not in https.METHODS]  # to which it adds some


def describe(function):
    if not inspect.isfunction(function):
        return type(function)
    return function.__name__, function.__qualname__, str(inspect.signature(function))


def test_a_client_is_left_alone():
    assert http.client.parse_headers.__module__ == "http.client"
    assert http.client.HTTPMessage.set_raw.__module__ == "email.message"


def test_what_somebody_has_replaced_stays(monkeypatch):
    socketserver_fast.unpatch()
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "parse_request", lambda self: False)
    monkeypatch.setattr(wsgiref.handlers.BaseHandler, "write", lambda self, data: None)
    mine = http.server.BaseHTTPRequestHandler.parse_request, wsgiref.handlers.BaseHandler.write
    socketserver_fast.patch()
    socketserver_fast.unpatch()
    assert mine == (
        http.server.BaseHTTPRequestHandler.parse_request, wsgiref.handlers.BaseHandler.write
    )  # fmt: skip


def test_patch_imports_none_of_it():
    found = run("""
        import sys, socketserver_fast
        socketserver_fast.patch()
        socketserver_fast.patch(threads="pool")
        print(*sorted(sys.modules))
    """)
    assert {"http", "http.server", "wsgiref", "email", "socketserver_fast._http.head"} & set(
        found
    ) == set()


AFTER_THE_IMPORT = """
    import socketserver_fast
    {patch}
    import http.server, wsgiref.simple_server, socket, threading, urllib.request
    {patch_later}
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{{server.server_port}}/").read()
    except OSError:
        pass
    import sys
    sys.stderr.flush()
    print(http.server.BaseHTTPRequestHandler.parse_request.__module__)
    print(wsgiref.handlers.BaseHandler.write.__module__)
    socketserver_fast.unpatch()
    print(http.server.BaseHTTPRequestHandler.parse_request.__module__)
"""


@pytest.mark.parametrize("later", [False, True])
def test_order_of_import_and_patch_does_not_matter(later):
    patch = "socketserver_fast.patch()"
    source = AFTER_THE_IMPORT.format(
        patch="" if later else patch, patch_later=patch if later else ""
    )
    source += "\n    sys.stderr = None"
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60
    )
    assert child.stdout.split() == [
        "socketserver_fast._http.requests", "socketserver_fast._http.gateway", "http.server"
    ], child.stderr  # fmt: skip


@pytest.mark.skipif(not wait.native, reason="a portable build reads by the stdlib")
def test_a_request_is_parsed_compiled(monkeypatch, serving):
    def refuse(self):
        raise AssertionError("the original parsed it")

    monkeypatch.setattr(requests, "_parse_request", refuse)
    with (
        http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server,
        serving(server) as address,
        socket.create_connection(address, timeout=10) as client,
    ):
        client.sendall(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.0 501 ")


RUN_AS_MAIN = """
    import sys
    from socketserver_fast.__main__ import main
    try:
        main(["-m", "http.server", "0", "--bind", "127.0.0.1"])
    finally:
        kind = sys.modules["__main__"].SimpleHTTPRequestHandler
        for method in (kind.copyfile, kind.parse_request, kind.date_time_string):
            print(method.__module__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="is ended by SIGINT")
def test_http_server_as_the_program(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(RUN_AS_MAIN)],
        stdout=-1, stderr=-1, text=True, cwd=tmp_path,
    ) as child:  # fmt: skip
        port = int(child.stdout.readline().split(" port ")[1].split()[0])
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/file")
        assert client.getresponse().read() == b"x" * 100_000
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=20)
    assert output.split()[-3:] == [
        f"socketserver_fast._http.{name}" for name in ("downloads", "requests", "responses")
    ]
    assert '"GET /file HTTP/1.1" 200 -' in errors
    assert "Warning" not in errors


def test_a_request_without_a_descriptor_for_the_import_is_served_the_stdlibs_way():
    assert run("""
        import errno, importlib, socketserver, threading, urllib.request
        import socketserver_fast
        socketserver_fast.patch()
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(self.parse_request.__module__.encode())

            def log_message(self, *args):
                pass

        def no_descriptors(name):
            importlib.import_module = import_module
            raise OSError(errno.EMFILE, "Too many open files")

        import_module, importlib.import_module = importlib.import_module, no_descriptors
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        for _ in range(2):
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            url = "http://127.0.0.1:%d/" % server.server_port
            print(urllib.request.urlopen(url).read().decode())
            thread.join()
        server.server_close()
    """) == ["http.server", "socketserver_fast._http.requests"]


def test_a_method_that_was_replaced_before_is_not_taken_for_the_original():
    assert run("""
        import http.server
        import socketserver_fast

        def end_headers(self):
            original(self)

        handler = http.server.SimpleHTTPRequestHandler
        original, handler.end_headers = handler.end_headers, end_headers
        socketserver_fast.patch()
        print(handler.do_GET.__module__, handler.copyfile.__module__)
    """) == ["http.server", "socketserver_fast._http.downloads"]
