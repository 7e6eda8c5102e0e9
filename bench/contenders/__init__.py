"""Defines who is compared. A contender is one line here and, if no command starts it, a function
`serve(task, announce)` beside it."""

import dataclasses
import socketserver


@dataclasses.dataclass(frozen=True)
class Contender:
    """Says where its server is and what it can serve."""

    program: str | list  # module of this folder and function, or arguments of Python
    work: frozenset
    transports: frozenset
    threaded: bool = False  # does it stand for servers with threads only?

    def can(self, workload):
        """Return whether it takes part in this workload."""
        if self.threaded and not workload.server.startswith("Threading"):
            return False
        return workload.work in self.work and workload.transport in self.transports


TRANSPORTS = frozenset({"tcp", "tls", "udp"})
TCP = frozenset({"tcp"})
ECHO = frozenset({"lines", "packets"})
WSGI = frozenset({"wsgi"})
HTTP = WSGI | {"http", "http11", "static", "upload", "xmlrpc"}
GUNICORN = "-m gunicorn --backlog 1024 --log-level warning --bind 127.0.0.1:{port}"
PYWSGI = """
from bench.web import application
from gevent.pywsgi import WSGIServer
WSGIServer(("127.0.0.1", {port}), application, log=None, backlog=1024).serve_forever()"""
WERKZEUG = """
from bench.web import application
from werkzeug.serving import make_server
make_server("127.0.0.1", {port}, application, threaded=True).serve_forever()"""

FLOOR = """
import os
from bench.build import compiled
os.execv(compiled("floor"), ["floor", "{port}"])"""


def wsgi(arguments, code=""):
    """Make a contender of a WSGI server: one process with defaults, or with documented threads."""
    return Contender([*arguments.split(), *([code] if code else [])], WSGI, TCP)


CONTENDERS = {
    "stdlib": Contender("classes:serve", ECHO | HTTP, TRANSPORTS),
    "fast": Contender("classes:serve", ECHO, TRANSPORTS),
    "patched": Contender("classes:serve", ECHO | HTTP, TRANSPORTS),
    "patched_pool": Contender("classes:serve", ECHO | HTTP, TCP, threaded=True),
    "patched_greenlet": Contender("classes:serve", ECHO | HTTP, TCP, threaded=True),
    "asyncio_streams": Contender("peers:asyncio_streams", ECHO, TCP),
    "uvloop_streams": Contender("peers:uvloop_streams", ECHO, TCP),
    "uvloop_bytes": Contender("peers:uvloop_bytes", ECHO, TCP | {"udp"}),
    "gevent": Contender("peers:gevent", ECHO, TCP | {"udp"}),
    "cheroot": wsgi("-m cheroot --request-queue-size 1024 --bind 127.0.0.1:{port} {app}"),
    "gevent_pywsgi": wsgi("-c", PYWSGI),
    "granian": wsgi("-m granian --interface wsgi --no-log --backlog 1024 --port {port} {app}"),
    "gunicorn_gevent": wsgi(f"{GUNICORN} -k gevent {{app}}"),
    "gunicorn_gthread": wsgi(f"{GUNICORN} -k gthread --threads 8 {{app}}"),
    "waitress": wsgi("-m waitress --threads 8 --backlog 1024 --listen 127.0.0.1:{port} {app}"),
    "werkzeug": wsgi("-c", WERKZEUG),
    "floor": Contender(["-c", FLOOR], frozenset({"lines", "http", "http11", "wsgi"}), TCP),
}


def library_of(contender):
    """Return what `import socketserver` stands for, patched as the contender says."""
    if contender == "stdlib":
        return socketserver
    import socketserver_fast

    if contender == "fast":
        return socketserver_fast
    threads = contender.removeprefix("patched").removeprefix("_")
    socketserver_fast.patch(**({"threads": threads} if threads else {}))
    return socketserver
