"""Puts the compiled paths into the stdlib's own classes, and ends their servers without a loss.

The classes stay the same objects, so it does not matter who imported or subclassed them before.
Only methods change, and only those that are still the stdlib's own. unpatch() leaves alone what
somebody has replaced since.
"""

import functools
import socketserver as _stdlib
import sys
import threading
from contextlib import contextmanager

from socketserver_fast import handlers, mixins, servers
from socketserver_fast._patching import after_import, models, replacing
from socketserver_fast._patching.after_import import awaited
from socketserver_fast._patching.replacing import adapted, is_original
from socketserver_fast._serving import dispatch, ending, loop, serving
from socketserver_fast._sockets import writer


def serve_forever(self, poll_interval=0.5):
    """Serve as BaseServer.serve_forever(), with the stdlib's _ServerSelector."""
    after_import.look()
    loop.serve(self, poll_interval, models.selector_class())


def shutdown(self):
    """Shut down as BaseServer.shutdown(), without a timeout: the stdlib has none."""
    ending.shutdown(self, None)


def setup(self):
    """Set up as StreamRequestHandler.setup(), with the stdlib's _SocketWriter."""
    if awaited and (after_import.main or "http.server" in sys.modules):
        after_import.look()
    handlers.setup_stream(self, getattr(_stdlib, "_SocketWriter", handlers._SocketWriter))


_REQUESTS = ("_wait_for_requests", "_close_requests")
_ENDING = ("_stop_accepting", "requests_in_progress", *_REQUESTS)

_methods = {
    _stdlib.BaseServer: {
        **adapted(servers.BaseServer, _stdlib.BaseServer, *_ENDING),
        "serve_forever": serve_forever,
        "shutdown": shutdown,
        "_handle_request_noblock": servers.BaseServer._handle_request_noblock,
    },
    _stdlib.TCPServer: {
        "server_close": servers.TCPServer.server_close,
        "get_request": servers.TCPServer.get_request,
        "close_request": servers.TCPServer.close_request,
    },
    _stdlib.UDPServer: {"get_request": servers.UDPServer.get_request},
    _stdlib.StreamRequestHandler: {"setup": setup},
    _stdlib.DatagramRequestHandler: {
        "setup": handlers.DatagramRequestHandler.setup,
        "finish": handlers.DatagramRequestHandler.finish,
    },
}
if hasattr(_stdlib, "_Threads"):
    _methods[_stdlib._Threads] = {"append": mixins._Threads.append}
if hasattr(_stdlib, "ForkingMixIn"):
    _methods[_stdlib.ForkingMixIn] = {
        "collect_children": mixins.ForkingMixIn.collect_children,
        **adapted(mixins.ForkingMixIn, _stdlib.ForkingMixIn, "requests_in_progress", *_REQUESTS),
    }


def patch(*, threads=None, **settings):
    """Put the compiled paths into the stdlib's socketserver, for the whole process.

    Every server built on socketserver uses them from then on, also one that exists already. A
    server that is in serve_forever() at this moment goes on as it started. A method that somebody
    has replaced is left alone. Another call may choose other threads or settings, and changes
    nothing else.

    With `threads="pool"` every server with a ThreadingMixIn runs on the workers of a
    ThreadPoolMixIn. With `threads="greenlet"` it runs on the greenlets of a GreenletMixIn, which
    suits handlers that wait only for their sockets. The attributes of these mix-ins, such as
    max_workers or max_connections, may be given as settings.

    Raises ValueError for another value of `threads`, TypeError for a setting that the mix-in does
    not have, and ImportError without the package greenlet, or if the socketserver of this Python
    keeps its state under unknown names.
    """
    _check_names()
    attributes = models.choose(threads, settings)
    for cls, replacements in _methods.items():
        replacing.put(cls, replacements)
    if attributes:
        replacing.put_only(_stdlib.ThreadingMixIn, attributes)
    _endings.is_unpatched = False
    after_import.begin()


