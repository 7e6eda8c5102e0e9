"""Who is compared. A contender is one line here and one function `serve(task, announce)`."""

import dataclasses

STREAMS = frozenset({"tcp", "unix"})
EVERY_TRANSPORT = frozenset({"tcp", "unix", "udp", "unixgram"})
ECHO = frozenset({"lines", "packets"})


NOT_INSTALLED = "not installed: "


class Unavailable(Exception):
    """This contender has no such server; the text says what is missing."""


def why_unavailable(error):
    """What an Unavailable or an ImportError means, in words."""
    return f"{'' if isinstance(error, Unavailable) else NOT_INSTALLED}{error}"


@dataclasses.dataclass(frozen=True)
class Contender:
    """Where its server is and what it can serve."""

    program: str  # module of this folder and function, or "floor" or "floor_threads", compiled
    work: frozenset = ECHO | {"bulk"}
    transports: frozenset = EVERY_TRANSPORT
    imports: str = ""  # the statement that a program using it begins with
    classes: bool = False  # has it the stdlib's classes, with a shutdown()?
    threaded: bool = False  # does it stand for servers with threads only?

    def can(self, workload):
        """Does it take part in this workload at all?"""
        if workload.measure == "import":
            return bool(self.imports)
        if workload.measure in ("shutdown", "drain") and not self.classes:
            return False
        if self.threaded and "Thread" not in workload.server:
            return False
        return workload.work in self.work and workload.transport in self.transports


WSGI = frozenset({"wsgi"})
HTTP = WSGI | {"http", "http11", "static", "upload", "xmlrpc"}
TCP = frozenset({"tcp"})
CLASSES = ECHO | {"bulk", "sleep"}
CONTENDERS = {
    "stdlib": Contender(
        "classes:stdlib", CLASSES | HTTP, imports="import socketserver", classes=True
    ),
    "fast": Contender("classes:fast", CLASSES, imports="import socketserver_fast", classes=True),
    "patched": Contender(
        "classes:patched", CLASSES | HTTP, classes=True,
        imports="import socketserver_fast; socketserver_fast.patch()",
    ),
    "patched_pool": Contender("classes:patched_pool", HTTP, threaded=True),
    "patched_greenlet": Contender("classes:patched_greenlet", HTTP, threaded=True),
    "asyncio_streams": Contender(
        "coroutines:asyncio_streams", transports=STREAMS, imports="import asyncio"
    ),
    "asyncio_protocol": Contender("coroutines:asyncio_protocol"),
    "uvloop_streams": Contender(
        "coroutines:uvloop_streams", transports=STREAMS, imports="import uvloop"
    ),
    "uvloop_protocol": Contender("coroutines:uvloop_protocol", transports=STREAMS | {"udp"}),
    "gevent": Contender(
        "greenlets:gevent_servers", transports=STREAMS | {"udp"}, imports="import gevent.server"
    ),
    "cheroot": Contender("wsgi:cheroot", WSGI, TCP),
    "gevent_pywsgi": Contender("wsgi:gevent_pywsgi", WSGI, TCP),
    "granian": Contender("wsgi:granian", WSGI, TCP),
    "gunicorn_gevent": Contender("wsgi:gunicorn_gevent", WSGI, TCP),
    "gunicorn_gthread": Contender("wsgi:gunicorn_gthread", WSGI, TCP),
    "waitress": Contender("wsgi:waitress", WSGI, TCP),
    "werkzeug": Contender("wsgi:werkzeug", WSGI, TCP),
    "floor": Contender("floor", ECHO | {"bulk", "http", "http11", "static", "wsgi"}),
    "floor_threads": Contender("floor_threads", frozenset({"lines"}), STREAMS, threaded=True),
}
