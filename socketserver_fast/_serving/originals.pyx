# cython: language_level=3, freethreading_compatible=True
"""Is a hook still the original? Asked for each request, on the server's class and on the server.

A compiled path may do the work of a hook that nobody replaced. Programs replace hooks at any time,
on the class and on the instance, while the server runs. The public modules, which have the
originals, declare them; what was found of a class holds until the class or one of its bases changes
(bench: udp_echo_64, pool_close_16).
"""

cimport cython

from socketserver_fast._sockets.plain cimport version_of


@cython.final
cdef class Originals:
    """Knows for some hooks which functions count as the original."""

    def __cinit__(self):
        self.functions = {}

    def declare(self, **hooks):
        """Count each function as an original of the hook with that name."""
        for name, function in hooks.items():
            self.functions.setdefault(name, []).append(function)
        self.intact_version = self.replaced_version = 0

    cpdef bint intact(self, server) except -1:
        """Return whether all of these hooks are originals on this server."""
        cdef unsigned int version = version_of(type(server))
        cdef dict attributes
        if version == 0 or version != self.intact_version:
            if version != 0 and version == self.replaced_version:
                return False
            if not self.has_originals(type(server)):
                self.replaced_version = version_of(type(server))
                return False
            self.intact_version = version_of(type(server))
        attributes = server.__dict__
        for name in self.functions:
            if name in attributes:
                return False
        return True

    cdef bint has_originals(self, cls) except -1:
        for name, functions in self.functions.items():
            if getattr(cls, name, None) not in <list>functions:
                return False
        return True


batching = Originals()  # with these a server may receive packets in batches
sharing = Originals()  # with these the worker threads of a pool may accept by themselves
accepting = Originals()  # with these get_request() waits for nothing but the listener
draining = Originals()  # with these drain() may take all that is queued before it dispatches


def declare(str what, **hooks):
    """Count these functions as originals; `what` is one of the names above."""
    {"batching": batching, "sharing": sharing, "accepting": accepting,
     "draining": draining}[what].declare(**hooks)
