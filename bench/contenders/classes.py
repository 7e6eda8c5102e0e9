"""Serves with the stdlib, with the package, or with the stdlib's classes, patched."""

import contextlib
import http.server
import socketserver
import ssl
import subprocess
import tempfile
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from bench.contenders import library_of
from bench.web import PAGE, application
from bench.workloads import WEB

BACKLOG = 1024
CERTIFY = ("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
           "-subj /CN=localhost -keyout {0}/key -out {0}/certificate")
WEB_SERVERS = {
    "HTTPServer": (http.server.HTTPServer,),
    "ThreadingHTTPServer": (http.server.ThreadingHTTPServer,),
    "WSGIServer": (WSGIServer,),
    "ThreadingWSGIServer": (socketserver.ThreadingMixIn, WSGIServer),
    "ThreadingXMLRPCServer": (socketserver.ThreadingMixIn, SimpleXMLRPCServer),
}


def serve(task, announce):
    """Serve with the contender's class until the process is ended."""
    library = library_of(task.contender)
    cls = server_class(library, task)
    with cls(task.address, HANDLERS[task.work](library, task)) as server:
        if task.work == "wsgi":
            server.set_app(application)
        if task.work == "xmlrpc":
            server.register_function(lambda text: text, "echo")
        if task.transport == "tls" and library is socketserver:
            server.socket = tls_context().wrap_socket(server.socket, server_side=True)
        announce()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def server_class(library, task):
    """Make a subclass of the library's class, or of one of the stdlib's HTTP modules."""
    parents = WEB_SERVERS.get(task.server) or classes(library, task.server)
    settings = {"request_queue_size": BACKLOG}
    if task.work not in WEB:
        settings["max_workers"] = task.workers
    if task.transport == "tls" and library is not socketserver:
        from socketserver_fast.tls import TLSMixIn

        parents, settings["ssl_context"] = (TLSMixIn, *parents), tls_context()
    return type("Server", parents, settings)


def classes(library, name):
    """Return the bases: the class of that name, or for PreforkGreenlet… a mix-in and a class."""
    prefork, greenlet, rest = name.partition("Greenlet")
    names = ("PreforkMixIn", greenlet + rest) if greenlet and prefork else (name,)
    try:
        return tuple(getattr(library, name) for name in names)
    except AttributeError as missing:
        raise ImportError(missing) from None


def tls_context():
    """Return a server's context with a new certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            subprocess.run(CERTIFY.format(folder).split(), check=True, capture_output=True)
        except OSError as error:
            raise ImportError(f"no certificate: {error}") from None
        context.load_cert_chain(f"{folder}/certificate", f"{folder}/key")
    return context


def lines(library, task):
    """Echo line by line."""

    class Lines(library.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    return Lines


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
    """Serve files as `python -m http.server` does, in a folder with one of that size."""
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    Path(folder.name, "page").write_bytes(task.answer)

    class Files(http.server.SimpleHTTPRequestHandler):
        kept = folder  # as long as the class

        def __init__(self, *args):
            super().__init__(*args, directory=folder.name)

    return Files


def calls(library, task):
    """Answer XML-RPC calls at any path."""

    class Calls(SimpleXMLRPCRequestHandler):
        rpc_paths = ()

    return Calls


HANDLERS = {"lines": lines, "packets": packets, "http": pages, "http11": pages,
            "upload": pages, "static": files, "xmlrpc": calls,
            "wsgi": lambda library, task: WSGIRequestHandler}
