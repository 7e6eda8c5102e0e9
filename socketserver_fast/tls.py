"""TLS: the handshake in the thread, greenlet or process of the request.

    class Server(TLSMixIn, ThreadPoolTCPServer):
        ssl_context = context

    finish_request      in the worker
      wrap_socket       the handshake, within handshake_timeout
      finish_request    of the class behind: the handler's `request` is an ssl.SSLSocket
      close_notify      then the connection is closed
"""

import contextlib
import socket
import ssl

from socketserver_fast._serving import ending
from socketserver_fast._serving.handshake import HandshakeMixIn
from socketserver_fast._sockets.log import logger

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
        try:
            connection = self._shake_hands(request, client_address)
            if connection is not None:
                with connection:
                    super().finish_request(connection, client_address)
                    close_notify(connection, self.handshake_timeout)
        finally:
            vars(self).get("_tls_connections", {}).pop(request, None)

    def _shake_hands(self, request, client_address):
        """The connection with TLS, with the timeout that it had without; None if that fails."""
        context = self._context()
        timeout = request.gettimeout()
        connection = request
        try:
            request.settimeout(self.handshake_timeout)
            connection = context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False)
            connection._accepted = request  # under which others know it
            vars(self).setdefault("_tls_connections", {})[request] = connection
            connection.do_handshake()
            connection.settimeout(timeout)
        except OSError as error:
            logger().debug("%s: no TLS with %r: %s", type(self).__name__, client_address, error)
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection

    def _context(self):
        """The context for one connection."""
        context = self.ssl_context
        return context if isinstance(context, ssl.SSLContext) else context()

    def _close_requests(self):
        """Also those that TLS has taken over."""
        super()._close_requests()
        for connection in list(vars(self).get("_tls_connections", {}).values()):
            ending.close_request(connection)

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


def close_notify(connection, seconds):
    """Tell the client that nothing follows, waiting that long for room to do so.

    unwrap() would also wait for the client's answer, which most do not send: it finds the end of
    the stream instead.
    """
    if connection.fileno() < 0:
        return  # the handler has closed it
    with contextlib.suppress(OSError, ValueError):
        socket.socket.shutdown(connection, socket.SHUT_RD)
        connection.settimeout(seconds)
        connection.unwrap()
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
