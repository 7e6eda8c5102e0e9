"""Limits how much of a server its clients may use: time, connections and memory.

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
from socketserver_fast._serving import ending, order, secured
from socketserver_fast._sockets import lines
from socketserver_fast._sockets.log import logger

__all__ = ["IdleTimeoutMixIn", "LimitsMixIn", "LineTooLong"]

NAMES = ("request_timeout", "max_connections_per_client", "max_line")
MOST = {"request_timeout": threading.TIMEOUT_MAX}
REPORT_SECONDS = 60.0  # between two log lines about the same limit
MAPPED = bytes(10) + b"\xff\xff"  # begins an IPv6 address that stands for an IPv4 one


class LineTooLong(ConnectionAbortedError):
    """Raised by rfile when the next line is longer than the server's `max_line`.

    Reading the line again raises it again. A handler that catches it may still answer, and should
    then return. If no handler catches it, it ends the request without a traceback.
    """


class LimitsMixIn:
    """Ends requests that take too long or send too long lines, and refuses clients with too many
    connections.

    The limits are checked in the thread, greenlet or process of the request. A limit that is None,
    the default, costs nothing. `limited` counts how often each limit was reached; the log gets a
    line with that number at most once a minute. Each process counts for itself.

    List it before the class that handles the requests. List it after a ProxyProtocolMixIn, so that
    it counts the clients behind the proxy, and before a TLSMixIn, so that it refuses a client
    before the handshake. For servers of SOCK_STREAM.
    """

    # Seconds for a whole request, its handshake included. Then its connection is shut down, and
    # the handler reads the end of the stream. On a kept connection of http.server they are for all
    # its requests together, unless the handler has an IdleTimeoutMixIn.
    request_timeout = None
    # Connections at a time from one IPv4 address, or from one IPv6 /64 network.
    max_connections_per_client = None
    # Bytes of a line that the handler reads from rfile, its newline included. readline(), even
    # with a larger size, readlines() and iteration raise LineTooLong for a longer line. It applies
    # to the rfile that StreamRequestHandler.setup() makes. The head of an HTTP request keeps
    # http.server's own limit of 65536 bytes for each line, with its answers 414 and 431.
    max_line = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        order.require_before_models(cls, LimitsMixIn)
        order.require_stages(cls)

    @property
    def limited(self):
        """Return how often each limit was reached, as a dict. Any thread may ask."""
        return dict(limits_of(self).counts)

    def serve_forever(self, poll_interval=0.5):
        """Check the limits, then serve. ValueError or TypeError for limits that cannot work."""
        self._check_limits()
        super().serve_forever(poll_interval)

    def handle_request(self):
        """Check the limits as serve_forever() does, then handle one request."""
        self._check_limits()
        return super().handle_request()

    def finish_request(self, request, client_address):
        """Handle the request within its limits."""
        limits = limits_of(self)
        client = limits.forget_silent(request)
        if self.max_line is not None:
            handlers._limit_lines = _limit_lines
        if client is None and self.max_connections_per_client is not None:
            client = client_of(client_address)
            if not limits.admit(self, client):
                return
        try:
            self._finish_in_time(limits, request, client_address)
        except LineTooLong:
            pass  # logged already
        finally:
            limits.dismiss(client)

    def _count_silent(self, request, client_address):
        """Count a connection of a pool that waits for its first byte as one of its client's."""
        if self.max_connections_per_client is None:
            return super()._count_silent(request, client_address)
        return limits_of(self).keep_silent(self, request, client_of(client_address))

    def shutdown_request(self, request):
        """Close the connection, which counts no more if it was refused or stayed silent."""
        limits = limits_of(self)
        limits.dismiss(limits.forget_silent(request))
        super().shutdown_request(request)

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
    """Return whether this handler class, or partial of one, surely uses the stdlib's setup()."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    bases = handlers.StreamRequestHandler, _stdlib.StreamRequestHandler
    base = next((base for base in getattr(handler, "__mro__", ()) if base in bases), None)
    return base is _stdlib.StreamRequestHandler and (
        getattr(base.setup, "__globals__", None) is vars(_stdlib))


class IdleTimeoutMixIn:
    """Closes a kept connection of http.server that is idle between two requests.

    List it before the handler class. With it, the `request_timeout` of a LimitsMixIn starts again
    with each request.
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
        """Wait for the next request, and start its time; return whether one came."""
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
        self.reports = {}  # name: time of its last log line, and its count at that time
        self.clients = {}  # client: its connections
        self.silent = {}  # request: its client, counted before it has spoken
        self.running = {}  # request: (deadline, server), the earliest first
        self.seconds = None  # the latest request_timeout
        self.thread = None  # the one that ends late requests

    # Connections of a client.

    def admit(self, server, client):
        """Count one more connection of the client; log and return false if it has too many."""
        admitted = self.admits(server, client)
        if not admitted:
            self.meet(server, "max_connections_per_client")
        return admitted

    def admits(self, server, client):
        """Count one more connection of the client, if it is known; false if it has too many."""
        if client is None:
            return True
        with self.lock:
            connections = self.clients.get(client, 0)
            if connections >= server.max_connections_per_client:
                return False
            self.clients[client] = connections + 1
        return True

    def dismiss(self, client):
        """Undo an admit()."""
        if client is None:
            return
        with self.lock:
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]

    def keep_silent(self, server, request, client):
        """Count a connection that is silent yet; return false if its client has too many."""
        admitted = self.admits(server, client)
        if admitted:
            self.silent[request] = client
        return admitted

    def forget_silent(self, request):
        """Return the client of a connection that was silent, which the caller has to dismiss()."""
        return self.silent.pop(request, None) if self.silent else None

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
        """Start the thread that ends late requests. The caller holds the lock."""
        self.thread = threading.Thread(target=self.watch, name="request_timeout", daemon=True)
        self.thread.start()

    def finish(self, request):
        """Forget a request that has ended."""
        self.running.pop(request, None)

    def watch(self):
        """End late requests; return after `request_timeout` seconds without a request."""
        was_empty = False
        while True:
            left = self.end_late()
            if left is None and was_empty and self.retire():
                return
            was_empty = left is None
            # A request that begins meanwhile is not late before this is over.
            time.sleep(self.seconds if left is None else left)

    def retire(self):
        """Let the next request start a new thread; return false if one began just now."""
        self.thread = None
        if not self.running:
            return True
        with self.lock:
            if self.thread is not None:
                return True
            self.thread = threading.current_thread()
        return False

    def end_late(self):
        """End the late requests; return the seconds until the next is late, or None without one."""
        while self.running:
            try:
                request, (deadline, server) = next(iter(self.running.items()))
            except (RuntimeError, StopIteration):  # another thread has just changed the dict
                continue
            left = deadline - time.monotonic()
            if left > 0:
                return left
            self.end(server, request)
        return None

    def end(self, server, request):
        """Shut down the connection of a request, even if TLS has taken it over."""
        with self.lock:
            if self.running.pop(request, None) is None:
                return
            ended = self.count("request_timeout")
        ending.close_request(request)
        secured.close_connection(server, request)
        report(server, "request_timeout", ended)

    # Counts and the log.

    def meet(self, server, name):
        """Count and log that a limit was reached."""
        with self.lock:
            count = self.count(name)
        report(server, name, count)

    def count(self, name):
        """Count that a limit was reached. The caller holds the lock.

        Returns how often it was since its last log line; 0 if it is too early for another line.
        """
        self.counts[name] += 1
        now = time.monotonic()
        last, before = self.reports.get(name, (now - REPORT_SECONDS, 0))
        if now - last < REPORT_SECONDS:
            return 0
        self.reports[name] = now, self.counts[name]
        return self.counts[name] - before


