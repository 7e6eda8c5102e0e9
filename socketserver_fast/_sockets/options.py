"""Implements UDPServer's options: receive buffer, counts of lost packets, source of replies.

These are functions of the server, not its methods, because stdlib servers that were patched pass
through receive(), too. Nothing is kept in the server's __dict__ until there is something to count.
"""

import contextlib
import errno
import math
import socket
import struct
import sys
import threading
import time

from socketserver_fast._sockets import datagram
from socketserver_fast._sockets.datagram import SO_MEMINFO, SO_RXQ_OVFL
from socketserver_fast._sockets.log import logger

REPORT_SECONDS = 60  # between two log lines about dropped packets

_lock = threading.Lock()  # for the counts of servers whose threads receive themselves
_plain_recvfrom = socket.socket.recvfrom

_MSG_TRUNC = getattr(socket, "MSG_TRUNC", 0)
_MSG_CTRUNC = getattr(socket, "MSG_CTRUNC", 0)
_DROPS_IN_MEMINFO = 8 * 4  # linux/sock_diag.h: SK_MEMINFO_DROPS, of 32-bit integers
_LARGEST_SIZE = 2**31 - 1  # of a socket option

# Python has the name since 3.12. FreeBSD has another option, which gives the bare address.
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform))
_IP_RECVDSTADDR = None if _IP_PKTINFO else getattr(socket, "IP_RECVDSTADDR", None)
_IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", None)

# By address family, the option with which the kernel reports where a packet was sent to.
_destination_options = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_PKTINFO or _IP_RECVDSTADDR),
    socket.AF_INET6: (socket.IPPROTO_IPV6, getattr(socket, "IPV6_RECVPKTINFO", None)),
}


def set_options(server):
    """Set the socket options that the server's attributes ask for; harmless when repeated."""
    if server.recv_buffer_size is not None:
        _set_buffer_size(server, server.recv_buffer_size)
    if server.reply_from_destination:
        _ask_for_destination(server)
    if SO_RXQ_OVFL is not None:  # the next packet then says that some were dropped before it
        _set_quietly(server.socket, SO_RXQ_OVFL, 1)


def _set_quietly(sock, option, value):
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, option, value)


def _set_buffer_size(server, size):
    if not isinstance(size, int) or size <= 0:
        raise ValueError(f"recv_buffer_size must be a number of bytes above 0, not {size!r}")
    # Linux grants what it can; others refuse with ENOBUFS what is too much.
    _set_quietly(server.socket, socket.SO_RCVBUF, min(size, _LARGEST_SIZE))
    granted = server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sys.platform == "linux":
        granted //= 2  # socket(7): the kernel doubles it for its bookkeeping, and returns that
    if granted < size:
        _warn_once(
            server,
            "recv_buffer_size",
            "the system grants a receive buffer of %d bytes, not recv_buffer_size, %d; "
            "its limit is net.core.rmem_max on Linux, kern.ipc.maxsockbuf on BSD and macOS",
            granted,
            size,
        )


def _ask_for_destination(server):
    if server.address_family not in _destination_options:
        raise ValueError("reply_from_destination is for AF_INET and AF_INET6 servers")
    level, option = _destination_options[server.address_family]
    if option is None or not hasattr(server.socket, "recvmsg"):
        raise OSError(
            errno.ENOPROTOOPT,
            "this system does not tell where a packet was sent to: leave reply_from_destination "
            "False and run a server for each address",
        )
    server.socket.setsockopt(level, option, 1)


def receive(server):
    """Do what get_request() does by the socket's own methods, which may wait."""
    sock = server.socket
    size = server.max_packet_size
    datagram.refuse_errors_alone(sock)
    if getattr(server, "reply_from_destination", False):
        return _receive_with_destination(server, sock, size)
    # recvmsg() says whether the packet was truncated. A replaced recvfrom() has to be called.
    if getattr(type(sock), "recvfrom", None) is _plain_recvfrom and hasattr(sock, "recvmsg"):
        packet, _, flags, address = sock.recvmsg(size)
        _tell_flags(server, flags)
    else:
        packet, address = sock.recvfrom(size)
    return (packet, sock), address


def _receive_with_destination(server, sock, size):
    packet, ancillary, flags, address = sock.recvmsg(size, 256)
    if any(entry[:2] == (socket.SOL_SOCKET, SO_RXQ_OVFL) for entry in ancillary):
        flags |= _MSG_CTRUNC  # where note_flags() expects it, as after a recvmsg without space
    _tell_flags(server, flags)
    return (packet, _ReplySocket(sock, _source(ancillary))), address


