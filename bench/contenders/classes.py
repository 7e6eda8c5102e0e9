"""The stdlib, the package, and the stdlib's own classes with the package patched in."""

import contextlib
import http.server
import socketserver
import time
import wsgiref.simple_server

from bench.contenders import Unavailable
from bench.contenders.work import BODY, PAGE, application
from bench.libraries import library_of

BACKLOG = 1024
NAP = 0.01  # seconds: a handler that waits for something else


def stdlib(task, announce):
    """The stdlib as it is."""
    serve(library_of("stdlib"), task, announce)


def fast(task, announce):
    """The package, imported instead of the stdlib."""
    serve(library_of("fast"), task, announce)


def patched(task, announce):
    """The stdlib's classes after `socketserver_fast.patch()`."""
    serve(library_of("patched"), task, announce)


def patched_pool(task, announce):
    """The stdlib's threading classes on a pool of the package."""
    patched_with("pool", task, announce, max_workers=task.workers)


def patched_greenlet(task, announce):
    """The stdlib's threading classes on greenlets of the package."""
    patched_with("greenlet", task, announce)


def patched_with(threads, task, announce, **settings):
    """Serve after patch(threads=...)."""
    import socketserver_fast

    socketserver_fast.patch(threads=threads, **settings)
    serve(socketserver, task, announce)


def server_class(library, task):
    """A subclass, as programs make them, of a class of the library or the stdlib's HTTP modules."""
    module = {"HTTPServer": http.server, "ThreadingHTTPServer": http.server,
              "WSGIServer": wsgiref.simple_server}.get(task.server, library)
    try:
        parents = [getattr(module, name) for name in parent_names(task.server)]
    except AttributeError as missing:
        raise Unavailable(str(missing)) from None
    settings = {"request_queue_size": BACKLOG, "max_workers": task.workers}
    return type("Server", tuple(parents), settings)


def parent_names(name):
    """One class of that name, or a mix-in before it: PreforkGreenletTCPServer has no name of its
    own in the package."""
    prefork, greenlet, rest = name.partition("Greenlet")
    return ["PreforkMixIn", greenlet + rest] if greenlet and prefork else [name]


def serve(library, task, announce):
    """Serve until the process is ended."""
    cls = server_class(library, task)
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


def sleep(library, task):
    """Echo a line after a while."""

    class Sleep(library.StreamRequestHandler):
        disable_nagle_algorithm = task.transport == "tcp"

        def handle(self):
            for line in self.rfile:
                time.sleep(NAP)
                self.wfile.write(line)

    return Sleep


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


HANDLERS = {"lines": lines, "sleep": sleep, "bulk": bulk, "packets": packets, "http": pages,
            "wsgi": wsgi}
