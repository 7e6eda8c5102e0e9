"""`python -m socketserver_fast serve TARGET`: a handler, a WSGI application or a folder.

    parse           the command line; each option is an attribute of a class
    load            TARGET: what the requests are handled by
    make_server     a class of the bases that the options name, with their attributes
    serve           until a signal, then finish what was accepted

Errors of the command line are one line on stderr, and exit status 2. A module that raises an
exception while it is imported ends with its traceback, as in any program.
"""

import argparse
import functools
import importlib
import io
import os
import pathlib
import socket
import socketserver as _stdlib
import ssl
import sys
from http.server import SimpleHTTPRequestHandler
from wsgiref.simple_server import WSGIRequestHandler

import socketserver_fast
from socketserver_fast import patching, systemd
from socketserver_fast.tls import TLSMixIn

__all__ = ["main"]

DESCRIPTION = """\
Serve TARGET until SIGTERM or SIGINT (Ctrl-C) comes, then finish what was accepted. TARGET is
MODULE:HANDLER, a request handler class; MODULE:APPLICATION, a WSGI application; or a folder.
With --workers, SIGHUP replaces the worker processes, SIGTTIN adds one, SIGTTOU takes one away."""

# --threads: the mix-in, and the attribute that :N sets.
MODELS = {
    "none": (None, None),
    "thread": ("ThreadingMixIn", None),
    "pool": ("ThreadPoolMixIn", "max_workers"),
    "greenlet": ("GreenletMixIn", "max_connections"),
}
HTTP_TIMEOUT = 30  # seconds, where --timeout says nothing
NULL = "\0"  # begins the name of a Unix socket that is no file, which is written with an @


class Refused(Exception):
    """Raised for a command line that makes no sense; its text says why."""


def main(arguments):
    """Serve what the command line says; returns when a signal has ended it."""
    patching.patch()  # http.server's and wsgiref's handlers, and those of TARGET that are like them
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        check(options)
        server = make_server(options)
    except Refused as error:
        parser.error(str(error))
    serve(server, options)


def serve(server, options):
    """Say where it listens, and serve."""
    try:
        with server:
            print(f"listening on {place(server)}", flush=True)
            server.serve_until_signal(drain_timeout=options.drain_timeout)
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.exit(130)


def place(server):
    """The server's address as --bind takes it."""
    address = server.socket.getsockname()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{os.fsdecode(address).replace(NULL, '@', 1)}"


# The command line.


class Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message):
        self.exit(2, f"socketserver_fast serve: {message}\n")


def command_line():
    """The parser; the help of each option names the attribute that it sets."""
    parser = Parser(
        prog="python -m socketserver_fast serve", description=DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("target", metavar="TARGET", help="MODULE:HANDLER, MODULE:APPLICATION or a folder")
    add("--bind", metavar="ADDRESS", type=Address, default=Address("127.0.0.1:8000"),
        help="HOST:PORT, [HOST]:PORT for IPv6, unix:PATH, unix:@NAME, systemd for the socket that "
             "it passes, or fd:N for an open one (server_address; default: 127.0.0.1:8000)")
    add("--udp", action="store_true", help="datagrams instead of connections (UDPServer)")
    add("--workers", metavar="N", type=count, help="worker processes (PreforkMixIn, workers)")
    add("--threads", metavar="MODEL", type=model,
        help="none, thread, pool[:N] or greenlet[:N]: ThreadingMixIn, ThreadPoolMixIn with "
             "max_workers, GreenletMixIn with max_connections (default: thread; with --udp none)")
    add("--max-requests", metavar="N", type=count,
        help="replace a worker after so many requests (max_requests)")
    add("--timeout", metavar="SECONDS", type=functools.partial(seconds, least=0.001),
        help="for each read and write of a handler (timeout; default: the handler's own, "
             f"for a folder and an application {HTTP_TIMEOUT})")
    add("--drain-timeout", metavar="SECONDS", type=seconds, default=30.0,
        help="to finish requests after the signal (drain_timeout; default: 30)")
    add("--certfile", metavar="FILE", help="TLS, with the certificate in this file")
    add("--keyfile", metavar="FILE", help="the certificate's key, if it is in another file")
    add("--access-log", action="store_true",
        help="a line on stderr for each request to a folder or an application (log_request)")
    return parser


class Address:
    """What --bind means: `family` and `address`, or `passed`: "systemd" or a descriptor."""

    family = address = passed = None

    def __init__(self, text):
        kind, colon, rest = text.partition(":")
        if text == "systemd":
            self.passed = text
        elif kind == "fd" and rest.isdecimal():
            self.passed = int(rest)
        elif kind == "unix" and rest and hasattr(socket, "AF_UNIX"):
            self.family = socket.AF_UNIX
            self.address = NULL + rest[1:] if rest.startswith("@") else rest
        else:
            host, colon, port = text.rpartition(":")
            if not colon or not port.isdecimal() or int(port) > 65535:
                raise argparse.ArgumentTypeError(
                    f"{text!r} is not HOST:PORT, [HOST]:PORT, unix:PATH, systemd or fd:N")
            bracketed = host.startswith("[") and host.endswith("]")
            if ":" in host and not bracketed:
                raise argparse.ArgumentTypeError(f"an IPv6 address needs brackets: [{host}]:{port}")
            self.family = socket.AF_INET6 if bracketed else socket.AF_INET
            self.address = host.strip("[]"), int(port)


def count(text):
    """An int, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return int(text)


def seconds(text, least=0.0):
    """A float that is a time to wait."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= 1e6:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds, {'0 or more' if least == 0 else 'above 0'}")
    return value


