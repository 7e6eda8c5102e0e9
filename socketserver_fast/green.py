"""Handles each request in a greenlet of its own, thousands of them on one thread.

Handlers are the usual blocking ones. Their `request` is a cooperative socket: a call that would
block parks the greenlet, and another one runs. Any other blocking call, or a long computation,
blocks every connection; use sleep(), create_connection() and run_in_thread() of this module
instead. Only one greenlet at a time may use a file made of a cooperative socket (rfile,
makefile()).

TLS works as usual: SSLContext.wrap_socket() of a cooperative socket returns a cooperative one.

Needs the package greenlet: `pip install socketserver_fast[greenlet]`.
"""

import contextvars
import operator
import os
import socket
import sys
import time

OTHERS = {"gevent", "eventlet"}
REFUSED = ("{} has replaced socket.socket, and its greenlets do not mix with those of this module: "
           "use ThreadingTCPServer, whose threads are then greenlets of {}")


def _refuse_others():
    """Raise RuntimeError in a program whose sockets are gevent's or eventlet's."""
    name = socket.socket.__module__.partition(".")[0]
    if name in OTHERS:
        raise RuntimeError(REFUSED.format(name, name))


_refuse_others()
# Without a GIL, what a greenlet has locked would stay locked while other greenlets run.
if "t" in getattr(sys, "abiflags", ""):
    raise ImportError("greenlet servers need a Python with a GIL; use threads on this one")
try:
    import greenlet  # noqa: F401
except ImportError as error:
    raise ImportError(
        "greenlet servers need the package greenlet: pip install socketserver_fast[greenlet]",
        name="greenlet",
    ) from error

import socketserver_fast

try:
    from socketserver_fast._green import serving
except socketserver_fast._MISFITS as error:
    raise socketserver_fast._cannot_load(error) from error

if not serving.available:
    raise ImportError(
        "greenlet servers need poll(2), which Windows does not have; use threads there")

from socketserver_fast._green import parking, watch
from socketserver_fast._green.sockets import Socket
from socketserver_fast._green.tls import cooperative
from socketserver_fast._serving import ending
from socketserver_fast.servers import TCPServer, UDPServer, _Ending

__all__ = [
    "GreenletMixIn",
    "GreenletTCPServer",
    "GreenletUDPServer",
    "cooperative",
    "create_connection",
    "run_in_thread",
    "sleep",
]

MOST_THREADS = 32  # of run_in_thread()
LONGEST_SLEEP = 9e9  # seconds, 285 years; time.sleep() takes little more


def sleep(seconds):
    """Park for this many seconds while other greenlets run; outside of a hub, call time.sleep().

    Raises what time.sleep() raises.
    """
    length = _number(seconds)
    if length is None or not 0 <= length <= LONGEST_SLEEP or not parking.sleep(length):
        time.sleep(seconds)


def _number(seconds):
    """Return `seconds` as the number that time.sleep() makes of it; None if it would refuse it."""
    if isinstance(seconds, float):
        return seconds
    if hasattr(type(seconds), "__index__"):
        return operator.index(seconds)
    if sys.version_info >= (3, 15) and hasattr(type(seconds), "__float__"):
        return float(seconds)
    return None


def run_in_thread(function, *args, **kwargs):
    """Call function(*args, **kwargs) in another thread while other greenlets run.

    Returns or raises what the function does. At most 32 calls run at a time; the others wait. A
    call sees the caller's context variables. If the greenlet ends meanwhile, the call goes on.
    Outside of a hub, the current thread makes the call.
    """
    futures = []

    def submit(done):
        call = contextvars.copy_context().run
        futures.append(_executor().submit(call, function, *args, **kwargs))
        futures[0].add_done_callback(done)

    if not parking.wait_for_call(submit):
        return function(*args, **kwargs)
    return futures[0].result()


_executors = []  # at most one, made when it is first needed


def _executor():
    if not _executors:
        from concurrent.futures import ThreadPoolExecutor

        _executors.append(ThreadPoolExecutor(MOST_THREADS, "socketserver_fast.run_in_thread"))
    return _executors[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executors.clear)


