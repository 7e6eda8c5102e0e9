"""The PROXY protocol: whom it is believed, what a handler sees, and what is refused."""

import contextlib
import logging
import socket
import struct
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast.proxy_protocol import (
    SIGNATURE,
    ClientAddress,
    ProxyProtocolMixIn,
    Refused,
    crc32c,
    parse_binary,
    read_header,
)

try:
    from hypothesis import given, settings, strategies
except ImportError:  # pragma: no cover
    pytest.skip("hypothesis is not installed", allow_module_level=True)

MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]
if hasattr(socketserver_fast, "ForkingTCPServer"):
    MODELS.append("ForkingTCPServer")
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n"
CLIENT, DESTINATION = ("192.0.2.1", 50000), ("198.51.100.2", 443)


def v2(family=0x11, body=None, tlvs=b"", command=0x21, size=None):
    """Return a header of version 2."""
    if body is None:
        body = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2")
        body += struct.pack("!HH", 50000, 443)
    body += tlvs
    size = len(body) if size is None else size
    return SIGNATURE + struct.pack("!BBH", command, family, size) + body


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def checksummed(header):
    """Fill the checksum in, which is the last TLV of this header."""
    return header[:-4] + struct.pack("!I", crc32c(header))


class Tell(socketserver_fast.StreamRequestHandler):
    """Answers a line with what it knows of the client."""

    def handle(self):
        line = self.rfile.readline()
        address = self.client_address
        proxied = isinstance(address, ClientAddress)
        known = (address.proxy, address.destination, address.tlvs) if proxied else ()
        self.wfile.write(repr((line, tuple(address), *known)).encode() + b"\n")


@pytest.fixture
def proxied(serving):
    """`with proxied(name, **attributes) as ask:`: ask(data) sends to a server of this class, and
    returns what its handler knows, None if it was closed instead."""

    @contextlib.contextmanager
    def run(name="ThreadingTCPServer", address=("127.0.0.1", 0), **attributes):
        attributes = {"proxy_protocol_from": ("127.0.0.0/8",), **attributes}
        bases = (ProxyProtocolMixIn, getattr(socketserver_fast, name))
        server = type("Server", bases, attributes)(address, Tell)

        def ask(*parts):
            with socket.socket(server.address_family) as client:
                client.settimeout(10)
                client.connect(server.server_address)
                ask.name = client.getsockname()
                for part in parts:
                    client.sendall(part)
                with contextlib.suppress(ConnectionResetError):
                    if line := client.makefile("rb").readline():
                        return eval(line)
            return None

        with serving(server) as ask.address:
            yield ask

    return run


# What a handler sees.


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("header", [V1, v2()], ids=["v1", "v2"])
def test_handler_sees_the_client(name, header, proxied):
    with proxied(name) as ask:
        answer = ask(header + b"hello\n")
        assert answer == (b"hello\n", CLIENT, ask.name, DESTINATION, ())


@pytest.mark.skipif(not hasattr(socketserver_fast, "PreforkTCPServer"), reason="no fork")
def test_prefork(python_program):
    assert python_program("PreforkTCPServer") == ("192.0.2.1", 50000)


@pytest.fixture
def python_program():
    """Return the client's address as a server in a process of its own sees it."""
    import subprocess
    import sys

    def run(base):
        program = f"""
from socketserver_fast import *
from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
class Server(ProxyProtocolMixIn, {base}):
    workers = 1
    proxy_protocol_from = ("127.0.0.1",)
class Tell(StreamRequestHandler):
    def handle(self):
        self.wfile.write(repr(tuple(self.client_address)).encode())
with Server(("127.0.0.1", 0), Tell) as server:
    print(server.server_address[1], flush=True)
    server.serve_until_signal()
"""
        with subprocess.Popen([sys.executable, "-c", program], stdout=-1) as child:
            try:
                port = int(child.stdout.readline())
                with socket.create_connection(("127.0.0.1", port), 10) as client:
                    client.sendall(V1)
                    return eval(client.makefile("rb").read().decode())
            finally:
                child.terminate()

    return run


def test_ipv6_in_version_1(proxied):
    with proxied() as ask:
        answer = ask(b"PROXY TCP6 2001:db8::0001 ::1 1 65535\r\nx\n")
        assert answer[1::2] == (("2001:db8::1", 1), ("::1", 65535))


def test_ipv6_in_version_2(proxied):
    body = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    body += socket.inet_pton(socket.AF_INET6, "::1") + struct.pack("!HH", 1, 65535)
    with proxied() as ask:
        assert ask(v2(0x21, body) + b"x\n")[1::2] == (("2001:db8::1", 1), ("::1", 65535))