def model(text):
    """--threads: the name, and N."""
    name, colon, number = text.partition(":")
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(MODELS)}")
    if colon and MODELS[name][1] is None:
        raise argparse.ArgumentTypeError(f"{name} takes no number")
    return name, count(number) if colon else None


def check(options):
    """Refuse options that do not go together."""
    if options.max_requests is not None and options.workers is None:
        raise Refused("--max-requests replaces worker processes: add --workers")
    if options.keyfile and not options.certfile:
        raise Refused("--keyfile needs --certfile")
    if options.udp and options.certfile:
        raise Refused("--certfile is TLS, which needs connections: leave out --udp")
    if options.workers is not None and not hasattr(os, "fork"):
        raise Refused("--workers needs fork(2), which this system does not have")


# TARGET.


def load(options):
    """The handler that TARGET means, with the attributes that the options set."""
    if pathlib.Path(options.target).is_dir():
        handler = functools.partial(FolderHandler, directory=options.target)
    else:
        found = find(options.target)
        if is_handler(found):
            return load_handler(found, options)
        handler = ApplicationHandler
        ApplicationHandler.application = staticmethod(Application(found, options))
    if options.udp:
        raise Refused("a folder or a WSGI application needs connections: leave out --udp")
    kind = class_of(handler)
    kind.timeout = options.timeout or HTTP_TIMEOUT
    kind.logged = options.access_log
    return handler


def find(target):
    """The object that MODULE:NAME names."""
    module, colon, name = target.partition(":")
    if not colon or not name or not all(module.split(".")):
        raise Refused(f"{target!r} is neither a folder nor MODULE:HANDLER or MODULE:APPLICATION")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the module imports
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
    """The class below the functools.partial objects that programs put around one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def is_handler(found):
    """Return whether it handles requests; what else can be called is a WSGI application."""
    kind = class_of(found)
    bases = socketserver_fast.BaseRequestHandler, _stdlib.BaseRequestHandler
    return isinstance(kind, type) and issubclass(kind, bases)


def load_handler(handler, options):
    """A handler of the program's own, with its timeout."""
    kind = class_of(handler)
    if options.access_log:
        raise Refused("--access-log is for folders and WSGI applications; a handler logs by itself")
    if options.timeout is not None:
        if not hasattr(kind, "timeout"):
            raise Refused(f"--timeout needs a StreamRequestHandler, which {kind.__name__} is not")
        kind.timeout = options.timeout
    return handler


class HTTPHandler:
    """What the handlers of folders and applications have in common."""

    logged = False  # True: a line on stderr for each request

    def setup(self):
        if not isinstance(self.client_address, tuple):  # of a Unix socket
            self.client_address = ("", 0)
        super().setup()

    def address_string(self):
        """The client, as it is logged."""
        return self.client_address[0] or "-"

    def log_request(self, code="-", size="-"):
        if self.logged:
            super().log_request(code, size)


class FolderHandler(HTTPHandler, SimpleHTTPRequestHandler):
    """The files of a folder, on connections that are kept."""

    protocol_version = "HTTP/1.1"


class ApplicationHandler(HTTPHandler, WSGIRequestHandler):
    """Requests to a WSGI application, one on each connection, by wsgiref."""

    application = None


class Application:
    """A WSGI application with what wsgiref does not know: the threads, and where a body ends."""

    def __init__(self, application, options):
        self.application = application
        self.threaded = options.threads[0] != "none"
        self.forked = options.workers is not None

    def __call__(self, environ, start_response):
        if "HTTP_TRANSFER_ENCODING" in environ:  # of a length that only its chunks tell
            start_response("411 Length Required", [("Content-Length", "0")])
            return []
        environ["wsgi.multithread"] = self.threaded
        environ["wsgi.multiprocess"] = self.forked
        length = environ.get("CONTENT_LENGTH") or "0"
        environ["wsgi.input"] = io.BufferedReader(
            Body(environ["wsgi.input"], int(length) if length.isdecimal() else 0))
        return self.application(environ, start_response)


