"""Connects any server to systemd: socket activation, readiness and the watchdog.

    open_server     makes a server on a socket that systemd passes, or else on an address
    take_socket     takes such a socket, for a program that makes its server itself
    NotifyMixIn     tells systemd that the server is ready, reloads, stops, and is alive
    notify          tells systemd anything else

Outside of systemd none of this does anything, so a program needs no switch for it. libsystemd is
not needed. The protocols are described in sd_listen_fds(3) and sd_notify(3).
"""

import os
import socket
import stat
import time

from socketserver_fast._serving import order
from socketserver_fast._sockets.log import logger

__all__ = ["NotifyMixIn", "notify", "open_server", "take_socket"]

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
LONGEST_NOTIFY = 1.0  # seconds that a message waits for room in systemd's queue

# Attributes that say how to bind, and their values for a socket that is bound already.
_LEFT_TO_SYSTEMD = {
    "allow_reuse_port": False,
    "dual_stack": False,
    "owns_unix_path": False,
    "reuse_port": False,
    "unix_mode": None,
}

_passed = None  # [(name, socket)] that nobody has taken; None before the first take_socket()
_names = []  # the names of all sockets that were passed


def take_socket(name=None):
    """Return a socket that systemd passes to this process: the one of this name, or the next one.

    The caller closes it. Each socket is returned once, in the order of the socket units. `name` is
    the FileDescriptorName= of a socket unit. Returns None if systemd passes no sockets, and raises
    LookupError if it does but none (of this name) is left. The first call removes the variables
    that describe the sockets from os.environ, so that no child process takes them for its own. Call
    it before starting threads.
    """
    global _passed
    if _passed is None:
        _passed = _inherit()
        _names.extend(name for name, _ in _passed)
    if not _names:
        return None
    for index, (known, sock) in enumerate(_passed):
        if name is None or name == known:
            del _passed[index]
            return sock
    raise LookupError(
        f"no socket {'' if name is None else repr(name) + ' '}is left of those that systemd "
        f"passed: {', '.join(_names)}. FileDescriptorName= in a socket unit gives a name")


def _inherit():
    """Return the sockets that the environment describes, as [(name, socket)]."""
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = os.environ.pop("LISTEN_FDS", "0")
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return []
    count = int(count)
    names += [""] * (count - len(names))
    passed = []
    for fd, name in enumerate(names[:count], FIRST_DESCRIPTOR):
        os.set_inheritable(fd, False)
        if stat.S_ISSOCK(os.fstat(fd).st_mode):  # a unit may pass files, too
            passed.append((name or "unknown", socket.socket(fileno=fd)))
    return passed


def open_server(server_class, address, *arguments, name=None, **options):
    """Return server_class(address, *arguments, **options) on a socket that systemd passes.

    The socket is that of take_socket(name). If systemd passes none, the server binds to `address`.
    The server owns its socket and closes it. The socket unit says how long its queue is, not
    request_queue_size. The workers of a PreforkMixIn share the socket, whatever reuse_port says.

    Raises what take_socket() raises, and ValueError for a socket that does not suit the class: one
    of datagrams for a TCPServer, a Unix socket for an IP server, or a connection, which means that
    the socket unit lacks Accept=no.
    """
    sock = take_socket(name)
    if sock is None:
        return server_class(address, *arguments, **options)
    try:
        server = server_class(address, *arguments, bind_and_activate=False, **options)
        server.server_close()  # the socket that the constructor has made
        _check(server, sock)
        _adopt(server, sock)
    except BaseException:
        sock.close()
        raise
    return server


def _check(server, sock):
    """Raise ValueError for a socket that a server of this class cannot serve."""
    name = type(server).__name__
    if sock.type != server.socket_type:
        raise ValueError(f"{name} needs a socket of {server.socket_type!r}, and systemd passed one "
                         f"of {sock.type!r}: see ListenStream= and ListenDatagram=")
    unix = getattr(socket, "AF_UNIX", None)
    if (sock.family == unix) != (server.address_family == unix):
        raise ValueError(f"{name} is for addresses of {server.address_family!r}, and systemd "
                         f"passed a socket of {sock.family!r}")
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("systemd passed a connection and not a listening socket: "
                         "set Accept=no in the socket unit")


class _Bound(socket.socket):
    """Ignores bind() and listen() while the server's server_bind() and server_activate() run."""

    __slots__ = ()

    def bind(self, address):
        """Do nothing: the socket is bound."""

    def listen(self, *backlog):
        """Do nothing: the socket listens, with the queue that the socket unit asks for."""


