"""`python -m socketserver_fast serve TARGET`: a handler, a WSGI application or a folder.

    command_line    of _cli: the options, each of which is an attribute of a class
    target          of _cli: what the requests are handled by
    make_server     a class of the bases that the options name, with their attributes
    serve           until a signal, then finish what was accepted

Errors of the command line are one line on stderr, and exit status 2. A module that raises an
exception while it is imported ends with its traceback, as in any program.
"""

import contextlib
import importlib
import os
import socket
import ssl
import sys

import socketserver_fast
from socketserver_fast import patching, statistics, systemd
from socketserver_fast._cli.command_line import MODELS, NULL, Refused, check, command_line
from socketserver_fast._cli.target import class_of, load
from socketserver_fast.tls import TLSMixIn

__all__ = ["main"]


def main(arguments):
    """Serve what the command line says; returns when a signal has ended it."""
    patching.patch()  # http.server's and wsgiref's handlers, and those of TARGET that are like them
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


def serve(server, options):
    """Say where it listens, and serve."""
    with make_exporter(server, options) as exporter:
        print(f"listening on {place(server)}", flush=True)
        if exporter is not None:
            print(f"metrics on http://{place(exporter)}/metrics", flush=True)
        server.serve_until_signal(drain_timeout=options.drain_timeout)


def place(server):
    """The server's address as --bind takes it."""
    address = server.socket.getsockname()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{os.fsdecode(address).replace(NULL, '@', 1)}"


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
        raise Refused(f"cannot listen on {options.bind}: {error}") from None


def make_exporter(server, options):
    """A context manager that answers Prometheus; gives None without --metrics."""
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
    """The module, which needs another package."""
    try:
        return importlib.import_module("socketserver_fast._cli.exporter")
    except ImportError as error:
        raise Refused(f"--metrics needs the package prometheus_client ({error}): "
                      "pip install socketserver_fast[metrics]") from None


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
        raise Refused(f"{options.bind} is a socket of "
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
    network = [TLSMixIn] if options.certfile else []
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
