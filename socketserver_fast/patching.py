"""patch() and unpatch(): the compiled paths in the stdlib's own classes.

The classes stay the objects that they are, so that it does not matter who imported or subclassed
them when. Only methods change, and only those that are still the stdlib's own: whatever somebody
else has put there stays, in both directions.
"""

import socketserver as _stdlib
import types

from socketserver_fast import _loop, handlers, mixins, servers


def serve_forever(self, poll_interval=0.5):
    """BaseServer.serve_forever() with the stdlib's _ServerSelector."""
    _loop.serve(self, poll_interval, _stdlib._ServerSelector)


def shutdown(self):
    """BaseServer.shutdown() as the stdlib has it, without a timeout."""
    servers.BaseServer.shutdown(self)


def setup(self):
    """StreamRequestHandler.setup() with the stdlib's _SocketWriter."""
    handlers.setup_stream(self, _stdlib._SocketWriter)


_methods = {
    _stdlib.BaseServer: {
        "serve_forever": serve_forever,
        "shutdown": shutdown,
        "_handle_request_noblock": servers.BaseServer._handle_request_noblock,
    },
    _stdlib.TCPServer: {
        "server_close": servers.TCPServer.server_close,
        "get_request": servers.TCPServer.get_request,
    },
    _stdlib.UDPServer: {"get_request": servers.UDPServer.get_request},
    _stdlib.StreamRequestHandler: {"setup": setup},
    _stdlib.DatagramRequestHandler: {
        "setup": handlers.DatagramRequestHandler.setup,
        "finish": handlers.DatagramRequestHandler.finish,
    },
    _stdlib._SocketWriter: {"write": handlers._SocketWriter.write},
    _stdlib._Threads: {"append": mixins._Threads.append},
}
if hasattr(_stdlib, "ForkingMixIn"):
    _methods[_stdlib.ForkingMixIn] = {"collect_children": mixins.ForkingMixIn.collect_children}

_originals = {}  # (class, name): the stdlib's method, once it was replaced


def patch():
    """Put the compiled paths into the stdlib's socketserver, for the whole process.

    Every server built on it is served by them from then on, also those that exist already; one
    that is in serve_forever() at this moment goes on as it started. A method that somebody has
    replaced is left alone. Calling it again changes nothing.
    """
    for cls, methods in _methods.items():
        for name, method in methods.items():
            if _is_original(cls, name):
                _originals[cls, name] = vars(cls)[name]
                setattr(cls, name, method)


def unpatch():
    """Undo patch(). Servers that are running go on; what was replaced since is left alone."""
    for (cls, name), original in _originals.items():
        if vars(cls).get(name) is _methods[cls][name]:
            setattr(cls, name, original)


def _is_original(cls, name):
    """Whether the class has the method that the source of the stdlib's module defines."""
    function = vars(cls).get(name)
    return (
        isinstance(function, types.FunctionType)
        and function.__globals__ is vars(_stdlib)
        and function.__code__.co_qualname == f"{cls.__name__}.{name}"
    )


for _cls, _functions in _methods.items():
    for _name, _function in _functions.items():
        if _function.__module__ == __name__:
            _function.__qualname__ = f"{_cls.__name__}.{_name}"