def unpatch():
    """Undo patch(). Running servers go on; methods that were replaced since are left alone.

    What a running drain() or serve_until_signal() needs goes when the last of them returns.
    """
    awaited.clear()
    with _endings.lock:
        _endings.is_unpatched = True
        replacing.restore_all(_ENDING if _endings.running else ())


def drain(server, timeout=None):
    """Finish what a server has accepted, then close it: BaseServer.drain() for any server.

    The server may be of a stdlib class, such as http.server's, if patch() was called before its
    serve_forever(). `timeout` is in seconds; None waits without end. Returns whether all requests
    were finished in time. Raises RuntimeError without patch(), in the serving thread, and in the
    thread of a request.
    """
    if _has_its_own_ending(server):
        return server.drain(timeout)
    with _endings.of(server, "drain"):
        return ending.drain(server, timeout)


def serve_until_signal(server, *signals, drain_timeout=30):
    """Serve until a signal comes, then drain: for any server, as drain() is.

    The signals are SIGTERM and SIGINT unless others are given. Returns the number of the one that
    came; None if shutdown() or drain() ended the server. A second signal does what it would have
    done without this function. Closes the server. Raises RuntimeError without patch(), and outside
    of the main thread.
    """
    if _has_its_own_ending(server):
        return server.serve_until_signal(*signals, drain_timeout=drain_timeout)
    with _endings.of(server, "serve_until_signal"):
        return ending.serve_until_signal(
            server, signals, drain_timeout, functools.partial(ending.drain, server))


def _has_its_own_ending(server):
    """Return whether the server has its drain() from a class of this package."""
    return any("drain" in vars(cls) and cls.__module__.startswith("socketserver_fast.")
               for cls in type(server).__mro__)


class _Endings:
    """Counts the drain() and serve_until_signal() that run, whose methods unpatch() leaves."""

    def __init__(self):
        self.lock = threading.RLock()  # the handler of a signal may call unpatch()
        self.running = 0
        self.is_unpatched = False

    @contextmanager
    def of(self, server, name):
        """Keep the methods until the end; RuntimeError if they are not there."""
        with self.lock:
            _refuse_unpatched(server, name)
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1
                if self.is_unpatched and not self.running:
                    replacing.restore_all()


_endings = _Endings()


def _refuse_unpatched(server, name):
    if not hasattr(server, "_stop_accepting"):
        raise RuntimeError(
            f"{name}() ends servers of socketserver_fast, and those of the standard library after "
            f"patch(): call socketserver_fast.patch() before serve_forever() of this "
            f"{type(server).__name__}")


def _check_names():
    """Raise ImportError if BaseServer does not use the two flags that its methods share."""
    if is_original(_stdlib.BaseServer, "__init__"):
        unknown = serving.FLAGS - {*_stdlib.BaseServer.__init__.__code__.co_names}
        if unknown:
            raise ImportError(
                f"patch() does not know the socketserver of this Python, which has no "
                f"{min(unknown)}; use `import socketserver_fast as socketserver` instead")


_cls = getattr(_stdlib, "_SocketWriter", None)
if isinstance(_cls, type) and all(
    is_original(_cls, name) for name in ("__init__", "write", "fileno", "writable")
):  # else the program has put its own class there
    _methods[_cls] = {"write": handlers._SocketWriter.write}
    writer.stand_for(_cls, handlers._SocketWriter.write)

for _cls, _functions in _methods.items():
    replacing.name_after(
        _cls, {name: value for name, value in _functions.items()
               if getattr(value, "__module__", None) == __name__}
    )

for _class, _name in (
    (_stdlib.BaseServer, "verify_request"),
    (_stdlib.BaseServer, "service_actions"),
    (_stdlib.TCPServer, "fileno"),
):
    if is_original(_class, _name):
        dispatch.declare_originals("sharing", **{_name: vars(_class)[_name]})
