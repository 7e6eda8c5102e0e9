"""Patches http.server and wsgiref once the program has imported them; never imports them itself.

It looks for them when a server begins to serve and at each request, which is early enough.
"""

import contextlib
import importlib
import sys

from socketserver_fast._patching import replacing

# Each module to patch, and the modules of _http that have the methods for it. All need http.server.
PARTS = {
    "http.server": ["requests", "responses", "downloads", "https"],
    "wsgiref.simple_server": ["gateway"],
}
awaited = set()  # those of PARTS that are not patched yet; empty without patch()
main = None  # the one that runs as the program, so that its classes are those of __main__


def expect_main(name):
    """Note that the program that is about to run is the module `name`."""
    global main
    main = name if name in PARTS else None


def begin():
    """Patch what is imported already, and look() for the rest from now on."""
    awaited.update(PARTS)
    _patch_imported()


def look():
    """Patch the modules that were imported since the last look."""
    if main in awaited or awaited & sys.modules.keys():
        with contextlib.suppress(ImportError, OSError):  # out of descriptors: at a later request
            _patch_imported()


def _patch_imported():
    for name in PARTS:
        if name in awaited and (name == main or _is_imported(name)):
            for part in PARTS[name]:
                _put(importlib.import_module(f"socketserver_fast._http.{part}"))
            awaited.discard(name)


def _is_imported(name):
    """Return whether the module was imported to its last line."""
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _put(part):
    for cls, methods in part.METHODS.items():
        replacing.name_after(cls, methods)
        replacing.put(cls, methods)
        if cls.__module__ == main:
            replacing.put(getattr(sys.modules["__main__"], cls.__name__), methods)
