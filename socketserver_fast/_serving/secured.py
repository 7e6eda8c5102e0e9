"""A request over TLS: the handshake, the handler, and the end of the stream.

For TLSMixIn, and for http.server's HTTPSServer after patch().
"""

import contextlib
import socket

from socketserver_fast._serving import ending
from socketserver_fast._sockets import secure
from socketserver_fast._sockets.log import logger

ATTRIBUTE = "disable_nagle_algorithm"
UNDECIDED = ("socketserver", "socketserver_fast.handlers")  # whose False is only the default


def serve(server, request, client_address, context, handle, seconds):
    """Shake hands, call handle(connection, client_address), then end the connection.

    The handshake must take no longer than `seconds`. Where it fails nothing is called, and the log
    has a line at debug level.
    """
    try:
        connection = _shake_hands(server, request, client_address, context, seconds)
        if connection is not None:
            with connection:
                handle(connection, client_address)
                _close_notify(connection, seconds)
    finally:
        vars(server).get("_tls_connections", {}).pop(request, None)


def close_connections(server):
    """End those that TLS has taken over, under the hands of their handlers."""
    for connection in list(vars(server).get("_tls_connections", {}).values()):
        ending.close_request(connection)


def close_connection(server, request):
    """End the one that TLS has made of this request, if there is one."""
    connection = vars(server).get("_tls_connections", {}).get(request)
    if connection is not None:
        ending.close_request(connection)


def _shake_hands(server, request, client_address, context, seconds):
    """The connection with TLS, with the timeout that it had without; None if that fails."""
    timeout = request.gettimeout()
    connection = request
    try:
        _send_at_once(server, request)
        connection = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        connection._accepted = request  # under which others know it
        vars(server).setdefault("_tls_connections", {})[request] = connection
        if ending.was_closed(request):
            ending.close_request(connection)
        secure.call(connection, seconds, connection.do_handshake)
        connection.settimeout(timeout)
    except OSError as error:
        logger().debug("%s: no TLS with %r: %s", type(server).__name__, client_address, error)
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _send_at_once(server, request):
    """Set TCP_NODELAY, unless the handler class says False itself.

    The session tickets of TLS 1.3 leave after the client's first bytes, and the first answer would
    wait until the client acknowledges them: 40 ms (360 connections a second, with it 1,266;
    bench: threadingtls_close_16).
    """
    handler = server.RequestHandlerClass
    for cls in getattr(handler, "__mro__", ()):
        if ATTRIBUTE in vars(cls):
            if cls.__module__ not in UNDECIDED and not getattr(handler, ATTRIBUTE):
                return
            break
    if request.family in (socket.AF_INET, socket.AF_INET6):
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)


def _close_notify(connection, seconds):
    """Tell the client that nothing follows, waiting that long for room to do so.

    unwrap() would also wait for the client's answer, which most do not send: it finds the end of
    the stream instead.
    """
    if connection.fileno() < 0:
        return  # the handler has closed it
    with contextlib.suppress(OSError, ValueError):
        socket.socket.shutdown(connection, socket.SHUT_RD)
        secure.call(connection, seconds, connection.unwrap)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
