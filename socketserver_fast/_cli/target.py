"""Finds the handler that TARGET names; has handlers for folders and WSGI applications."""

import functools
import importlib
import inspect
import io
import pathlib
import socketserver as _stdlib
from http.server import SimpleHTTPRequestHandler
from wsgiref.simple_server import WSGIRequestHandler

from socketserver_fast import handlers, servers
from socketserver_fast._cli.command_line import HTTP_TIMEOUT, Refused


def load(options):
    """Return the handler for TARGET, with the attributes that the options set."""
    if options.target and pathlib.Path(options.target).is_dir():
        handler = functools.partial(FolderHandler, directory=options.target)
    else:
        found = find(options.target)
        if is_kind(found, handlers.BaseRequestHandler):
            return load_handler(found, options)
        check_application(found, options.target)
        handler = ApplicationHandler
        ApplicationHandler.application = staticmethod(Application(found, options))
    if options.udp:
        raise Refused("a folder or a WSGI application needs connections: leave out --udp")
    kind = class_of(handler)
    kind.timeout = options.timeout or HTTP_TIMEOUT
    kind.logged = options.access_log
    return handler


def find(target):
    """Import the object that MODULE:NAME names."""
    module, colon, name = target.partition(":")
    if not colon or not name or not all(module.split(".")):
        raise Refused(f"{target!r} is neither a folder nor MODULE:HANDLER or MODULE:APPLICATION")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # MODULE is there; one that it imports is not
        raise Refused(f"there is no module {error.name!r}") from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refused(f"module {module!r} has no {name!r}") from None
    if not callable(found):
        raise Refused(f"{target} is no handler class and no WSGI application, "
                      f"but of type {type(found).__name__}")
    return found


def class_of(handler):
    """Return the class inside of functools.partial objects."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def is_kind(found, base):
    """Return whether it is a subclass of `base`, or of the stdlib's class of that name."""
    kind = class_of(found)
    return isinstance(kind, type) and issubclass(kind, (base, getattr(_stdlib, base.__name__)))


def check_application(found, target):
    """Raise Refused for what is certainly not a WSGI application."""
    if is_kind(found, servers.BaseServer):
        raise Refused(f"{target} is a class of servers: name the one of its request handler")
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__):
        raise Refused(f"{target} is asynchronous, as for ASGI: serve runs WSGI applications")
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return  # it does not say what it takes
    try:
        signature.bind("environ", "start_response")
    except TypeError:
        raise Refused(f"{target}{signature} is no WSGI application: those are called with "
                      "(environ, start_response)") from None


def load_handler(handler, options):
    """Set the timeout of the program's own handler, and return it."""
    kind = class_of(handler)
    if options.udp and is_kind(kind, handlers.StreamRequestHandler):
        raise Refused(f"{kind.__name__} is a StreamRequestHandler: leave out --udp")
    if not options.udp and is_kind(kind, handlers.DatagramRequestHandler):
        raise Refused(f"{kind.__name__} is a DatagramRequestHandler: add --udp")
    if options.access_log:
        raise Refused("--access-log is for folders and WSGI applications; a handler logs by itself")
    if options.timeout is not None:
        if not hasattr(kind, "timeout"):
            raise Refused(f"--timeout needs a StreamRequestHandler, which {kind.__name__} is not")
        kind.timeout = options.timeout
    return handler


class HTTPHandler:
    """Does what the handlers of folders and applications have in common."""

    logged = False  # True: a line on stderr for each request

    def setup(self):
        if not isinstance(self.client_address, tuple):  # the client of a Unix socket
            self.client_address = ("", 0)
        super().setup()

    def address_string(self):
        """Return the client as it is logged."""
        return self.client_address[0] or "-"

    def log_request(self, code="-", size="-"):
        if self.logged:
            super().log_request(code, size)


class FolderHandler(HTTPHandler, SimpleHTTPRequestHandler):
    """Serves the files of a folder, on kept connections."""

    protocol_version = "HTTP/1.1"


class ApplicationHandler(HTTPHandler, WSGIRequestHandler):
    """Serves a WSGI application by wsgiref, one request on each connection."""

    application = None


class Application:
    """Tells a WSGI application what wsgiref does not: threads, processes, where a body ends."""

    def __init__(self, application, options):
        self.application = application
        self.threaded = options.threads[0] != "none"
        self.forked = options.workers is not None

    def __call__(self, environ, start_response):
        if "HTTP_TRANSFER_ENCODING" in environ:  # only the chunks tell how long the body is
            start_response("411 Length Required", [("Content-Length", "0")])
            return []
        environ["wsgi.multithread"] = self.threaded
        environ["wsgi.multiprocess"] = self.forked
        length = environ.get("CONTENT_LENGTH") or "0"
        environ["wsgi.input"] = io.BufferedReader(
            Body(environ["wsgi.input"], int(length) if length.isdecimal() else 0))
        return self.application(environ, start_response)


class Body(io.RawIOBase):
    """Reads the body of a request: the connection, up to its Content-Length."""

    def __init__(self, file, length):
        self.file = file
        self.left = length

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.file.read1(min(len(buffer), self.left)) if self.left else b""
        buffer[:len(data)] = data
        self.left -= len(data)
        return len(data)