def test_tlvs_are_bytes(proxied):
    tlvs = tlv(2, b"example.org") + tlv(0xE0, b"") + tlv(0xE0, b"\0\xff")
    with proxied() as ask:
        answer = ask(v2(tlvs=tlvs) + b"x\n")
        assert answer[4] == ((2, b"example.org"), (0xE0, b""), (0xE0, b"\0\xff"))


@pytest.mark.parametrize("header", [
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN what ever\r\n",
    b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
    v2(command=0x20),
    v2(0xFF, b"anything", command=0x20),
    v2(0x00, b""),
    v2(0x00, b"", tlv(2, b"example.org")),
    v2(0x31, b"/path".ljust(108, b"\0") * 2),
], ids=lambda header: header[:24].hex())
def test_proxy_that_speaks_for_itself_is_the_client(header, proxied):
    with proxied() as ask:
        assert ask(header + b"x\n") == (b"x\n", ask.name, ask.name, None, ())


@pytest.mark.parametrize("header", [V1, v2(), v2(tlvs=tlv(1, b"h2")), b"PROXY UNKNOWN\r\n"])
def test_header_may_come_in_parts_and_nothing_else_is_read(header):
    here, there = socket.socketpair()
    with here, there:
        sender = threading.Thread(
            target=lambda: [here.sendall(bytes([octet])) for octet in header + b"hello\n"])
        sender.start()
        read_header(there, time.monotonic() + 10)
        sender.join(10)
        assert there.recv(100) == b"hello\n"


def test_timeout_of_the_connection_is_restored(serving):
    seen = []

    class Server(ProxyProtocolMixIn, socketserver_fast.TCPServer):
        proxy_protocol_from = ("127.0.0.1",)

    server = Server(("127.0.0.1", 0), lambda request, *rest: seen.append(request.gettimeout()))
    with serving(server) as address, socket.create_connection(address, 10) as client:
        client.sendall(V1)
        assert client.recv(1) == b""
    assert seen == [None]


# Whom it is believed.


def test_others_are_clients_themselves(proxied):
    with proxied(proxy_protocol_from=("192.0.2.0/24", "::1")) as ask:
        assert ask(V1) == (V1, ask.name)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no dual-stack sockets")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_proxies_of_both_ip_versions(host, serving):
    class Server(ProxyProtocolMixIn, socketserver_fast.ThreadingTCPServer):
        dual_stack = True
        proxy_protocol_from = ("127.0.0.0/8", "::1/128")

    with (serving(Server(("", 0), Tell)) as address,
          socket.create_connection((host, address[1]), 10) as client):
        client.sendall(V1 + b"x\n")
        assert eval(client.makefile("rb").readline())[1] == CLIENT


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
def test_unix_socket(proxied, unix_path):
    unix = {"name": "ThreadingUnixStreamServer", "proxy_protocol_from": ("unix",)}
    with proxied(**unix, address=unix_path()) as ask:
        assert ask(V1 + b"x\n")[1:4] == (CLIENT, "", DESTINATION)
        assert ask(b"PROXY UNKNOWN\r\nx\n")[1:4] == (("", 0), "", None)


@pytest.mark.parametrize(("networks", "message"), [
    ((), "must name the proxies"),
    ("10.0.0.0/8", r"tuple of networks, such as \('10.0.0.0/8',\)"),
    (("10.0.0.1/8",), "has host bits set"),
    (("proxy.example",), "does not appear to be an IPv4 or IPv6 network"),
])
@pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
def test_wrong_networks_are_an_error_before_it_serves(networks, message, method):
    class Server(ProxyProtocolMixIn, socketserver_fast.TCPServer):
        proxy_protocol_from = networks

    with Server(("127.0.0.1", 0), Tell) as server, pytest.raises(ValueError, match=message):
        getattr(server, method)()


@pytest.mark.parametrize("seconds", [0, -1, None, "10", float("nan"), float("inf"), True])
def test_wrong_handshake_timeout(seconds):
    class Server(ProxyProtocolMixIn, socketserver_fast.TCPServer):
        proxy_protocol_from = ("127.0.0.1",)
        handshake_timeout = seconds

    with Server(("127.0.0.1", 0), Tell) as server, pytest.raises(ValueError, match="handshake"):
        server.serve_forever()


