"""Parses the command line of serve. Each option sets an attribute of a class."""

import argparse
import functools
import os
import re
import socket

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
HTTP_TIMEOUT = 30  # seconds, without --timeout
LARGEST = 10**9  # of a count: C has room for it
HOST_PORT = re.compile(r"(?:\[([\w.:%-]+)\]|([\w.-]*)):(\d{1,5})", re.ASCII)
NULL = "\0"  # begins the name of an abstract Unix socket; on the command line that is an @


class Refused(Exception):
    """Raised for a command line that makes no sense; its text says why."""


class Parser(argparse.ArgumentParser):
    """Prints an error as one line, without the usage."""

    def error(self, message):
        self.exit(2, f"socketserver_fast serve: {message}\n")


def command_line():
    """Return the parser; the help of each option names the attribute that it sets."""
    parser = Parser(
        prog="python -m socketserver_fast serve", description=DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("target", metavar="TARGET", help="MODULE:HANDLER, MODULE:APPLICATION or a folder")
    add("--bind", metavar="ADDRESS", type=Address, default=Address("127.0.0.1:8000"),
        help="HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, systemd for the socket that "
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
    add("--metrics", metavar="ADDRESS", type=web_address,
        help="HOST:PORT or [IPV6]:PORT where Prometheus asks for /metrics (metrics.Collector)")
    return parser


class Address:
    """Parses --bind: sets `family` and `address`, or `passed` to "systemd" or a descriptor."""

    family = address = passed = None

    def __init__(self, text):
        self.text = text
        kind, _, rest = text.partition(":")
        found = HOST_PORT.fullmatch(text)
        if text == "systemd":
            self.passed = text
        elif re.fullmatch("fd:[0-9]{1,9}", text):
            self.passed = int(rest)
        elif kind == "unix" and rest not in ("", "@") and hasattr(socket, "AF_UNIX"):
            self.family = socket.AF_UNIX
            self.address = NULL + rest[1:] if rest.startswith("@") else rest
        elif found and int(found[3]) <= 65535:
            self.family = socket.AF_INET6 if found[1] else socket.AF_INET
            self.address = found[1] or found[2], int(found[3])
        else:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, systemd or fd:N")

    def __str__(self):
        return self.text


def web_address(text):
    """Return an Address that has a host and a port."""
    if text.startswith(("fd:", "unix:")) or not HOST_PORT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT or [IPV6]:PORT")
    return Address(text)


def count(text):
    """Return the number, an int of 1 or more."""
    if not re.fullmatch("[0-9]{1,10}", text) or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {LARGEST:,}")
    return int(text)


def seconds(text, least=0.0):
    """Return the time in seconds, a float."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= 1e6:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds, {'0 or more' if least == 0 else 'above 0'}")
    return value


def model(text):
    """Return the name and the number, or None, that --threads gives."""
    name, colon, number = text.partition(":")
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(MODELS)}")
    if colon and MODELS[name][1] is None:
        raise argparse.ArgumentTypeError(f"{name} takes no number")
    return name, count(number) if colon else None


def check(options):
    """Raise Refused for options that do not go together."""
    if options.max_requests is not None and options.workers is None:
        raise Refused("--max-requests replaces worker processes: add --workers")
    if options.keyfile is not None and options.certfile is None:
        raise Refused("--keyfile needs --certfile")
    if options.udp and options.certfile is not None:
        raise Refused("--certfile is TLS, which needs connections: leave out --udp")
    if options.workers is not None and not hasattr(os, "fork"):
        raise Refused("--workers needs fork(2), which this system does not have")
