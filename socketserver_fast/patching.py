"""patch() and unpatch(): the compiled paths in the stdlib's own classes, and a clean end for them.

The classes stay the objects that they are, so that it does not matter who imported or subclassed
them when. Only methods change, and only those that are still the stdlib's own: whatever somebody
else has put there stays, in both directions.
"""

import contextlib
import functools
import importlib
import selectors
import socketserver as _stdlib
import sys
import types

from socketserver_fast import handlers, mixins, pool, servers
from socketserver_fast._serving import ending, loop, originals, serving
from socketserver_fast._sockets import writer


def selector_class():
    """Return the stdlib's _ServerSelector, which programs replace."""
    return getattr(_stdlib, "_ServerSelector", None) or getattr(
        selectors, "PollSelector", selectors.SelectSelector)


def serve_forever(self, poll_interval=0.5):
    """Serve as BaseServer.serve_forever(), with the stdlib's _ServerSelector."""
    _look_for_users()
    loop.serve(self, poll_interval, selector_class())


def shutdown(self):
    """Shut down as BaseServer.shutdown(), without a timeout: the stdlib has none."""
    ending.shutdown(self, None)


def setup(self):
    """Prepare as StreamRequestHandler.setup(), with the stdlib's _SocketWriter."""
    if _awaited and (_main or "http.server" in sys.modules):
        _look_for_users()
    handlers.setup_stream(self, getattr(_stdlib, "_SocketWriter", handlers._SocketWriter))


def _ending(ours, theirs, *names):
    """Return what drain() needs of our class for one of the stdlib, super() made to fit."""
    methods = {name: getattr(ours, name) for name in names}
    return {name: _moved(method, theirs) for name, method in methods.items()}


def _moved(method, cls):
    if isinstance(method, property):
        return type(method)(_moved(method.fget, cls))
    if "__class__" not in method.__code__.co_freevars:
        return method
    return types.FunctionType(
        method.__code__, method.__globals__, method.__name__, method.__defaults__,
        (types.CellType(cls),))


_REQUESTS = ("_wait_for_requests", "_close_requests")