def test_datagrams_have_no_header():
    class Server(ProxyProtocolMixIn, socketserver_fast.UDPServer):
        proxy_protocol_from = ("127.0.0.1",)

    with Server(("127.0.0.1", 0), Tell) as server, pytest.raises(TypeError, match="SOCK_STREAM"):
        server.serve_forever()


def test_mixin_behind_the_model_is_refused():
    with pytest.raises(TypeError, match="ProxyProtocolMixIn has to stand before"):
        type("Server", (socketserver_fast.ThreadPoolTCPServer, ProxyProtocolMixIn), {})


# What is refused.

MALFORMED = [
    b"GET / HTTP/1.0\r\n\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443 \r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 50000 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 65536\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 0443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 +443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 4_3\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 50000 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 50000 443\r\n",
    b"PROXY TCP4 ::1 ::1 50000 443\r\n",
    b"PROXY TCP6 192.0.2.1 ::1 50000 443\r\n",
    b"PROXY TCP6 fe80::1%lo ::1 50000 443\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 50000 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    b"PROXY \xff\xff\xff\xff 1 2 3 4\r\n",
    b"proxy tcp4 192.0.2.1 198.51.100.2 50000 443\r\n",
    SIGNATURE[:11] + b"\r" + v2()[12:],
    v2(command=0x11),
    v2(command=0x22),
    v2(0x13),
    v2(0x41),
    v2(size=11)[:27],
    v2(0x21),
    v2(tlvs=b"\1"),
    v2(tlvs=b"\1\0\2x"),
    v2(tlvs=tlv(3, b"\0\0\0\0")),
    v2(tlvs=tlv(3, b"\0")),
]


@pytest.mark.parametrize("header", MALFORMED, ids=lambda header: repr(header[:50]))
def test_malformed_header_is_refused_with_one_line(header, proxied, caplog):
    with proxied() as ask:
        assert ask(header + b"x\n") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert len(caplog.text.splitlines()) == 1


def test_right_checksum_is_taken(proxied):
    header = checksummed(v2(tlvs=tlv(2, b"example.org") + tlv(3, bytes(4))))
    with proxied() as ask:
        assert ask(header + b"x\n")[1] == CLIENT


def test_checksum_is_that_of_the_rfc():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("name", MODELS[:4])
def test_silence_is_refused_in_time(name, proxied, caplog):
    with proxied(name, handshake_timeout=0.05) as ask:
        assert ask(V1[:20]) is None
    assert "did not come in time" in caplog.text


def test_header_in_small_parts_is_refused_in_time():
    """Each part comes at once, the whole does not."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall(V1)
        with pytest.raises(Refused, match="in time"):
            read_header(there, 0.0)


def test_slow_proxy_does_not_hold_up_others(proxied):
    pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    with proxied("GreenletTCPServer") as ask, socket.socket() as slow:
        slow.connect(ask.address)
        assert ask(V1 + b"x\n")[1] == CLIENT


def test_connection_without_a_byte_is_no_news(proxied, caplog):
    """The check of a load balancer, every second."""
    with proxied("TCPServer") as ask, socket.socket() as check:
        check.connect(ask.address)
        check.close()
        assert ask(V1 + b"x\n")[1] == CLIENT
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@settings(deadline=None)
@given(strategies.binary(max_size=40), strategies.integers(0, 300), strategies.booleans())
def test_any_header_is_read_or_refused(noise, place, binary):
    """A proper one with something else in it: no other exception, and no wrong address."""
    header = bytearray(v2(tlvs=tlv(2, b"example.org")) if binary else V1)
    header[place % len(header):place % len(header) + len(noise)] = noise
    here, there = socket.socketpair()
    with here, there:
        here.sendall(bytes(header))
        here.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Refused, ConnectionResetError):
            found = read_header(there, time.monotonic() + 10)
            for host, port in found[:2] if found else ():
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                assert socket.inet_ntop(family, socket.inet_pton(family, host)) == host
                assert 0 <= port <= 65535


@settings(deadline=None)
@given(strategies.binary(min_size=4, max_size=4), strategies.binary(max_size=300))
def test_any_header_of_version_2_is_parsed_or_refused(start, rest):
    with contextlib.suppress(Refused):
        parse_binary(SIGNATURE + start, rest)


@settings(deadline=None)
@given(strategies.lists(strategies.tuples(
    strategies.integers(0, 255).filter(lambda kind: kind != 3), strategies.binary(max_size=20))))
def test_tlvs_come_back_as_they_were(pairs):
    header = v2(tlvs=b"".join(tlv(*pair) for pair in pairs))
    assert parse_binary(header[:16], header[16:]) == (CLIENT, DESTINATION, tuple(pairs))
