"""The stdlib, the package, and the stdlib's own classes with the package patched in."""

import contextlib
import http.server
import wsgiref.simple_server

from bench.contenders import Unavailable
from bench.contenders.work import BODY, PAGE, application
from bench.libraries import library_of

BACKLOG = 1024


def stdlib(task, announce):
    """The stdlib as it is."""
    serve(library_of("stdlib"), task, announce)


def fast(task, announce):
    """The package, imported instead of the stdlib."""
    serve(library_of("fast"), task, announce)


def patched(task, announce):
    """The stdlib's classes after `socketserver_fast.patch()`."""
    serve(library_of("patched"), task, announce)


def server_class(library, name):
    """A subclass, as programs make them, of a class of the library or the stdlib's HTTP modules."""
    module = {"HTTPServer": http.server, "ThreadingHTTPServer": http.server,
              "WSGIServer": wsgiref.simple_server}.get(name, library)
    try:
        parent = getattr(module, name)
    except AttributeError as missing:
        raise Unavailable(str(missing)) from None
    return type("Server", (parent,), {"request_queue_size": BACKLOG})


def serve(library, task, announce):
    """Serve until the process is ended."""
    cls = server_class(library, task.server)
    with cls(task.address, HANDLERS[task.work](library, task)) as server:
        if task.work == "wsgi":
            server.set_app(application)
        announce(task.transport, server.server_address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def lines(library, task):
    """Echo line by line."""

    class Lines(library.StreamRequestHandler):
        disable_nagle_algorithm = task.transport == "tcp"

        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    return Lines


def bulk(library, task):
    """`P n` and n bytes are taken, `G n` gets n bytes."""

    class Bulk(library.StreamRequestHandler):
        disable_nagle_algorithm = task.transport == "tcp"

        def handle(self):
            for line in self.rfile:
                size = int(line[1:])
                if line[:1] == b"G":
                    self.wfile.write(BODY[:size])
                elif len(self.rfile.read(size)) == size:
                    self.wfile.write(b"ok\n")

    return Bulk


def packets(library, task):
    """Echo a packet."""

    class Packets(library.DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read())

    return Packets


def pages(library, task):
    """Answer a GET with 1 KiB."""

    class Pages(http.server.BaseHTTPRequestHandler):
        disable_nagle_algorithm = True
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *args):
            """A benchmark of the log is not wanted."""

    return Pages


def wsgi(library, task):
    """wsgiref's handler without its log."""

    class Handler(wsgiref.simple_server.WSGIRequestHandler):
        disable_nagle_algorithm = True

        def log_message(self, *args):
            """A benchmark of the log is not wanted."""

    return Handler


HANDLERS = {"lines": lines, "bulk": bulk, "packets": packets, "http": pages, "wsgi": wsgi}
