"""Runs `python -m socketserver_fast serve TARGET`: a handler, a WSGI application or a folder.

    _cli/command_line    parses the options, each of which is an attribute of a class
    _cli/target          finds or makes the handler of the requests
    make_server          makes a class of the bases and attributes that the options name
    serve                serves until a signal, then finishes what was accepted

An error of the command line is one line on stderr, with exit status 2. If TARGET's module raises an
exception while it is imported, its traceback is printed, as in any program.
"""

import contextlib
import importlib
import os
import pathlib
import socket
import ssl
import sys

import socketserver_fast
from socketserver_fast import patching, statistics, systemd
from socketserver_fast._cli.command_line import MODELS, NULL, Refused, check, command_line
from socketserver_fast._cli.target import class_of, load
from socketserver_fast.tls import TLSMixIn

__all__ = ["main"]

IMPORTERS = {"__main__", "importlib", "runpy", "socketserver_fast"}  # of TARGET's module


def main(arguments):
    """Serve what the command line says, until a signal."""
    sys.excepthook = show_exception
    patching.patch()  # for the handlers of http.server and wsgiref, and those of TARGET
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        check(options)
        with make_server(options) as server:
            serve(server, options)
    except Refused as error:
        parser.error(str(error))
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.exit(130)


def show_exception(kind, error, trace):
    """Print a traceback without the frames that have imported TARGET's module."""
    inner = trace
    while inner is not None and package_of(inner.tb_frame) in IMPORTERS:
        inner = inner.tb_next
    if inner is None and not isinstance(error, SyntaxError):
        inner = trace  # it is an error of this package
    sys.__excepthook__(kind, error.with_traceback(inner), inner)


def package_of(frame):
    """Return the name of the package, or else of the module, that a frame belongs to."""
    return frame.f_globals.get("__name__", "").partition(".")[0]


def serve(server, options):
    """Print where the server listens, then serve until a signal."""
    with make_exporter(server, options) as exporter:
        print(f"listening on {place(server)}", flush=True)
        if exporter is not None:
            print(f"metrics on http://{place(exporter)}/metrics", flush=True)
        server.serve_until_signal(drain_timeout=options.drain_timeout)


def place(server):
    """Return the server's address in the form that --bind takes."""
    address = server.socket.getsockname()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{os.fsdecode(address).replace(NULL, '@', 1)}"


# The server.


class Served:
    """Sets what every server of the command has, whatever its other bases are."""

    allow_reuse_address = True
    daemon_threads = True  # drain() waits for them, so the exit need not
    log_disconnects = False
    request_queue_size = 1024  # the kernel cuts it to what it allows

    def server_bind(self):
        super().server_bind()
        self.describe()

    def describe(self):
        """Set what a WSGI application learns about its server."""
        address = self.server_address
        host, port = address[:2] if isinstance(address, tuple) else ("localhost", 80)
        self.base_environ = {
            "SERVER_NAME": host, "SERVER_PORT": str(port), "SCRIPT_NAME": "",
            "GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_HOST": "", "CONTENT_LENGTH": "",
        }  # fmt: skip
        if isinstance(self, TLSMixIn):
            self.base_environ["HTTPS"] = "on"

    def get_app(self):
        """Return the application, for wsgiref's handler."""
        return class_of(self.RequestHandlerClass).application


def make_server(options):
    """Return the server that the options describe. It listens already."""
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
        raise Refused(f"cannot listen on {options.bind}: {error}") from None


def make_exporter(server, options):
    """Return a context manager: the server that answers Prometheus, or None without --metrics."""
    if options.metrics is None:
        return contextlib.nullcontext()
    try:
        exporter = load_exporter().Exporter(options.metrics, server, options.target)
    except OSError as error:
        raise Refused(f"cannot listen on {options.metrics}: {error}") from None
    if options.workers is None:
        exporter.start()
    else:
        server.exporter = exporter
    return exporter


def load_exporter():
    """Import the exporter, which needs the package prometheus_client."""
    try:
        return importlib.import_module("socketserver_fast._cli.exporter")
    except ImportError as error:
        raise Refused(f"--metrics needs the package prometheus_client ({error}): "
                      "pip install socketserver_fast[metrics]") from None


def passed_socket(options):
    """Return the open socket that --bind systemd or --bind fd:N names."""
    if options.bind.passed == "systemd":
        passed = socket_of_systemd()
    else:
        passed = open_descriptor(options.bind.passed)
    wanted = socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM
    if passed.type != wanted:
        raise Refused(f"{options.bind} is a socket of "
                      f"{'datagrams: add' if not options.udp else 'connections: leave out'} --udp")
    return passed


def socket_of_systemd():
    """Return the first socket that systemd has passed."""
    try:
        passed = systemd.take_socket()
    except (OSError, ValueError) as error:
        raise Refused(f"--bind systemd: {error}") from None
    if passed is None:
        raise Refused("--bind systemd: systemd has passed no socket, see sd_listen_fds(3)")
    return passed


def open_descriptor(descriptor):
    """Return a socket with this descriptor."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise Refused(f"fd:{descriptor} is no socket: {error}") from None


def adopt(server_class, passed, handler):
    """Return a server on a socket that is bound already."""
    server = server_class(passed.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = passed
    server.describe()
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        server.server_activate()
    return server


def bases(options, family):
    """Return the base classes of the server."""
    unix = family == getattr(socket, "AF_UNIX", None)
    network = [TLSMixIn] if options.certfile is not None else []
    if options.metrics is not None:
        network += [load_exporter().ParentAnswers] if options.workers is not None else []
        network.append(statistics.StatisticsMixIn)
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
    return (Served, *network, *notify, *models)


def attributes(options, family, passed):
    """Return the attributes that the options set, as a dict."""
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
    if options.certfile is not None:
        found["ssl_context"] = tls(options)
    return found


def tls(options):
    """Return an SSLContext with the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = [file for file in (options.certfile, options.keyfile) if file is not None]
    try:
        for file in files:
            with pathlib.Path(file).open("rb"):
                pass  # the error of OpenSSL would not say which file it is
        context.load_cert_chain(*files, password=refuse_to_ask)
    except ssl.SSLError as error:
        raise Refused(f"no certificate with its key, in PEM, in {' and '.join(files)}: "
                      f"{error}") from None
    except OSError as error:
        raise Refused(f"cannot read a certificate and its key: {error}") from None
    return context


def refuse_to_ask():
    """Raise Refused for a key that is encrypted, where OpenSSL would ask the terminal."""
    raise Refused("the certificate's key is encrypted, and serve asks for no password")
