"""Where a mix-in has to stand among the bases of a server's class."""

import itertools

# Their serve_forever() does not go on to that of the class behind them.
_LAST = {
    "socketserver",
    "socketserver_fast.green",
    "socketserver_fast.pool",
    "socketserver_fast.prefork",
    "socketserver_fast.servers",
}


def require_before_models(cls, mixin):
    """TypeError if the class has the mix-in behind one that says how requests are served."""
    bases = cls.__mro__
    for base in bases[:bases.index(mixin)]:
        if base.__module__ in _LAST and "serve_forever" in vars(base):
            raise TypeError(
                f"{mixin.__name__} has to stand before {base.__name__} among the bases of "
                f"{cls.__name__}")


# What is done with a connection before its handler, in this order.
_STAGES = ["ProxyProtocolMixIn", "LimitsMixIn", "TLSMixIn", "StatisticsMixIn"]


def require_stages(cls):
    """TypeError if those of them that the class has stand in another order."""
    names = [base.__name__ for base in cls.__mro__
             if base.__module__.startswith("socketserver_fast.") and base.__name__ in _STAGES]
    for first, second in itertools.pairwise(names):
        if _STAGES.index(first) > _STAGES.index(second):
            raise TypeError(f"{second} has to stand before {first} among the bases of "
                            f"{cls.__name__}")