def _source(ancillary):
    """Return the ancillary data that makes a reply leave from where the packet was sent to.

    No reply can leave from a multicast or a broadcast address: then the system chooses one.
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            # ip(7): Linux gives the local address even of a broadcast first; macOS gives zeros.
            local = data[4:8] if any(data[4:8]) else data[8:12]
            if local[0] < 224:
                return [(level, kind, bytes(4) + local + bytes(4))]
        elif (level, kind) == (socket.IPPROTO_IP, _IP_RECVDSTADDR):
            if data[0] < 224:
                return [(level, kind, data)]  # ip(4): IP_SENDSRCADDR is the same number
        elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and data[0] != 0xFF:
            link_local = data[:2] >= b"\xfe\x80" and data[:2] < b"\xfe\xc0"
            return [(level, kind, data if link_local else data[:16] + bytes(4))]
    return []


class _ReplySocket:
    """Stands in for the server's socket in the handler of one packet, with reply_from_destination.

    It sends from the address that the packet was sent to; all else is done by the socket.
    """

    __slots__ = ("_ancillary", "_socket")

    def __init__(self, sock, ancillary):
        self._socket = sock
        self._ancillary = ancillary

    def sendto(self, data, *flags_and_address):
        """Send as socket.sendto(data, [flags,] address)."""
        if len(flags_and_address) not in (1, 2):
            raise TypeError("sendto() takes the data, optional flags and an address")
        *flags, address = flags_and_address
        return self.sendmsg([data], [], *(flags or [0]), address)

    def sendmsg(self, buffers, ancdata=(), flags=0, address=None):
        """Send as socket.sendmsg()."""
        return self._socket.sendmsg(buffers, [*self._ancillary, *ancdata], flags, address)

    def __getattr__(self, name):
        return getattr(self._socket, name)


def _tell_flags(server, flags):
    """Tell the server what a packet's msg_flags say; the stdlib's classes have no use for it."""
    if flags & (_MSG_TRUNC | _MSG_CTRUNC) and hasattr(server, "_note_flags"):
        server._note_flags(flags)


def note_flags(server, flags):
    """Count and log that a packet was truncated, or that others before it were dropped."""
    if flags & _MSG_TRUNC:
        with _lock:
            vars(server)["_truncated"] = vars(server).get("_truncated", 0) + 1
        _warn_once(
            server,
            "truncated",
            "a packet was longer than max_packet_size, %d bytes, and was cut; "
            "datagrams_truncated counts them",
            server.max_packet_size,
        )
    if flags & _MSG_CTRUNC:  # set on every packet after the first that was dropped
        report_dropped(server)


def truncated(server):
    """Return how many packets were truncated, also by the workers of a PreforkMixIn."""
    return vars(server).get("_truncated", 0) + int(vars(server).get("_truncated_elsewhere", 0))


def dropped(server):
    """Return how many packets the kernel dropped, also for workers; None if that is unknown."""
    count = _dropped_here(server)
    return None if count is None else count + int(vars(server).get("_dropped_elsewhere", 0))


def _dropped_here(server):
    count = dropped_by(getattr(server, "socket", None))
    return vars(server).get("_dropped") if count is None else count


def dropped_by(sock):
    """Return how many packets the kernel dropped for an open socket; None if that is unknown."""
    if SO_MEMINFO is None:
        return None
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _DROPS_IN_MEMINFO + 4)
        return struct.unpack_from("=I", info, _DROPS_IN_MEMINFO)[0]
    except (AttributeError, OSError, TypeError, struct.error):
        return None  # closed, or a stand-in


def leave_reports_to_parent(server):
    """In a worker process: count from zero, and let the parent log what was dropped."""
    state = vars(server)
    for name in ("_truncated", "_truncated_elsewhere", "_dropped_elsewhere"):
        state.pop(name, None)
    state["_dropped_said_until"] = math.inf


def report_dropped(server, *, last=False):
    """Log that packets were dropped, if there are more than last time.

    Does nothing within REPORT_SECONDS of the last time, unless this is the last call.
    """
    state = vars(server)
    now = time.monotonic()
    until = state.get("_dropped_said_until", 0)
    if now < until and (not last or until == math.inf):
        return
    count = dropped(server)
    with _lock:
        new = count and count != state.get("_dropped_said")
        state.update(_dropped_said=count, _dropped_said_until=now + REPORT_SECONDS)
    if new:
        logger().warning(
            "%s: the receive buffer was full and %d packets were dropped so far; "
            "datagrams_dropped counts them, and a larger recv_buffer_size prevents it",
            type(server).__name__,
            count,
        )


def remember_dropped(server):
    """Keep the count of a socket that is about to be closed."""
    count = _dropped_here(server)
    if count is not None:
        vars(server)["_dropped"] = count
        if dropped(server):
            report_dropped(server, last=True)


def _warn_once(server, topic, message, *arguments):
    with _lock:
        said = vars(server).setdefault("_said", set())
        new = topic not in said
        said.add(topic)
    if new:
        logger().warning(f"%s: {message}", type(server).__name__, *arguments)
