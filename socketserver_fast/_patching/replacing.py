"""Replaces methods of the stdlib's classes, and restores them.

Only what is still the stdlib's own is replaced, and only what nobody has replaced since is
restored.
"""

import socketserver as _stdlib
import sys
import types

_absent = object()
_replaced = {}  # (class, name): the original, or _absent, and its replacement


def put(cls, attributes):
    """Set the attributes that are still the stdlib's own, or that an earlier put() has set."""
    for name, replacement in attributes.items():
        found = vars(cls).get(name, _absent)
        original, previous = _replaced.get((cls, name), (found, _absent))
        if found is _absent or found is previous or is_original(cls, name) or (
            isinstance(found, dict) and found.items() <= replacement.items()
        ):
            _replaced[cls, name] = original, replacement
            setattr(cls, name, replacement)


def put_only(cls, attributes):
    """Set the attributes, and restore what an earlier put() has set beside them."""
    put(cls, attributes)
    for replaced, name in list(_replaced):
        if replaced is cls and name not in attributes:
            _restore(cls, name)


def restore_all(kept=()):
    """Undo every put(), except of the names in `kept` and where the class has another value now."""
    for cls, name in list(_replaced):  # a request may put() meanwhile
        if name not in kept:
            _restore(cls, name)


def _restore(cls, name):
    original, replacement = _replaced[cls, name]
    if vars(cls).get(name, _absent) is not replacement:
        return
    if original is _absent:
        delattr(cls, name)
    else:
        setattr(cls, name, original)


def is_original(cls, name):
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


def adapted(ours, theirs, *names):
    """Return these methods of our class, with a super() that fits the stdlib's class."""
    methods = {name: getattr(ours, name) for name in names}
    return {name: _adapt(method, theirs) for name, method in methods.items()}


def _adapt(method, cls):
    if isinstance(method, property):
        return type(method)(_adapt(method.fget, cls))
    if "__class__" not in method.__code__.co_freevars:
        return method
    return types.FunctionType(
        method.__code__, method.__globals__, method.__name__, method.__defaults__,
        (types.CellType(cls),))


def name_after(cls, functions):
    """Name the functions as methods of the class, for tracebacks."""
    for name, function in functions.items():
        if isinstance(function, types.FunctionType):
            function.__qualname__ = f"{cls.__name__}.{name}"
