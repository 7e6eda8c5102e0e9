"""Limits for what clients may take of a server: time, connections and memory.

    class Server(LimitsMixIn, ThreadPoolTCPServer):
        request_timeout = 60
        max_connections_per_client = 20
        max_line = 8192

    class Handler(IdleTimeoutMixIn, http.server.SimpleHTTPRequestHandler):
        idle_timeout = 15
"""

import functools
import io
import math
import os
import socket
import socketserver as _stdlib
import sys
import threading
import time

from socketserver_fast import handlers
from socketserver_fast._serving import ending, order
from socketserver_fast._sockets import lines
from socketserver_fast._sockets.log import logger

__all__ = ["IdleTimeoutMixIn", "LimitsMixIn", "LineTooLong"]

NAMES = ("request_timeout", "max_connections_per_client", "max_line")
MOST = {"request_timeout": threading.TIMEOUT_MAX}
REPORT_SECONDS = 60.0  # between two lines in the log about the same limit
MAPPED = bytes(10) + b"\xff\xff"  # of an IPv4 address in an IPv6 one


class LineTooLong(ConnectionAbortedError):
    """Raised by rfile: the next line is longer than the server's `max_line`.

    It is raised again each time that the line is read. A handler that catches it may still answer,
    and should return then; what it does not catch ends the request without a traceback.
    """


class LimitsMixIn:
    """Ends requests that take too long or send too long lines, and refuses clients with too many
    connections.

    Each is looked after in the thread, greenlet or process of the request. A limit that is None,
    the default, costs nothing. What a limit does is logged at most once a minute, with how often it
    did, and counted in `limited`. All counts are those of one process.

    Stands before the class that says how requests are served, behind a ProxyProtocolMixIn, whose
    clients are then those that count, and before a TLSMixIn, so that nobody is refused after a
    handshake. For servers of SOCK_STREAM.
    """

    # Seconds for a whole request, whatever it reads and writes, its handshake included: then its
    # connection is shut down, and the handler finds the end of the stream. On a kept connection of
    # http.server for all its requests together, unless the handler has an IdleTimeoutMixIn.
    request_timeout = None
    # Connections of one IP address, or of one IPv6 network of 64 bits, at a time.
    max_connections_per_client = None
    # Bytes of a line, its newline included, that the handler reads from rfile: readline(), also
    # with a larger size, readlines() and iteration raise LineTooLong for a longer one. That is for
    # the rfile that StreamRequestHandler.setup() has made. The head of a request has http.server's
    # own limit of 65536 bytes for each line, and its answers, 414 and 431.
    max_line = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        order.require_before_models(cls, LimitsMixIn)
        order.require_stages(cls)

    @property
    def limited(self):
        """How often each limit was met: {"request_timeout": 3, ...}. Any thread may ask."""
        return dict(limits_of(self).counts)

    def serve_forever(self, poll_interval=0.5):
        """As that of the class behind it. ValueError or TypeError for limits that cannot work."""
        self._check_limits()
        super().serve_forever(poll_interval)

    def handle_request(self):
        """As BaseServer.handle_request(), with the same errors as serve_forever()."""
        self._check_limits()
        return super().handle_request()

    def finish_request(self, request, client_address):
        """Handle the request within its limits."""
        limits = limits_of(self)
        client = None
        if self.max_line is not None:
            handlers._limit_lines = _limit_lines
        if self.max_connections_per_client is not None:
            client = client_of(client_address)
            if not limits.admit(self, client):
                return
        try:
            self._finish_in_time(limits, request, client_address)
        except LineTooLong:
            pass  # the log was told of it
        finally:
            limits.dismiss(client)

    def _finish_in_time(self, limits, request, client_address):
        if self.request_timeout is None:
            super().finish_request(request, client_address)
            return
        limits.begin(self, request)
        try:
            super().finish_request(request, client_address)
        finally:
            limits.finish(request)

    def _check_limits(self):
        for name in NAMES:
            value = getattr(self, name)
            if value is not None and not (
                    isinstance(value, (int, float)) and 0 < value <= MOST.get(name, math.inf)):
                raise ValueError(f"{name} must be None or more than 0, not {value!r}")
        if self.max_line is not None:
            self._check_max_line()
        if self.socket_type != socket.SOCK_STREAM:
            raise TypeError(f"{type(self).__name__} has no connections: LimitsMixIn is for servers "
                            "of SOCK_STREAM")
        if self.max_connections_per_client is not None and hasattr(self, "active_children"):
            raise TypeError("max_connections_per_client cannot be counted with a process for each "
                            "request: use PreforkMixIn with threads, or set it to None")

    def _check_max_line(self):
        if not isinstance(self.max_line, int):
            raise ValueError(f"max_line must be a whole number of bytes, not {self.max_line!r}")
        if _has_setup_of_stdlib(self.RequestHandlerClass):
            raise TypeError("max_line cannot limit the rfile that the stdlib's setup() makes: call "
                            "socketserver_fast.patch(), derive the handler from "
                            "socketserver_fast.StreamRequestHandler, or set it to None")