_methods = {
    _stdlib.BaseServer: {
        **_ending(servers.BaseServer, _stdlib.BaseServer,
                  "_stop_accepting", "requests_in_progress", *_REQUESTS),
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
        **_ending(mixins.ForkingMixIn, _stdlib.ForkingMixIn, "requests_in_progress", *_REQUESTS),
    }


def process_request(self, request, client_address):
    """Process as ThreadingMixIn.process_request(), with the stdlib's _Threads."""
    threads_class = getattr(_stdlib, "_Threads", mixins._Threads)
    mixins.start_thread(self, request, client_address, threads_class)


def pool_serve_forever(self, poll_interval=0.5):
    """Serve as ThreadPoolMixIn.serve_forever(), with the stdlib's _ServerSelector."""
    _look_for_users()
    pool.serve(self, poll_interval, selector_class())


def pool_server_close(self):
    """Close as ThreadPoolMixIn.server_close()."""
    pool.pool_of(self).end()
    super(_stdlib.ThreadingMixIn, self).server_close()
    pool.join(self)


def greenlet_serve_forever(self, poll_interval=0.5):
    """Serve as GreenletMixIn.serve_forever()."""
    _look_for_users()
    _green().GreenletMixIn.serve_forever(self, poll_interval)


def greenlet_process_request(self, request, client_address):
    """Process as GreenletMixIn.process_request(), or in a thread where no hub runs."""
    if not _green().start(self, request, client_address):
        process_request(self, request, client_address)


def process_request_greenlet(self, request, client_address):
    """Call process_request_thread(), which programs override, in the greenlet."""
    self.process_request_thread(request, client_address)


def greenlet_shutdown(self):
    """Shut down as GreenletMixIn.shutdown(), without a timeout."""
    if _green().stop(self, None) is None:
        super(_stdlib.ThreadingMixIn, self).shutdown()


def greenlet_server_close(self):
    """Close as GreenletMixIn.server_close(), after what the stdlib's ThreadingMixIn does."""
    _replaced[_stdlib.ThreadingMixIn, "server_close"][0](self)
    if self.block_on_close and not self.daemon_threads:
        _green().join(self, None)


def _green():
    """Return the module green; ImportError without the package greenlet."""
    from socketserver_fast import green

    return green


def pool_close_requests(self):
    """Close as ThreadPoolMixIn._close_requests()."""
    _threads["_close_requests"](self)
    pool.pool_of(self).give_up()


def greenlet_wait_for_requests(self, deadline):
    """Wait as GreenletMixIn._wait_for_requests(), then as ThreadingMixIn does."""
    finished = _green().join(self, ending.left(deadline))
    if _green().runs_here(self):
        return finished
    return _threads["_wait_for_requests"](self, deadline) and finished


def greenlet_close_requests(self):
    """Close as GreenletMixIn._close_requests(), after what ThreadingMixIn does."""
    _threads["_close_requests"](self)
    _green().end_requests(self)


# What becomes of ThreadingMixIn with patch().
_threads = {
    "process_request": process_request,
    **_ending(mixins.ThreadingMixIn, _stdlib.ThreadingMixIn, *_REQUESTS),
}

# What becomes of it with patch(threads=…), and the settings, the number first.
models = {
    "pool": (
        {
            "serve_forever": pool_serve_forever,
            "process_request": pool.ThreadPoolMixIn.process_request,
            "_handle_request_noblock": pool.ThreadPoolMixIn._handle_request_noblock,
            "server_close": pool_server_close,
            "_wait_for_requests": _threads["_wait_for_requests"],
            "_close_requests": pool_close_requests,
        },
        {
            name: vars(pool.ThreadPoolMixIn)[name]
            for name in ("max_workers", "min_workers", "worker_idle_timeout", "max_connections",
                         "stall_seconds")
        },
    ),
    "greenlet": (
        {
            "serve_forever": greenlet_serve_forever,
            "process_request": greenlet_process_request,
            "process_request_greenlet": process_request_greenlet,
            "shutdown": greenlet_shutdown,
            "server_close": greenlet_server_close,
            "_wait_for_requests": greenlet_wait_for_requests,
            "_close_requests": greenlet_close_requests,
        },
        {"max_connections": None, "blocking_threshold": 0.5},
    ),
}

# The modules that have methods of their own to change, once somebody has imported them, and who
# knows which. What comes next after the import, a server's loop or a request, is early enough. All
# of them need http.server.
_users = {
    "http.server": ["requests", "responses", "downloads", "https"],
    "wsgiref.simple_server": ["gateway"],
}
_awaited = set()  # of _users, while patched
_main = None  # which of them is the program, whose classes are then those of __main__


def expect_main(name):
    """Note that the program that is about to run is the module `name`."""
    global _main
    _main = name if name in _users else None


def _look_for_users():
    """Change those that were imported since the last look."""
    if _main in _awaited or _awaited & sys.modules.keys():
        with contextlib.suppress(ImportError, OSError):  # out of descriptors: at a later request
            _put_into_users()


def _put_into_users():
    for name in _users:
        if name in _awaited and (name == _main or _is_imported(name)):
            for part in _users[name]:
                _put_part(importlib.import_module(f"socketserver_fast._http.{part}"))
            _awaited.discard(name)


def _is_imported(name):
    """Return whether the module is there, from its first line to its last."""
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _put_part(part):
    for cls, methods in part.METHODS.items():
        _name_after(cls, methods)
        _put(cls, methods)
        if cls.__module__ == _main:
            _put(getattr(sys.modules["__main__"], cls.__name__), methods)


def _name_after(cls, functions):
    """Name the functions as methods of the class."""
    for name, function in functions.items():
        if isinstance(function, types.FunctionType):
            function.__qualname__ = f"{cls.__name__}.{name}"


_absent = object()
_replaced = {}  # (class, name): what was there, or _absent, and what patch() has put there


def patch(*, threads=None, **settings):
    """Put the compiled paths into the stdlib's socketserver, for the whole process.

    Every server built on it is served by them from then on, also those that exist already; one
    that is in serve_forever() at this moment goes on as it started. A method that somebody has
    replaced is left alone. Calling it again changes nothing but the settings.

    With `threads="pool"` every server with a ThreadingMixIn runs on the workers of a
    ThreadPoolMixIn, with `threads="greenlet"` on the greenlets of a GreenletMixIn (which suits
    handlers that wait for their sockets only; ImportError without the package greenlet). Their
    attributes, such as max_workers or max_connections, may be given as settings. ValueError for
    another word, TypeError for a setting that it does not have. ImportError in a Python whose
    socketserver keeps its state under other names than those that are known.
    """
    _check_names()
    methods, defaults = _model(threads, settings)
    for cls, replacements in _methods.items():
        _put(cls, replacements)
    _put(_stdlib.ThreadingMixIn, methods)
    _put(_stdlib.ThreadingMixIn, {**defaults, **settings})
    _awaited.update(_users)
    _put_into_users()


def unpatch():
    """Undo patch(). Servers that are running go on; what was replaced since is left alone."""
    _awaited.clear()
    for (cls, name), (original, replacement) in _replaced.items():
        if vars(cls).get(name, _absent) is not replacement:
            continue
        if original is _absent:
            delattr(cls, name)
        else:
            setattr(cls, name, original)


def drain(server, timeout=None):
    """Finish what a server has accepted, then close it: BaseServer.drain() for any server.

    Also for one of the stdlib's classes, http.server's included, if patch() was called before its
    serve_forever(). `timeout` is in seconds, None waits without end. Returns whether all requests
    were finished in time. RuntimeError without patch(), in the serving thread and in a request's.
    """
    if _has_its_own_ending(server):
        return server.drain(timeout)
    _refuse_unpatched(server, "drain")
    return ending.drain(server, timeout)


def serve_until_signal(server, *signals, drain_timeout=30):
    """server.serve_forever() until a signal, then drain(): for any server, as drain() is.

    SIGTERM and SIGINT unless others are given; returns the number of the one that came, or None. A
    second one does what it would have done before. Closes the server. RuntimeError without patch(),
    and outside of the main thread.
    """
    if _has_its_own_ending(server):
        return server.serve_until_signal(*signals, drain_timeout=drain_timeout)
    _refuse_unpatched(server, "serve_until_signal")
    return ending.serve_until_signal(
        server, signals, drain_timeout, functools.partial(ending.drain, server))


def _has_its_own_ending(server):
    """Return whether a class of this package has given it a drain()."""
    return any("drain" in vars(cls) and cls.__module__.startswith("socketserver_fast.")
               for cls in type(server).__mro__)


def _refuse_unpatched(server, name):
    if not hasattr(server, "_stop_accepting"):
        raise RuntimeError(
            f"{name}() ends servers of socketserver_fast, and those of the standard library after "
            f"patch(): call socketserver_fast.patch() before serve_forever() of this "
            f"{type(server).__name__}")


def _check_names():
    """Raise ImportError if BaseServer lacks one of the two flags that its methods share."""
    if _is_original(_stdlib.BaseServer, "__init__"):
        unknown = serving.FLAGS - {*_stdlib.BaseServer.__init__.__code__.co_names}
        if unknown:
            raise ImportError(
                f"patch() does not know the socketserver of this Python, which has no "
                f"{min(unknown)}; use `import socketserver_fast as socketserver` instead")


def _model(threads, settings):
    """Return the methods and the settings' defaults of patch(threads=…)."""
    if threads is not None and threads not in models:
        raise ValueError(f"threads is one of {', '.join(map(repr, models))}, not {threads!r}")
    if threads == "greenlet":
        _green()
    methods, defaults = models.get(threads, (_threads_unless_replaced(), {}))
    for name in settings:
        if name not in defaults:
            raise TypeError(f"patch(threads={threads!r}) has no setting {name!r}")
    return methods, defaults


def _threads_unless_replaced():
    """Return the methods of threads, or none if an earlier patch(threads=…) chose a model."""
    return {} if "serve_forever" in vars(_stdlib.ThreadingMixIn) else _threads


def _put(cls, attributes):
    """Set the attributes that are still the stdlib's own, or that patch() has set before."""
    for name, replacement in attributes.items():
        found = vars(cls).get(name, _absent)
        original, previous = _replaced.get((cls, name), (found, _absent))
        if found is _absent or found is previous or _is_original(cls, name) or (
            isinstance(found, dict) and found.items() <= replacement.items()
        ):
            _replaced[cls, name] = original, replacement
            setattr(cls, name, replacement)


def _is_original(cls, name):
    """Return whether the class has the method that the source of the stdlib's module defines."""
    function = vars(cls).get(name)
    return (
        isinstance(function, types.FunctionType)
        and (
            function.__globals__ is vars(_stdlib)
            or function.__globals__ is vars(sys.modules[cls.__module__])
        )
        and function.__code__.co_qualname == f"{cls.__name__}.{name}"
    )


_cls = getattr(_stdlib, "_SocketWriter", None)
if isinstance(_cls, type) and all(
    _is_original(_cls, name) for name in ("__init__", "write", "fileno", "writable")
):  # else somebody has put a class of his own there
    _methods[_cls] = {"write": handlers._SocketWriter.write}
    writer.stand_for(_cls, handlers._SocketWriter.write)

for _cls, _functions in _methods.items():
    _name_after(
        _cls, {name: value for name, value in _functions.items()
               if getattr(value, "__module__", None) == __name__}
    )

for _of_model in (_threads, *(methods for methods, _ in models.values())):
    for _name, _function in _of_model.items():
        if _function.__module__ == __name__:
            _function.__name__ = _name
            _function.__qualname__ = f"ThreadingMixIn.{_name}"

for _class, _name in (
    (_stdlib.BaseServer, "verify_request"),
    (_stdlib.BaseServer, "service_actions"),
    (_stdlib.TCPServer, "fileno"),
):
    if _is_original(_class, _name):
        originals.declare("sharing", **{_name: vars(_class)[_name]})
