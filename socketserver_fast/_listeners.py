"""The listening sockets that workers share, or have one each of with reuse_port."""

import contextlib
import socket

DATAGRAM_TIMEOUT = 1.0  # seconds, for a worker when another one was faster


def unblock(listener):
    """Make it return without a request when another process was faster.

    Not so at once for datagrams: replies go through the same socket and have to wait for room.
    """
    listener.settimeout(DATAGRAM_TIMEOUT if listener.type == socket.SOCK_DGRAM else 0)


@contextlib.contextmanager
def unblocked(listener):
    """unblock() it, and undo that: the mode is that of all processes that have the socket."""
    timeout = listener.gettimeout()
    unblock(listener)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # closed meanwhile
            listener.settimeout(timeout)


def further(server):
    """Another socket on the server's address, bound by the server's own hooks."""
    first = server.socket
    if not first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise ValueError("reuse_port must be true before the server is constructed")
    server.socket = listener = socket.socket(server.address_family, server.socket_type)
    try:
        server.server_bind()
        server.server_activate()
        unblock(listener)
    except BaseException:
        listener.close()
        raise
    finally:
        server.socket = first
    return listener
