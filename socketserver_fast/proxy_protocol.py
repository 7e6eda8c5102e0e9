"""Reads the PROXY protocol, versions 1 and 2, which tells the address of a client behind a proxy.

    class Server(ProxyProtocolMixIn, ThreadPoolTCPServer):
        proxy_protocol_from = ("10.0.0.0/8",)

The handler's `client_address` is then a ClientAddress: the client's (host, port), with attributes
for whatever else the proxy says. The protocol is described in proxy-protocol.txt of HAProxy.
"""

import functools
import ipaddress
import socket
import time

from socketserver_fast._serving.handshake import HandshakeMixIn
from socketserver_fast._sockets import wait
from socketserver_fast._sockets.log import logger

__all__ = ["ClientAddress", "ProxyProtocolMixIn"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2
SHORTEST = 15  # bytes: "PROXY UNKNOWN\r\n"; a header of version 2 has 16
LONGEST_LINE = 107  # bytes of version 1
CRC32C = 3  # the TLV of a checksum
ADDRESS_SIZES = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}  # by the family: none, IPv4, IPv6, Unix


class ClientAddress(tuple):
    """Holds the (host, port) of a client, as a proxy tells it.

    `proxy` is the address of the proxy itself, `destination` the (host, port) that the client has
    connected to. `tlvs` is a tuple of (type, bytes) with the extensions of version 2, in order.

    If the proxy made the connection for itself, such as for a health check, the address is the
    proxy's, or ("", 0) over a Unix socket, and `destination` is None.
    """

    def __new__(cls, address, proxy, destination=None, tlvs=()):
        self = super().__new__(cls, address)
        self.proxy, self.destination, self.tlvs = proxy, destination, tlvs
        return self


class ProxyProtocolMixIn(HandshakeMixIn):
    """Reads the header of the PROXY protocol in the thread, greenlet or process of the request.

    Only the networks of `proxy_protocol_from` are trusted. A connection from there has to send a
    proper header within `handshake_timeout` seconds; otherwise it is closed, and a line is logged.
    Any other connection comes directly from a client: all that it sends goes to the handler.

    List it before the class that handles the requests, and before a TLSMixIn, since the header
    comes before TLS. verify_request(), handle_error() and the socket's getpeername() have the
    address of the proxy. For servers of SOCK_STREAM.
    """

    proxy_protocol_from = ()  # networks such as "10.0.0.0/8"; "unix" for Unix sockets

    _mixin_name = "ProxyProtocolMixIn"

    def finish_request(self, request, client_address):
        """Read the header of a trusted proxy, then handle the request of the client it names."""
        if is_trusted(request, self.proxy_protocol_from):
            client_address = self._client_behind(request, client_address)
        if client_address is not None:
            super().finish_request(request, client_address)

    def _count_silent(self, request, client_address):
        """Leave what comes from a proxy to a worker of the pool: the client is not known yet."""
        if is_trusted(request, self.proxy_protocol_from):
            return False
        return super()._count_silent(request, client_address)

    def _client_behind(self, request, proxy):
        """Read the header and return the ClientAddress; None if the header is refused."""
        timeout = request.gettimeout()
        try:
            header = wait.read_in_parts(
                read_header, request, time.monotonic() + self.handshake_timeout)
            request.settimeout(timeout)
        except Refused as error:
            logger().warning("%s: the PROXY header of %r is refused: %s", type(self).__name__,
                             proxy, error)
            return None
        except OSError as error:  # such as a health check that only connects
            logger().debug("%s: no PROXY header from %r: %s", type(self).__name__, proxy, error)
            return None
        if header is None:
            return ClientAddress(proxy[:2] if isinstance(proxy, tuple) else ("", 0), proxy)
        source, destination, tlvs = header
        return ClientAddress(source, proxy, destination, tlvs)

    def _check_settings(self):
        super()._check_settings()
        if not networks(self.proxy_protocol_from):
            raise ValueError("proxy_protocol_from must name the proxies, such as (\"10.0.0.0/8\",)")


class Refused(Exception):
    """Raised for a malformed header; its text says what is wrong."""


# Whom to trust.


def networks(texts):
    """Return the networks, and "unix", that the texts name. ValueError for any other text."""
    if isinstance(texts, str):
        raise ValueError(f"proxy_protocol_from must be a tuple of networks, such as ({texts!r},)")
    return parsed_networks(tuple(texts))


@functools.lru_cache
def parsed_networks(texts):
    """Parse the texts of a tuple as networks() does, once for each tuple."""
    try:
        return tuple(text if text == "unix" else ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"proxy_protocol_from: {error}") from None


def is_trusted(request, texts):
    """Return whether the connection comes from one of the networks."""
    if request.family not in (socket.AF_INET, socket.AF_INET6):
        return "unix" in texts
    try:
        address = ipaddress.ip_address(request.getpeername()[0])
    except OSError:
        return True  # the peer has gone: reading the header fails
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks(texts) if network != "unix")


# Reading. Never a byte more than the header: the rest is for the handler.


