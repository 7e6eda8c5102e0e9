"""The stdlib, the package, and the stdlib's own classes with the package patched in."""

import contextlib
import http.server
import socketserver
import tempfile
import time
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from bench.contenders import Unavailable
from bench.contenders.work import BODY, PAGE, application, pattern
from bench.libraries import library_of
from bench.workloads import WEB

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
    patched_with("pool", task, announce)


def patched_greenlet(task, announce):
    """The stdlib's threading classes on greenlets of the package."""
    patched_with("greenlet", task, announce)


def patched_with(threads, task, announce):
    """Serve after patch(threads=...)."""
    import socketserver_fast

    socketserver_fast.patch(threads=threads)
    serve(socketserver, task, announce)


def server_class(library, task):
    """A subclass, as programs make them, of a class of the library or the stdlib's HTTP modules."""
    try:
        parents = [getattr(library, name) for name in parent_names(task.server)]
    except AttributeError as missing:
        if task.server not in WEB_SERVERS:
            raise Unavailable(str(missing)) from None
        parents = WEB_SERVERS[task.server]
    settings = {"request_queue_size": BACKLOG}
    if task.work not in WEB:
        settings["max_workers"] = task.workers
    return type("Server", tuple(parents), settings)


WEB_SERVERS = {
    "HTTPServer": [http.server.HTTPServer],
    "ThreadingHTTPServer": [http.server.ThreadingHTTPServer],
    "WSGIServer": [WSGIServer],
    "ThreadingWSGIServer": [socketserver.ThreadingMixIn, WSGIServer],
    "ThreadingXMLRPCServer": [socketserver.ThreadingMixIn, SimpleXMLRPCServer],
}


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
        if task.work == "xmlrpc":
            server.register_function(lambda text: text, "echo")
        announce(task.transport, server.server_address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def lines(library, task):
    """Echo line by line."""

    class Lines(library.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    return Lines


def sleep(library, task):
    """Echo a line after a while."""

    class Sleep(library.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                time.sleep(NAP)
                self.wfile.write(line)

    return Sleep


def bulk(library, task):
    """`P n` and n bytes are taken, `G n` gets n bytes."""

    class Bulk(library.StreamRequestHandler):
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
    """Answer a GET or a POST with 1 KiB."""

    class Pages(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0" if task.work == "http" else "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

    return Pages


def files(library, task):
    """What `python -m http.server` does, in a folder with a file of that size."""
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    Path(folder.name, "page").write_bytes(pattern(task.size))

    class Files(http.server.SimpleHTTPRequestHandler):
        kept = folder  # as long as the class

        def __init__(self, *args):
            super().__init__(*args, directory=folder.name)

    return Files


def calls(library, task):
    """The handler of XML-RPC, which takes calls at any path here."""

    class Calls(SimpleXMLRPCRequestHandler):
        rpc_paths = ()

    return Calls


HANDLERS = {"lines": lines, "sleep": sleep, "bulk": bulk, "packets": packets, "http": pages,
            "http11": pages, "upload": pages, "static": files, "xmlrpc": calls,
            "wsgi": lambda library, task: WSGIRequestHandler}