def _adopt(server, sock):
    """Give the server the socket, and call the hooks that set it up."""
    server.address_family = sock.family
    server.server_address = sock.getsockname()
    for name, unused in _LEFT_TO_SYSTEMD.items():
        if hasattr(server, name):
            setattr(server, name, unused)
    sock.__class__ = _Bound
    server.socket = sock
    try:
        server.server_bind()
        server.server_activate()
    finally:
        sock.__class__ = socket.socket


def notify(*assignments):
    """Send systemd assignments such as "STATUS=warming up"; return whether they were sent.

    sd_notify(3) lists the assignments. With RELOADING=1, the MONOTONIC_USEC= that it needs is
    added. Any thread may call it. Returns False outside of systemd, and when sending fails: then
    the error is logged, never raised.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    if "RELOADING=1" in assignments:
        assignments += (f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(LONGEST_NOTIFY)
            sock.sendto("\n".join(assignments).encode(),
                        "\0" + path[1:] if path.startswith("@") else path)
    except OSError as error:
        logger().warning("cannot send %s to systemd: %s", " ".join(assignments), error)
        return False
    return True


def watchdog_seconds():
    """Return after how many silent seconds systemd takes this process for dead; None: never."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(os.environ.get("WATCHDOG_USEC", 0)) / 1e6 or None


class NotifyMixIn:
    """Tells systemd the state of a server, for a service with Type=notify or notify-reload.

    List it before all other bases except those that only handle connections, such as a TLSMixIn:
    `class Server(NotifyMixIn, PreforkMixIn, ThreadingTCPServer)`. TypeError otherwise.

    It sends READY=1 when serve_forever() begins; with a PreforkMixIn the parent sends it when all
    workers have started. It sends RELOADING=1 while SIGHUP replaces the workers, then READY=1
    again. It sends STOPPING=1 when drain() or shutdown() is called, at the latest when
    serve_forever() returns. With WatchdogSec= the serving thread sends WATCHDOG=1 as long as its
    loop runs; a server that handles one request after the other sends none while it handles one.
    Use one such server in a process; a program with several calls notify() itself.
    """

    _notifier = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        order.require_before_models(cls, NotifyMixIn)
        order.call_after_requests(cls, NotifyMixIn)

    def serve_forever(self, poll_interval=0.5):
        """Serve, and keep systemd informed. Shortens `poll_interval` to suit the watchdog."""
        notifier = self._notifier = _Notifier()
        notifier.look_at(self)
        try:
            super().serve_forever(notifier.shortened(poll_interval))
        finally:
            notifier.say("STOPPING=1")

    def service_actions(self):
        """Tell systemd what has changed."""
        super().service_actions()
        if self._notifier is not None:
            self._notifier.look_at(self)

    def shutdown(self, timeout=None):
        """Send STOPPING=1, then shut down; the stdlib's shutdown() takes no timeout."""
        self._stopping()
        return super().shutdown() if timeout is None else super().shutdown(timeout)

    def drain(self, timeout=None):
        """Send STOPPING=1, then drain."""
        self._stopping()
        return super().drain(timeout)

    def _stopping(self):
        if self._notifier is not None:
            self._notifier.say("STOPPING=1")


order.declare_periodic(NotifyMixIn)


class _Notifier:
    """Sends the states of one serve_forever(), each once, from the process that called it."""

    def __init__(self):
        self.process = os.getpid()
        self.said = None
        seconds = watchdog_seconds()
        # Half of the time, as sd_watchdog_enabled(3) advises.
        self.interval = None if seconds is None else seconds / 2
        self.next_beat = time.monotonic()

    def look_at(self, server):
        """Send what has changed, and that the loop runs."""
        if os.getpid() != self.process:
            return
        state = self.state_of(server)
        if state is not None and self.said != "STOPPING=1":
            self.say(state)
        if self.interval is not None and time.monotonic() >= self.next_beat:
            notify("WATCHDOG=1")
            self.next_beat = time.monotonic() + self.interval

    def state_of(self, server):
        """Return what systemd should know now; None: nothing yet."""
        supervisor = getattr(server, "_supervisor", server)
        if supervisor is server:  # without workers
            return "READY=1"
        if supervisor is None or (self.said is None and supervisor.is_starting()):
            return None
        return "RELOADING=1" if supervisor.is_reloading() else "READY=1"

    def say(self, state):
        """Send a state unless it was the last one sent."""
        if state != self.said and os.getpid() == self.process:
            self.said = state
            notify(state)

    def shortened(self, poll_interval):
        """Return a poll_interval with which service_actions() is called often enough."""
        if self.interval is None:
            return poll_interval
        longest = self.interval / 2
        return longest if poll_interval is None else min(poll_interval, longest)