def _has_setup_of_stdlib(handler):
    """Return whether a handler class, or what a functools.partial calls, is certain to have it."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    bases = handlers.StreamRequestHandler, _stdlib.StreamRequestHandler
    base = next((base for base in getattr(handler, "__mro__", ()) if base in bases), None)
    return base is _stdlib.StreamRequestHandler and (
        getattr(base.setup, "__globals__", None) is vars(_stdlib))


class IdleTimeoutMixIn:
    """For handlers of http.server: closes a kept connection that is idle between two requests.

    Stands before the handler's class. With a LimitsMixIn `request_timeout` begins anew with each
    request.
    """

    idle_timeout = None  # seconds until the first byte of the next request; None: without end
    _was_asked = False

    def handle_one_request(self):
        """Wait for the next request at most `idle_timeout` seconds, then handle it."""
        if self._was_asked and not self._is_asked_again():
            self.close_connection = True
            return
        self._was_asked = True
        super().handle_one_request()

    def _is_asked_again(self):
        """Return whether another request comes; the time that it has begins then."""
        limits = vars(self.server).get("_limits")
        if limits is None or self.server.request_timeout is None:
            return self._comes_in_time()
        accepted = getattr(self.request, "_accepted", self.request)
        limits.finish(accepted)
        if not self._comes_in_time():
            return False
        limits.begin(self.server, accepted)
        return True

    def _comes_in_time(self):
        timeout = self.connection.gettimeout()
        if self.idle_timeout is not None:
            self.connection.settimeout(self.idle_timeout)
        try:
            return bool(self.rfile.peek(1))
        except TimeoutError:
            return False
        finally:
            self.connection.settimeout(timeout)


class Limits:
    """Counts for a LimitsMixIn in one process. Any thread may call any method."""

    def __init__(self):
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(NAMES, 0)
        self.reports = {}  # name: when the log was told last, and the count of then
        self.clients = {}  # connections of each
        self.running = {}  # request: (deadline, server), the earliest first
        self.seconds = None  # the latest request_timeout
        self.thread = None  # that ends late requests

    # Connections of a client.

    def admit(self, server, client):
        """Count one more connection of a client, if there is one; false if it has too many."""
        if client is None:
            return True
        with self.lock:
            connections = self.clients.get(client, 0)
            if connections < server.max_connections_per_client:
                self.clients[client] = connections + 1
                return True
        self.meet(server, "max_connections_per_client")
        return False

    def dismiss(self, client):
        """Undo an admit()."""
        if client is None:
            return
        with self.lock:
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]

    # The time of a request.

    def begin(self, server, request):
        """Give the request `request_timeout` seconds from now on."""
        self.seconds = server.request_timeout
        self.running[request] = time.monotonic() + self.seconds, server
        if self.thread is None:
            with self.lock:
                if self.thread is None:
                    self.start()

    def start(self):
        """With the lock: start the thread that ends late requests."""
        self.thread = threading.Thread(target=self.watch, name="request_timeout", daemon=True)
        self.thread.start()

    def finish(self, request):
        """Forget a request that has ended, or wait while watch() ends it."""
        if self.running.pop(request, None) is None:
            with self.lock:
                pass  # its descriptor must not be closed, and reused, under shutdown(2)

    def watch(self):
        """End late requests, until there were none for as long as one may take."""
        was_empty = False
        while True:
            left = self.end_late()
            if left is None and was_empty and self.retire():
                return
            was_empty = left is None
            # A request that begins meanwhile is not late before this is over.
            time.sleep(self.seconds if left is None else left)

    def retire(self):
        """Let the next request start another thread; false if there is one just now."""
        self.thread = None
        if not self.running:
            return True
        with self.lock:
            if self.thread is not None:
                return True
            self.thread = threading.current_thread()
        return False

    def end_late(self):
        """End the requests whose time is over: the seconds until the next one's; None: no more."""
        while self.running:
            try:
                request, (deadline, server) = next(iter(self.running.items()))
            except (RuntimeError, StopIteration):  # another thread has just changed it
                continue
            left = deadline - time.monotonic()
            if left > 0:
                return left
            self.end(server, request)
        return None

    def end(self, server, request):
        """Shut down the connection of a request, which TLS may have taken over."""
        with self.lock:
            if self.running.pop(request, None) is None:
                return
            ended = self.count("request_timeout")
            connection = vars(server).get("_tls_connections", {}).get(request, request)
            ending.close_request(connection)
        report(server, "request_timeout", ended)

    # Counts and the log.

    def meet(self, server, name):
        """Count and log that a limit was met."""
        with self.lock:
            count = self.count(name)
        report(server, name, count)

    def count(self, name):
        """With the lock: count that a limit was met.

        Returns how often it was since the last line in the log; 0 if it is too early for another.
        """
        self.counts[name] += 1
        now = time.monotonic()
        last, before = self.reports.get(name, (now - REPORT_SECONDS, 0))
        if now - last < REPORT_SECONDS:
            return 0
        self.reports[name] = now, self.counts[name]
        return self.counts[name] - before


