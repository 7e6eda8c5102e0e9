"""Python's socketserver with its hot paths compiled: `import socketserver_fast as socketserver`.

Or leave the imports alone and call `socketserver_fast.patch()`, which puts the compiled paths into
the stdlib's own classes, so that http.server, xmlrpc, wsgiref and everything built on them is
served by them; or run a program with `python -m socketserver_fast`.
"""

# Some of these only stand here because programs reach for them through socketserver.
import os
import selectors
import socket
import socketserver as _stdlib
import sys
import threading
from io import BufferedIOBase
from time import monotonic as time


def _cannot_load(error):
    """The ImportError that says what to do where a compiled module is missing or does not fit."""
    return ImportError(
        f"socketserver_fast cannot load its compiled modules in Python {sys.version.split()[0]} "
        f"({error}). To install it for this Python: {sys.executable} -m pip install "
        f"--force-reinstall socketserver_fast; in a source checkout, with a C compiler: "
        f"{sys.executable} -m pip install -e . (The standard library's socketserver does the "
        f"same, slower.)",
        name=getattr(error, "name", None),
        path=getattr(error, "path", None),
    )


# Modules of two builds beside each other raise a TypeError or a ValueError.
_MISFITS = ImportError, AttributeError, TypeError, ValueError

try:
    from socketserver_fast import mixins, pool, servers
    from socketserver_fast._patching.models import selector_class
    from socketserver_fast.handlers import (
        BaseRequestHandler,
        DatagramRequestHandler,
        StreamRequestHandler,
        _SocketWriter,
        send_file,
    )
    from socketserver_fast.mixins import *
    from socketserver_fast.mixins import _NoThreads, _Threads
    from socketserver_fast.patching import drain, patch, serve_until_signal, unpatch
    from socketserver_fast.pool import *
    from socketserver_fast.servers import *

    if hasattr(os, "fork"):
        from socketserver_fast import prefork
        from socketserver_fast.prefork import *
except _MISFITS as error:
    raise _cannot_load(error) from error

# Read here at each use, since programs replace it.
_ServerSelector = selector_class()

__all__ = [
    "BaseRequestHandler",
    "DatagramRequestHandler",
    "StreamRequestHandler",
    *mixins.__all__,
    *(prefork.__all__ if hasattr(os, "fork") else []),
    *pool.__all__,
    *servers.__all__,
    "drain",
    "patch",
    "send_file",
    "serve_until_signal",
    "unpatch",
]


def _imported_by_compiled_modules():
    """Names modules for PyInstaller and others, which look into Python code only. For a test."""
    import email._policybase
    import email.message
    import heapq
    import http.client
    import urllib.parse

    from socketserver_fast import _socketserver_shared
    from socketserver_fast._green import as_threads, asyncio_state, hub
    from socketserver_fast._pool import stalls, turns
    from socketserver_fast._sockets import kept, reader, source


# These need the package greenlet, so they and it are only imported when somebody asks for one.
_GREEN = ["GreenletMixIn", "GreenletTCPServer", "GreenletUDPServer"]
if hasattr(socket, "AF_UNIX"):
    _GREEN += ["GreenletUnixDatagramServer", "GreenletUnixStreamServer"]


def __getattr__(name):
    if name in _GREEN:
        from socketserver_fast import green

        return getattr(green, name)
    if name == "__version__":  # socketserver's, which Python 3.15 deprecates
        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            version = _stdlib.__version__
        for warning in caught:
            warnings.warn(warning.message, stacklevel=2)
        return version
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_GREEN})
