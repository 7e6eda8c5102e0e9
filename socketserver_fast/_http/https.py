"""Makes the TLS handshake of http.server's HTTPSServer in the thread of the request.

Its listener makes it in accept(), where one silent client holds up all others.
"""

import http.server
import socket
import socketserver as _stdlib

from socketserver_fast._serving import secured

HANDSHAKE_TIMEOUT = 10  # seconds

_Server = getattr(http.server, "HTTPSServer", None)  # Python 3.14 and later


def get_request(self):
    """TCPServer.get_request(), which leaves the handshake to finish_request()."""
    if not isinstance(self.socket, self.ssl.SSLSocket):
        return _stdlib.TCPServer.get_request(self)
    if type(vars(self).get("finish_request")) is not Finish:
        # Not on the class: http.server as a program has a finish_request() that knows no super().
        self.finish_request = Finish(self, self.finish_request)
    return socket.socket.accept(self.socket)


class Finish:
    """The server's finish_request(), after the handshake."""

    def __init__(self, server, finish_request):
        self.server = server
        self.finish_request = finish_request

    def __call__(self, request, client_address):
        listener, secure = self.server.socket, self.server.ssl.SSLSocket
        if isinstance(listener, secure) and not isinstance(request, secure):
            # unpatch() may have taken it away meanwhile.
            seconds = getattr(self.server, "handshake_timeout", HANDSHAKE_TIMEOUT)
            secured.serve(self.server, request, client_address, listener.context,
                          self.finish_request, seconds)
        else:
            self.finish_request(request, client_address)


def _close_requests(self):
    """Also those that TLS has taken over."""
    _stdlib.BaseServer._close_requests(self)
    secured.close_connections(self)


METHODS = {} if _Server is None else {
    _Server: {
        "get_request": get_request,
        "_close_requests": _close_requests,
        "handshake_timeout": HANDSHAKE_TIMEOUT,
    },
}
