"""Who is compared. A contender is one line here and one function `serve(task, announce)`."""

import dataclasses
import socketserver

NOT_INSTALLED = "not installed: "


class Unavailable(Exception):
    """This contender has no such server; the text says what is missing."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """Where its server is and what it can serve."""

    program: str  # module of this folder and function, or "floor", compiled
    work: frozenset
    transports: frozenset
    imports: str = ""  # the statement that a program using it begins with
    threaded: bool = False  # does it stand for servers with threads only?

    def can(self, workload):
        """Does it take part in this workload at all?"""
        if workload.measure == "import":
            return bool(self.imports)
        if self.threaded and not workload.server.startswith("Threading"):
            return False
        return workload.work in self.work and workload.transport in self.transports


STREAMS = frozenset({"tcp", "unix"})
EVERY_TRANSPORT = frozenset({"tcp", "unix", "udp", "unixgram"})
TLS_TOO = EVERY_TRANSPORT | {"tls"}
TCP = frozenset({"tcp"})
ECHO = frozenset({"lines", "packets"})
CLASSES = ECHO | {"sleep"}
WSGI = frozenset({"wsgi"})
HTTP = WSGI | {"http", "http11", "static", "upload", "xmlrpc"}
PATCH = "import socketserver_fast; socketserver_fast.patch()"
CONTENDERS = {
    "stdlib": Contender("classes:serve", CLASSES | HTTP, TLS_TOO, "import socketserver"),
    "fast": Contender("classes:serve", CLASSES, TLS_TOO, "import socketserver_fast"),
    "patched": Contender("classes:serve", CLASSES | HTTP, TLS_TOO, PATCH),
    "patched_pool": Contender("classes:serve", CLASSES | HTTP, TCP, threaded=True),
    "patched_greenlet": Contender("classes:serve", CLASSES | HTTP, TCP, threaded=True),
    "asyncio_streams": Contender("peers:asyncio_streams", ECHO, STREAMS),
    "asyncio_protocol": Contender("peers:asyncio_protocol", ECHO, EVERY_TRANSPORT),
    "uvloop_streams": Contender("peers:uvloop_streams", ECHO, STREAMS),
    "uvloop_protocol": Contender("peers:uvloop_protocol", ECHO, STREAMS | {"udp"}),
    "gevent": Contender("peers:gevent", ECHO, STREAMS | {"udp"}),
    "cheroot": Contender("wsgi:cheroot", WSGI, TCP),
    "gevent_pywsgi": Contender("wsgi:gevent_pywsgi", WSGI, TCP),
    "granian": Contender("wsgi:granian", WSGI, TCP),
    "gunicorn_gevent": Contender("wsgi:gunicorn_gevent", WSGI, TCP),
    "gunicorn_gthread": Contender("wsgi:gunicorn_gthread", WSGI, TCP),
    "waitress": Contender("wsgi:waitress", WSGI, TCP),
    "werkzeug": Contender("wsgi:werkzeug", WSGI, TCP),
    "floor": Contender("floor", ECHO | {"http", "http11", "static", "wsgi"}, TCP | {"udp"}),
}


def library_of(contender):
    """The module that takes the place of `import socketserver`, patched as the contender says."""
    if contender == "stdlib":
        return socketserver
    import socketserver_fast

    if contender == "fast":
        return socketserver_fast
    threads = contender.removeprefix("patched").removeprefix("_")
    socketserver_fast.patch(**({"threads": threads} if threads else {}))
    return socketserver
