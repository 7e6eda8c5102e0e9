"""The module that takes the place of `import socketserver`, by contender."""

import socketserver


def library_of(contender):
    """The stdlib, the package, or the stdlib with the package patched in."""
    if contender == "stdlib":
        return socketserver
    import socketserver_fast

    if contender == "patched":
        socketserver_fast.patch()
        return socketserver
    return socketserver_fast
