"""Keeps what a program's own class has under a name that the package adds to socketserver.

Programs were written before these names were taken: a server may have a counter called
requests_in_progress, and the class behind a mix-in a shutdown() or a drain() of its own.
"""

import socketserver as _stdlib


class Number(property):
    """Reads a number, unless the server has an attribute of its own with that name."""

    def __get__(self, server, cls=None):
        own = {} if server is None else vars(server)
        name = self.fget.__name__
        return own[name] if name in own else super().__get__(server, cls)

    def __set__(self, server, value):
        vars(server)[self.fget.__name__] = value


def own_shutdown(server, base):
    """Return the shutdown() that the server has behind `base`; None for the stdlib's."""
    if not isinstance(server, base):
        return None
    found = getattr(super(base, server), "shutdown", None)
    inherited = getattr(found, "__func__", None) is _stdlib.BaseServer.shutdown
    return None if inherited else found


def prefer_own(cls, base, name):
    """Give the class the attribute that a program's class has behind `base`, if there is one."""
    own = getattr(super(base, cls), name, None)
    first = next(parent for parent in cls.__mro__ if name in vars(parent))
    if (own is not None and not isinstance(own, Number)
            and first.__module__.startswith("socketserver_fast")):
        setattr(cls, name, own)
