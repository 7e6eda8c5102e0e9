"""Serves TLS; the handshake runs in the thread, greenlet or process of the request.

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

    The thread that accepts never waits for a handshake, unless it handles the requests itself. A
    handshake that fails, or takes longer than `handshake_timeout` seconds, is logged at debug
    level. When the handler is done, the mix-in sends TLS's close_notify and closes the connection.
    After an exception it sends no close_notify, so that no client takes part of an answer for all
    of it.

    List it before the class that handles the requests. verify_request(), handle_error(),
    shutdown_request() and close_request() get the socket that was accepted, which is closed once
    TLS has taken it over. For servers of SOCK_STREAM.
    """

    # An ssl.SSLContext, or a callable that returns one and is called for each connection: for
    # example a method of the server that reloads a renewed certificate.
    ssl_context = None

    _mixin_name = "TLSMixIn"

    def finish_request(self, request, client_address):
        """Shake hands, then handle the request."""
        secured.serve(self, request, client_address, self._context(), super().finish_request,
                      self.handshake_timeout)

    def _context(self):
        """Return the context for one connection."""
        context = self.ssl_context
        return context if isinstance(context, ssl.SSLContext) else context()

    def _close_requests(self):
        """Close the connections, including those that TLS has taken over."""
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