class Body(io.RawIOBase):
    """The body of a request: what the connection has, up to its Content-Length."""

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


# The server.


class Served:
    """What every server here has, whatever it is made of."""

    allow_reuse_address = True
    daemon_threads = True  # drain() has waited for them
    log_disconnects = False
    request_queue_size = 1024  # the kernel cuts it to what it allows

    def server_bind(self):
        super().server_bind()
        self.describe()

    def describe(self):
        """Set what an application is told of its server."""
        address = self.server_address
        host, port = address[:2] if isinstance(address, tuple) else ("localhost", 80)
        self.base_environ = {
            "SERVER_NAME": host, "SERVER_PORT": str(port), "SCRIPT_NAME": "",
            "GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_HOST": "", "CONTENT_LENGTH": "",
        }  # fmt: skip
        if isinstance(self, TLSMixIn):
            self.base_environ["HTTPS"] = "on"

    def get_app(self):
        """What wsgiref's handler calls."""
        return class_of(self.RequestHandlerClass).application


def make_server(options):
    """The server that the options describe, listening."""
    if options.threads is None:
        options.threads = ("none" if options.udp else "thread"), None
    passed = passed_socket(options) if options.bind.passed is not None else None
    family = options.bind.family if passed is None else passed.family
    handler = load(options)
    server_class = type("Server", bases(options, family), attributes(options, family, passed))
    try:
        if passed is None:
            return server_class(options.bind.address, handler)
        return adopt(server_class, passed, handler)
    except OSError as error:
        raise Refused(f"cannot listen on {place_of(options)}: {error}") from None


def place_of(options):
    """The address that was asked for, for an error."""
    bind = options.bind
    if bind.passed is not None:
        return bind.passed if bind.passed == "systemd" else f"fd:{bind.passed}"
    return bind.address if isinstance(bind.address, str) else "{}:{}".format(*bind.address)


def passed_socket(options):
    """The socket of --bind systemd or fd:N."""
    if options.bind.passed == "systemd":
        passed = systemd.take_socket()
        if passed is None:
            raise Refused("--bind systemd: systemd has passed no socket, see sd_listen_fds(3)")
    else:
        passed = open_descriptor(options.bind.passed)
    wanted = socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM
    if passed.type != wanted:
        raise Refused(f"{place_of(options)} is a socket of "
                      f"{'datagrams: add' if not options.udp else 'connections: leave out'} --udp")
    return passed


def open_descriptor(descriptor):
    """The socket of this number."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise Refused(f"fd:{descriptor} is no socket: {error}") from None


def adopt(server_class, passed, handler):
    """A server on a socket that is bound already."""
    server = server_class(passed.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = passed
    server.describe()
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        server.server_activate()
    return server


def bases(options, family):
    """The classes that the server is made of."""
    unix = family == getattr(socket, "AF_UNIX", None)
    handshake = [TLSMixIn] if options.certfile else []
    notify = [systemd.NotifyMixIn] if "NOTIFY_SOCKET" in os.environ else []
    names = ["PreforkMixIn"] if options.workers is not None else []
    names += [MODELS[options.threads[0]][0]] if options.threads[0] != "none" else []
    names.append({
        (False, False): "TCPServer", (False, True): "UDPServer",
        (True, False): "UnixStreamServer", (True, True): "UnixDatagramServer",
    }[unix, options.udp])  # fmt: skip
    try:
        models = [getattr(socketserver_fast, name) for name in names]
    except (ImportError, RuntimeError) as error:
        raise Refused(f"--threads greenlet: {error}") from None
    return (Served, *handshake, *notify, *models)


def attributes(options, family, passed):
    """The attributes that the options set, by name."""
    found = {"address_family": family}
    if options.workers is not None:
        found |= {"workers": options.workers, "max_requests": options.max_requests}
        ip = family in (socket.AF_INET, socket.AF_INET6)
        found["reuse_port"] = options.udp and ip and passed is None and sys.platform == "linux"
    if isinstance(options.bind.address, str) and not options.bind.address.startswith(NULL):
        found["owns_unix_path"] = True
    name, number = options.threads
    if number is not None:
        found[MODELS[name][1]] = number
    if options.certfile:
        found["ssl_context"] = tls(options)
    return found


def tls(options):
    """The context with the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.certfile, options.keyfile)
    except OSError as error:  # ssl.SSLError is one
        files = " and ".join(filter(None, [options.certfile, options.keyfile]))
        raise Refused(f"cannot read a certificate and its key from {files}: {error}") from None
    return context
