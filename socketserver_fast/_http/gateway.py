"""What patch() puts into wsgiref: the head of a response leaves together with the first piece of
its body, where each line of it was sent by itself.

Whatever the application writes, or its iterable gives, is still on the wire before it goes on.
"""

import wsgiref.handlers
import wsgiref.simple_server
from functools import partial

from socketserver_fast._http import head
from socketserver_fast._sockets.writer import SocketWriter

LARGEST = 65536  # bytes of body that are copied behind a head

_Base = wsgiref.handlers.BaseHandler
_write_pieces = wsgiref.handlers.SimpleHandler._write
_flush_pieces = wsgiref.handlers.SimpleHandler._flush
_write, _send_headers = _Base.write, _Base.send_headers


def _collects(handler):
    """Return whether what it writes goes straight to a compiled wfile."""
    return (
        getattr(handler._write, "__func__", None) is _write_pieces
        and type(handler)._flush is _flush_pieces
        and type(handler.stdout) is SocketWriter
    )


def _at_once(handler, method):
    """Call the method and then send all that it writes, also when it raises."""
    pieces = []
    handler._write = pieces.append
    try:
        method()
    finally:
        del handler._write
        if pieces:
            handler._write(b"".join(pieces))


def write(self, data):
    """BaseHandler.write(), which sends the head together with the data."""
    if self.headers_sent or type(data) is not bytes or len(data) > LARGEST or not _collects(self):
        _write(self, data)
    else:
        _at_once(self, partial(_write, self, data))


def send_headers(self):
    """BaseHandler.send_headers(), at once."""
    if _collects(self):
        _at_once(self, partial(_send_headers, self))
    else:
        _send_headers(self)


_get_environ = wsgiref.simple_server.WSGIRequestHandler.get_environ
_names_host = "address_string" in getattr(
    getattr(_get_environ, "__code__", None), "co_names", ())  # until Python 3.12


def get_environ(self):
    """WSGIRequestHandler.get_environ(), compiled for the headers that http.server makes."""
    found = head.get_environ(self)
    if found is None:
        return _get_environ(self)
    if _names_host and (host := self.address_string()) != self.client_address[0]:
        found["REMOTE_HOST"] = host
    return found


METHODS = {
    _Base: {"write": write, "send_headers": send_headers},
    wsgiref.simple_server.WSGIRequestHandler: {"get_environ": get_environ},
}
