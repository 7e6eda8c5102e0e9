"""Checks the order of the bases of a server's class, and who needs service_actions()."""

import itertools

from socketserver_fast._serving import dispatch

# Their serve_forever() does not call that of the class behind them.
_LAST = {
    "socketserver",
    "socketserver_fast.green",
    "socketserver_fast.pool",
    "socketserver_fast.prefork",
    "socketserver_fast.servers",
}


def require_before_models(cls, mixin):
    """Raise TypeError if the mix-in stands behind one that says how requests are served."""
    bases = cls.__mro__
    for base in bases[:bases.index(mixin)]:
        if base.__module__ in _LAST and "serve_forever" in vars(base):
            raise TypeError(
                f"{mixin.__name__} has to stand before {base.__name__} among the bases of "
                f"{cls.__name__}")


# The mix-ins that see a connection before its handler does, in their order.
_STAGES = ["ProxyProtocolMixIn", "LimitsMixIn", "TLSMixIn", "StatisticsMixIn"]


def require_stages(cls):
    """Raise TypeError if the class has some of them in another order."""
    names = [base.__name__ for base in cls.__mro__
             if base.__module__.startswith("socketserver_fast.") and base.__name__ in _STAGES]
    for first, second in itertools.pairwise(names):
        if _STAGES.index(first) > _STAGES.index(second):
            raise TypeError(f"{second} has to stand before {first} among the bases of "
                            f"{cls.__name__}")


# Each service_actions() that need not be called after every request.
_periodic = set()


def declare_periodic(mixin):
    """Let a pool whose class has this service_actions() accept without calling it each time."""
    _periodic.add(mixin.service_actions)
    dispatch.declare_originals("sharing", service_actions=mixin.service_actions)


def call_after_requests(cls, mixin):
    """Have a pool call service_actions() after each request if a class behind the mix-in needs it.

    A class needs it if it has a service_actions() that nobody declared periodic.
    """
    bases = cls.__mro__
    behind = [vars(base).get("service_actions") for base in bases[bases.index(mixin) + 1:]]
    if cls.service_actions in _periodic and not all(map(_is_periodic, behind)):
        function = cls.service_actions
        cls.service_actions = lambda self: function(self)


def _is_periodic(function):
    """Return whether this service_actions() need not be called each time; None: there is none."""
    return function is None or function in _periodic or function.__module__ in _LAST