def create_connection(address, timeout=None, source_address=None):
    """Return a cooperative socket connected to (host, port), with a timeout of `timeout` seconds.

    Resolves names with run_in_thread(). Tries each address of a name; if none works, raises the
    OSError of the last one. The caller closes the socket.
    """
    host, port = address
    failure = None
    for family, kind, proto, _, target in _resolve(host, port):
        sock = Socket(family, kind, proto)
        try:
            sock.settimeout(timeout)
            if source_address is not None:
                sock.bind(source_address)
            sock.connect(target)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    try:
        raise failure or OSError(f"no address for {host!r}")
    finally:
        failure = None  # or the traceback would refer to itself


def _resolve(host, port):
    try:
        return socket.getaddrinfo(
            host, port, 0, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except socket.gaierror:
        return run_in_thread(socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)


# What patch(threads="greenlet") needs as well.
start, stop, join, end_requests = serving.start, serving.stop, serving.join, serving.end_requests
runs_here = serving.runs_here


class GreenletMixIn(_Ending):
    """Handle each request in a greenlet of its own, on the thread that serves.

    serve_forever() runs the greenlets. After shutdown() it takes no more requests and, with
    `block_on_close`, returns when those in progress are done; otherwise GreenletExit ends them.
    KeyboardInterrupt leaves serve_forever() at once, even when a handler raises it; server_close()
    then runs the remaining requests to their end. GreenletExit and SystemExit end only the handler
    that raises them. Any other exception that handle_error() lets through goes to
    threading.excepthook.

    A request that is a plain socket.socket or ssl.SSLSocket becomes cooperative before it is
    handled.

    A process that a handler forks has to end with os._exit(). If it returns from the handler, its
    serve_forever() raises RuntimeError; after sys.exit() it raises SystemExit.
    """

    block_on_close = True  # wait for the requests in progress
    max_connections = None  # while this many are in progress, others wait in the kernel's queue
    blocking_threshold = 0.5  # seconds; a handler that blocks the others longer is logged

    def serve_forever(self, poll_interval=0.5):
        """Handle requests until shutdown(); see the class.

        Raises RuntimeError in a program patched by gevent or eventlet.
        """
        _refuse_others()
        serving.serve(self, poll_interval, watch.watching)

    def process_request_greenlet(self, request, client_address):
        """Finish the request and close it; runs in the new greenlet."""
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)

    def process_request(self, request, client_address):
        """Start a greenlet for the request; without serve_forever(), handle it at once."""
        if not start(self, request, client_address):
            self.process_request_greenlet(request, client_address)

    def shutdown(self, timeout=None):
        """Stop serve_forever(). Any thread may call it, and a handler, too."""
        stopped = stop(self, timeout)
        return super().shutdown(timeout) if stopped is None else stopped

    def server_close(self):
        """Close the listening socket and, with block_on_close, wait for the requests.

        A handler that calls it waits for the other requests.
        """
        super().server_close()
        if self.block_on_close:
            join(self, None)

    def _wait_for_requests(self, deadline):
        finished = join(self, ending.left(deadline))
        if serving.runs_here(self):  # in a handler, whose own request is never done before it
            return finished
        return super()._wait_for_requests(deadline) and finished

    def _close_requests(self):
        """Close the connections, and raise GreenletExit in the handlers."""
        super()._close_requests()
        serving.end_requests(self)


class GreenletTCPServer(GreenletMixIn, TCPServer):
    """A TCPServer with a greenlet for each connection."""


class GreenletUDPServer(GreenletMixIn, UDPServer):
    """A UDPServer with a greenlet for each packet."""


if hasattr(socket, "AF_UNIX"):
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

    __all__ += ["GreenletUnixDatagramServer", "GreenletUnixStreamServer"]

    class GreenletUnixStreamServer(GreenletMixIn, UnixStreamServer):
        """A UnixStreamServer with a greenlet for each connection."""

    class GreenletUnixDatagramServer(GreenletMixIn, UnixDatagramServer):
        """A UnixDatagramServer with a greenlet for each packet."""