class LineLimit:
    """Enforces max_line in one request."""

    def __init__(self, server):
        self.server = server
        self.size = min(server.max_line, sys.maxsize - 1)
        self.is_met = False

    def refuse(self):
        """Raise LineTooLong; count it once for each request."""
        if not self.is_met:
            self.is_met = True
            limits_of(self.server).meet(self.server, "max_line")
        raise LineTooLong(f"a line is longer than max_line, {self.size} bytes")


def _limit_lines(handler):
    """Apply the max_line of a handler's server to its rfile, if there is one."""
    server = getattr(handler, "server", None)
    if isinstance(server, LimitsMixIn) and server.max_line is not None:
        size = handler.rbufsize
        if size is None or size < 0:
            size = io.DEFAULT_BUFFER_SIZE
        handler.rfile = lines.limited(handler.rfile, LineLimit(server), size)


def report(server, name, count):
    """Log how many connections a limit has ended, unless `count` is 0."""
    if count:
        logger().warning("%s: %d connections ended by %s, %r", type(server).__name__, count, name,
                         getattr(server, name))


def limits_of(server):
    """Return the server's Limits of this process."""
    limits = vars(server).get("_limits")
    if limits is None:
        limits = vars(server).setdefault("_limits", Limits())
    if limits.process != os.getpid():  # a child process: the counts are its parent's
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