class LineLimit:
    """The max_line of one request."""

    def __init__(self, server):
        self.server = server
        self.size = min(server.max_line, sys.maxsize - 1)
        self.is_met = False

    def refuse(self):
        """Raise LineTooLong, and count the request."""
        if not self.is_met:
            self.is_met = True
            limits_of(self.server).meet(self.server, "max_line")
        raise LineTooLong(f"a line is longer than max_line, {self.size} bytes")


def _limit_lines(handler):
    """Give the rfile of a handler the limit of its server, if it has one."""
    server = getattr(handler, "server", None)
    if isinstance(server, LimitsMixIn) and server.max_line is not None:
        size = handler.rbufsize
        if size is None or size < 0:
            size = io.DEFAULT_BUFFER_SIZE
        handler.rfile = lines.limited(handler.rfile, LineLimit(server), size)


def report(server, name, count):
    """Log that a limit has ended so many connections, unless there are none to report."""
    if count:
        logger().warning("%s: %d connections ended by %s, %r", type(server).__name__, count, name,
                         getattr(server, name))


def limits_of(server):
    """The server's Limits in this process."""
    limits = vars(server).get("_limits")
    if limits is None:
        limits = vars(server).setdefault("_limits", Limits())
    if limits.process != os.getpid():  # in a child, which the counts are not about
        limits = vars(server)["_limits"] = Limits()
    return limits


def client_of(address):
    """Return what counts as one client: an IPv4 address, or an IPv6 network; None for others."""
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return None
    host = address[0].partition("%")[0]
    if ":" not in host:
        return host or None
    try:
        packed = socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return host
    return socket.inet_ntoa(packed[12:]) if packed.startswith(MAPPED) else packed[:8]