def read_header(sock, deadline):
    """Read a header; return (source, destination, tlvs), or None if it names no client.

    Raises Refused for anything but a header, OSError if the connection ends before or is reset.
    """
    start = receive(sock, SHORTEST, deadline)
    if start.startswith(b"PROXY "):
        return parse_line(receive_line(sock, start, deadline))
    if not start.startswith(SIGNATURE):
        raise Refused(f"it begins with {start!r}")
    start += receive(sock, 1, deadline)
    return parse_binary(start, receive(sock, int.from_bytes(start[14:16], "big"), deadline))


def receive(sock, size, deadline):
    """Receive exactly `size` bytes."""
    data = b""
    while len(data) < size:
        data += receive_some(sock, size - len(data), deadline)
    return data


def receive_some(sock, size, deadline, flags=0):
    """Receive at least one byte."""
    left = deadline - time.monotonic()
    try:
        if left <= 0 or not wait.wait_for_data(sock, left):
            raise TimeoutError
        sock.settimeout(left)
        data = sock.recv(size, flags)
    except TimeoutError:
        raise Refused("it did not come in time") from None
    if not data:
        raise ConnectionResetError("the connection has ended")
    return data


def receive_line(sock, line, deadline):
    """Receive the rest of a line that begins with `line`, and return it all."""
    while not line.endswith(b"\r\n"):
        if len(line) >= LONGEST_LINE:
            raise Refused(f"a line of more than {LONGEST_LINE} bytes: {line!r}")
        there = receive_some(sock, LONGEST_LINE - len(line), deadline, socket.MSG_PEEK)
        end = there.find(b"\n") + 1
        line += receive(sock, end or len(there), deadline)
        if end and not line.endswith(b"\r\n"):
            raise Refused(f"a newline without a carriage return: {line!r}")
    return line


# Parsing.


def parse_line(line):
    """Parse the line of version 1, for read_header()."""
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return None
    kind = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}.get(words[1])
    if kind is None or len(words) != 6:
        raise Refused(f"not a header of version 1: {line!r}")
    try:
        hosts = [text_address(kind, word) for word in words[2:4]]
        ports = [port(word) for word in words[4:]]
    except ValueError as error:
        raise Refused(f"{error}: {line!r}") from None
    return (hosts[0], ports[0]), (hosts[1], ports[1]), ()


def text_address(kind, word):
    """Return the address in its usual form. ValueError for anything else, and for a zone."""
    if b"%" in word:
        raise ValueError("an address with a zone")
    return str(kind(word.decode("ascii")))


def port(word):
    """Return the number of a port. ValueError for anything else."""
    if not word.isdigit() or len(word) > 5 or int(word) > 65535 or word != b"%d" % int(word):
        raise ValueError("not a port")
    return int(word)


def parse_binary(start, rest):
    """Parse the first 16 bytes of version 2 and what follows them, for read_header()."""
    version, command = divmod(start[12], 16)
    family, transport = divmod(start[13], 16)
    if version != 2 or command > 1:
        raise Refused(f"version and command are 0x{start[12]:02x}")
    if command == 0:  # LOCAL
        return None
    if family not in ADDRESS_SIZES or transport > 2:
        raise Refused(f"family and transport are 0x{start[13]:02x}")
    size = ADDRESS_SIZES[family]
    if len(rest) < size:
        raise Refused(f"{len(rest)} bytes, and the addresses need {size}")
    tlvs = tuple(parse_tlvs(rest[size:]))
    check_sum(start + rest, size, tlvs)
    if start[13] == 0 or family in (0x0, 0x3):
        return None
    return *parse_addresses(rest[:size]), tlvs


def parse_addresses(data):
    """Return (source, destination) of bytes with both hosts, then both ports."""
    size = (len(data) - 4) // 2
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    hosts = [socket.inet_ntop(family, data[:size]), socket.inet_ntop(family, data[size:2 * size])]
    ports = [int.from_bytes(data[-4:-2], "big"), int.from_bytes(data[-2:], "big")]
    return zip(hosts, ports, strict=True)


def parse_tlvs(data):
    """Yield each (type, value)."""
    place = 0
    while place < len(data):
        start = place + 3
        end = start + int.from_bytes(data[place + 1:start], "big")
        if start > len(data) or end > len(data):
            raise Refused("a TLV that is cut off")
        yield data[place], data[start:end]
        place = end


def check_sum(header, size, tlvs):
    """Raise Refused for a wrong checksum. A header need not have one."""
    place = 16 + size
    for kind, value in tlvs:
        place += 3
        if kind == CRC32C:
            blank = header[:place] + bytes(len(value)) + header[place + len(value):]
            if len(value) != 4 or crc32c(blank) != int.from_bytes(value, "big"):
                raise Refused("the checksum does not fit")
        place += len(value)


def crc32c(data):
    """Return the checksum of RFC 3720, appendix B.4."""
    value = 0xFFFFFFFF
    for octet in data:
        value = crc_table()[(value ^ octet) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@functools.cache
def crc_table():
    """Return the table of the checksum, with an entry for each octet."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table
