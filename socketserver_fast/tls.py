"""TLS: the handshake in the thread, greenlet or process of the request.

    class Server(TLSMixIn, ThreadPoolTCPServer):
        ssl_context = context

    finish_request      in the worker: _serving/secured.py
      wrap_socket       the handshake, within handshake_timeout
      finish_request    of the class behind: the handler's `request` is an ssl.SSLSocket
      unwrap            close_notify, then the connection is closed
"""

import ssl

from socketserver_fast._serving import secured
from socketserver_fast._serving.handshake import HandshakeMixIn

__all__ = ["TLSMixIn"]


class TLSMixIn(HandshakeMixIn):
    """Serves TLS: the handler's `request` and `connection` are an ssl.SSLSocket.

    The thread that accepts never waits for a handshake, unless it handles the requests itself. One
    that fails, or takes longer than `handshake_timeout` seconds, is a line in the log at debug
    level. The mix-in closes the connection when the handler is done, with TLS's close_notify; after
    an exception without it, so that no client takes a part of an answer for the whole.

    Stands before the class that says how requests are served. verify_request(), handle_error(),
    shutdown_request() and close_request() have the socket that was accepted, which is closed once
    TLS has taken it over. For servers of SOCK_STREAM.
    """

    # An ssl.SSLContext, or a callable that returns one, called for each connection: a method of
    # the server, say, that looks whether the certificate was renewed.
    ssl_context = None

    _mixin_name = "TLSMixIn"

    def finish_request(self, request, client_address):
        """Shake hands, then handle the request."""
        secured.serve(self, request, client_address, self._context(), super().finish_request)

    def _context(self):
        """The context for one connection."""
        context = self.ssl_context
        return context if isinstance(context, ssl.SSLContext) else context()

    def _close_requests(self):
        """Also those that TLS has taken over."""
        super()._close_requests()
        secured.close_connections(self)

    def _check_settings(self):
        super()._check_settings()
        context = self.ssl_context
        if not isinstance(context, ssl.SSLContext) and callable(context):
            context = context()
        if not isinstance(context, ssl.SSLContext):
            raise TypeError("ssl_context must be an ssl.SSLContext with a certificate, or a "
                            f"callable that returns one, not {context!r}")
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("ssl_context is one of a client: make it by "
                             "ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)")
