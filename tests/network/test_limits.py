"""Limits of time, of connections and of lines, for each model."""

import contextlib
import functools
import http.client
import http.server
import io
import logging
import os
import socket
import socketserver
import ssl
import time
from unittest import mock

import pytest

import socketserver_fast
from socketserver_fast import limits
from socketserver_fast._sockets import lines, wait
from socketserver_fast.limits import IdleTimeoutMixIn, LimitsMixIn, LineTooLong, client_of
from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
from socketserver_fast.statistics import StatisticsMixIn
from socketserver_fast.tls import TLSMixIn

MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]
CONCURRENT = MODELS[1:]


class Echo(socketserver_fast.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def make():
    """`make(name, handler, mixins=…, **attributes)`: a server with limits."""
    with contextlib.ExitStack() as stack:

        def build(name, handler=Echo, *, mixins=(LimitsMixIn,), base=None, **attributes):
            base = base or getattr(socketserver_fast, name)
            attributes = {"log_disconnects": False, "request_queue_size": 64, **attributes}
            server = type("Server", (*mixins, base), attributes)(("127.0.0.1", 0), handler)
            stack.callback(server.server_close)
            return server

        yield build


@pytest.fixture
def ask(connect):
    """`ask(server)`: the connected socket of a client that got an answer."""

    def run(server, line=b"hello\n"):
        client = connect(server, line)
        assert client.makefile("rb").readline() == b"hello\n"
        return client

    return run


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# The time of a request.


@pytest.mark.parametrize("name", MODELS)
def test_client_that_sends_a_byte_now_and_then_is_ended(
        name, make, serving, connect, caplog, eventually):
    server = make(name, request_timeout=0.2)
    with serving(server):
        client = connect(server)
        with contextlib.suppress(ConnectionError):
            while select_read(client, 0.02) is None:
                client.sendall(b"x")
    assert server.limited == {"request_timeout": 1, "max_connections_per_client": 0, "max_line": 0}
    eventually(lambda: warnings(caplog))
    assert warnings(caplog) == ["Server: 1 connections ended by request_timeout, 0.2"]


def select_read(client, seconds):
    """Return what comes within so many seconds, b"" at the end of the stream; None if nothing."""
    client.settimeout(seconds)
    try:
        return client.recv(10)
    except TimeoutError:
        return None


@pytest.mark.parametrize("name", MODELS)
def test_client_that_reads_nothing_is_ended(name, make, serving, connect, eventually, capsys):
    def flood(self):
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 20))

    handler = type("Flood", (socketserver_fast.StreamRequestHandler,), {"handle": flood})
    server = make(name, handler, request_timeout=0.1)
    with serving(server):
        connect(server)
        eventually(lambda: server.limited["request_timeout"] == 1)
        eventually(lambda: server.requests_in_progress == 0)


@pytest.mark.parametrize("name", CONCURRENT)
def test_requests_in_time_are_left_alone(name, make, serving, ask, eventually):
    server = make(name, request_timeout=0.3)
    with serving(server):
        late = ask(server)
        for _ in range(20):
            ask(server).close()
        assert late.recv(1) == b""
        ask(server).close()
        eventually(lambda: server.requests_in_progress == 0)
    assert server.limited["request_timeout"] == 1


def test_many_late_requests_end_in_their_order(make, serving, ask):
    server = make("ThreadingTCPServer", request_timeout=0.2)
    with serving(server):
        clients = [ask(server) for _ in range(10)]
        started = time.monotonic()
        assert [client.recv(1) for client in clients] == [b""] * 10
        assert time.monotonic() - started < 5
    assert server.limited["request_timeout"] == 10


def test_thread_ends_when_it_has_nothing_to_do_and_comes_back(make, serving, ask, eventually):
    server = make("ThreadPoolTCPServer", request_timeout=0.05)
    with serving(server):
        ask(server).close()
        thread = vars(server)["_limits"].thread
        eventually(lambda: not thread.is_alive())
        assert ask(server).recv(1) == b""
    assert server.limited["request_timeout"] == 1


def test_no_thread_without_a_timeout(make, serving, ask):
    server = make("ThreadPoolTCPServer")
    with serving(server):
        ask(server).close()
    assert vars(server)["_limits"].thread is None


@pytest.mark.parametrize("name", MODELS)
def test_handshake_counts_too(name, make, serving, connect, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = make(name, mixins=(LimitsMixIn, TLSMixIn), ssl_context=context, request_timeout=0.1,
                  handshake_timeout=60)
    with serving(server):
        assert connect(server).recv(1) == b""
    assert server.limited["request_timeout"] == 1


@pytest.mark.parametrize("name", CONCURRENT)
def test_request_over_tls_is_ended(name, make, serving, connect, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = make(name, mixins=(LimitsMixIn, TLSMixIn), ssl_context=context, request_timeout=0.5)
    with serving(server):
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        with trusting.wrap_socket(connect(server), server_hostname="localhost") as client:
            client.sendall(b"hello\n")
            assert client.recv(10) == b"hello\n"
            with contextlib.suppress(OSError):
                assert client.recv(10) == b""
    assert server.limited["request_timeout"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(("bases", "limit"), [
    ("ForkingTCPServer", None), ("PreforkTCPServer", 5), ("PreforkMixIn, ThreadPoolTCPServer", 5),
])
def test_processes(bases, limit, echo_process):
    attributes = ["request_timeout = 0.3", f"max_connections_per_client = {limit}",
                  "log_disconnects = False"]
    with echo_process("limits", "LimitsMixIn", bases, attributes) as address:
        for _ in range(2):
            with socket.create_connection(address, 20) as client:
                client.sendall(b"hello\n")
                assert client.recv(10) == b"hello\n"
                assert client.recv(10) == b""


# Connections of a client.


@pytest.mark.parametrize("name", CONCURRENT)
def test_client_with_too_many_connections_is_refused(name, make, serving, ask, connect, caplog,
                                                     eventually):
    server = make(name, max_connections_per_client=2)
    with serving(server):
        first, second = ask(server), ask(server)
        for _ in range(3):
            assert connect(server).recv(1) == b""
        second.close()
        eventually(lambda: server.requests_in_progress == 1)
        ask(server).close()
        first.close()
    assert server.limited["max_connections_per_client"] == 3
    assert warnings(caplog) == [
        "Server: 1 connections ended by max_connections_per_client, 2"]
    assert vars(server)["_limits"].clients == {}


def test_log_tells_once_a_minute_with_a_count(make, serving, ask, connect, caplog, monkeypatch):
    server = make("ThreadingTCPServer", max_connections_per_client=1)
    with serving(server):
        client = ask(server)
        for _ in range(3):
            assert connect(server).recv(1) == b""
        monkeypatch.setattr(limits, "REPORT_SECONDS", 0)
        assert connect(server).recv(1) == b""
        client.close()
    assert [line.split()[1] for line in warnings(caplog)] == ["1", "3"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no dual-stack sockets")
def test_clients_of_both_ip_versions_count_apart(make, serving):
    server = type("Server", (LimitsMixIn, socketserver_fast.ThreadingTCPServer),
                  {"dual_stack": True, "max_connections_per_client": 1})(("", 0), Echo)
    with serving(server) as address, contextlib.ExitStack() as stack:
        for host in ("127.0.0.1", "::1"):
            client = stack.enter_context(socket.create_connection((host, address[1]), 10))
            client.sendall(b"hello\n")
            assert client.recv(10) == b"hello\n"
            other = stack.enter_context(socket.create_connection((host, address[1]), 10))
            assert other.recv(1) == b""


@pytest.mark.parametrize(("address", "client"), [
    (("192.0.2.1", 5), "192.0.2.1"),
    (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
    (("2001:db8:0:1::5", 5, 0, 0), bytes.fromhex("20010db800000001")),
    (("2001:db8:0:1:ffff::", 6, 0, 0), bytes.fromhex("20010db800000001")),
    (("fe80::1%eth0", 6, 0, 3), bytes.fromhex("fe80000000000000")),
    (("", 0), None), ("", None), (None, None), ((), None), (b"/path", None),
])
def test_what_counts_as_one_client(address, client):
    assert client_of(address) == client


def test_clients_behind_a_proxy_count_by_themselves(make, serving, connect):
    server = make("ThreadPoolTCPServer", mixins=(ProxyProtocolMixIn, LimitsMixIn),
                  proxy_protocol_from=("127.0.0.1",), max_connections_per_client=1)

    def come_from(host):
        return connect(server, b"PROXY TCP4 %s 192.0.2.9 1 2\r\nhello\n" % host).recv(10)

    with serving(server):
        assert come_from(b"192.0.2.1") == come_from(b"192.0.2.2") == b"hello\n"
        assert come_from(b"192.0.2.1") == b""
        server.drain(0)  # the clients of the first two stay connected


# The length of a line.

READ = {
    "iteration": iter,
    "readline": lambda rfile: iter(rfile.readline, b""),
    "readline_of_more": lambda rfile: iter(lambda: rfile.readline(1000), b""),
    "readlines": lambda rfile: iter(lambda: b"".join(rfile.readlines(1)), b""),
}
SETTINGS = [("TCPServer", -1), ("ThreadingTCPServer", -1), ("ThreadPoolTCPServer", -1),
            ("GreenletTCPServer", -1), ("TCPServer", None), ("TCPServer", 0), ("TCPServer", 1),
            ("TCPServer", 100)]


def reading(way, **attributes):
    """A handler that answers each line, read in one of these ways."""

    def handle(self):
        for line in READ[way](self.rfile):
            self.wfile.write(line)

    return type("Reading", (socketserver_fast.StreamRequestHandler,),
                {"handle": handle, **attributes})


@pytest.fixture
def exchange(make, connect, serving):
    """`exchange(server_name, handler, data, **attributes)`: the server, which has ended, and what a
    client that sends `data` got."""

    def run(name, handler, data, **attributes):
        server = make(name, handler, **attributes)
        with serving(server):
            client = connect(server, data)
            with contextlib.suppress(OSError):  # it may be ended by now
                client.shutdown(socket.SHUT_WR)
            return server, everything(client)

    return run


def everything(client, size=1 << 20):
    """Return what comes until the end or a reset, at most about so many bytes."""
    parts = []
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while sum(map(len, parts)) < size and (part := client.recv(1000)):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(("name", "rbufsize"), SETTINGS)
@pytest.mark.parametrize("way", READ)
def test_line_that_is_too_long_ends_its_request(name, rbufsize, way, exchange, caplog, capsys):
    good = b"x" * 63 + b"\n\n"
    server, answer = exchange(name, reading(way, rbufsize=rbufsize), good + b"y" * 64 + b"\n\n",
                              max_line=64)
    assert answer in {b"", good[:64], good}  # a reset may take some
    assert server.limited == {
        "max_line": 1, "max_connections_per_client": 0, "request_timeout": 0}
    assert warnings(caplog) == ["Server: 1 connections ended by max_line, 64"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "rbufsize"), SETTINGS)
@pytest.mark.parametrize("way", READ)
def test_lines_in_the_limit_are_read(name, rbufsize, way, exchange):
    lines = b"x" * 63 + b"\n" + b"\n" + b"x" * 63 + b"\n" + b"y" * 64  # the last has no newline
    server, answer = exchange(name, reading(way, rbufsize=rbufsize), lines, max_line=64)
    assert (answer, server.limited["max_line"]) == (lines, 0)


@pytest.mark.parametrize(("name", "rbufsize"), SETTINGS)
@pytest.mark.parametrize("way", READ)
def test_lines_over_tls(name, rbufsize, way, make, connect, serving, certificate, capsys):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    server = make(name, reading(way, rbufsize=rbufsize), mixins=(LimitsMixIn, TLSMixIn),
                  ssl_context=context, max_line=64)
    good = b"x" * 63 + b"\nab\n"
    with serving(server), trusting.wrap_socket(
            connect(server), server_hostname="localhost") as client:
        client.sendall(good)
        assert everything(client, len(good)) == good
        assert server.limited["max_line"] == 0
        client.sendall(b"y" * 64 + b"\n\n")
        assert everything(client) == b""
    assert server.limited["max_line"] == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rbufsize", [-1, 0, 100])
def test_line_read_in_smaller_pieces_is_not_limited(rbufsize, exchange):
    def handle(self):
        while piece := self.rfile.readline(64):
            self.wfile.write(piece)

    handler = type("Pieces", (socketserver_fast.StreamRequestHandler,),
                   {"handle": handle, "rbufsize": rbufsize})
    line = b"x" * 10000 + b"\n"
    assert exchange("TCPServer", handler, line, max_line=64)[1] == line


@pytest.mark.parametrize("rbufsize", [-1, 0, 100])
def test_handler_may_answer_and_it_counts_once(rbufsize, exchange):
    def handle(self):
        assert self.rfile.readline() == b"first\n"
        for _ in range(3):
            with pytest.raises(LineTooLong, match="max_line, 8 bytes"):
                self.rfile.readline()
        self.wfile.write(b"too long")
        while self.rfile.read1(1000) if rbufsize else self.rfile.read(1000):
            pass

    handler = type("Answering", (socketserver_fast.StreamRequestHandler,),
                   {"handle": handle, "rbufsize": rbufsize})
    server, answer = exchange("TCPServer", handler, b"first\n" + b"x" * 20000, max_line=8)
    assert (answer, server.limited["max_line"]) == (b"too long", 1)


@pytest.mark.parametrize("size", [65535, 65536, 65537])
def test_any_size_of_line_leaves_a_drain_alone(
        size, make, connect, serving, background, eventually):
    """One of them is what http.server asks for, whose idle connections a drain ends."""

    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

    handler = type("Echo", (socketserver_fast.StreamRequestHandler,), {"handle": handle})
    server = make("ThreadingTCPServer", handler, max_line=size)
    with serving(server):
        client = connect(server, b"\n")
        assert client.recv(9) == b"\n"
        drained = background(server.drain, 20)
        eventually(lambda: server.fileno() == -1)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):  # the end of the stream would have come by now
            client.recv(1)
        client.settimeout(10)
        client.sendall(b"more\n")
        assert client.recv(9) == b"more\n"
        client.close()
        assert drained.result(20) is True


def test_refused_line_is_still_in_the_buffer(exchange):
    def handle(self):
        with contextlib.suppress(LineTooLong):
            self.rfile.readline()
        self.wfile.write(self.rfile.read())

    handler = type("Rest", (socketserver_fast.StreamRequestHandler,), {"handle": handle})
    if not wait.native:
        pytest.skip("the stdlib's reader gives nothing back")
    assert exchange("TCPServer", handler, b"0123456789\nab", max_line=8)[1] == b"0123456789\nab"


def test_no_more_is_read_of_an_endless_line(make, serving, connect, eventually):
    server = make("TCPServer", max_line=100)
    with serving(server):
        client = connect(server, b"x" * 101)  # no end of the line, nor of the stream
        eventually(lambda: server.limited["max_line"] == 1)
        assert select_read(client, 10) == b""


def test_handler_without_a_server_has_no_limit(exchange):
    """Some programs make one with object.__new__() and call its methods by themselves."""
    exchange("TCPServer", Echo, b"line\n", max_line=8)
    handler = object.__new__(socketserver_fast.StreamRequestHandler)
    handler.request, other = socket.socketpair()
    with handler.request, other:
        handler.setup()
        other.sendall(b"0123456789\n")
        assert handler.rfile.readline() == b"0123456789\n"
        handler.finish()


def test_size_without_bounds_is_no_limit(exchange):
    assert exchange("TCPServer", Echo, b"line\n", max_line=2**70)[1] == b"line\n"


def test_statistics_count_the_limit(make, serving, connect, eventually):
    server = make("ThreadPoolTCPServer", mixins=(LimitsMixIn, StatisticsMixIn), max_line=8)
    with serving(server):
        connect(server, b"0123456789\n")
        eventually(lambda: server.statistics()["limited"]["max_line"] == 1)
        eventually(lambda: server.statistics()["disconnected"] == 1)
    assert server.statistics()["failed"] == 0


class StdlibEcho(socketserver.StreamRequestHandler):
    handle = Echo.handle


@pytest.fixture
def patched():
    """The stdlib's classes are patched."""
    socketserver_fast.patch()
    yield
    socketserver_fast.unpatch()


def test_handler_of_the_stdlib_that_is_patched(patched, exchange):
    server, answer = exchange("ThreadingTCPServer", StdlibEcho, b"123\n123456789\n", max_line=8)
    assert answer in {b"", b"123\n"}
    assert server.limited["max_line"] == 1


@pytest.mark.parametrize("handler", [StdlibEcho, functools.partial(StdlibEcho)])
def test_handler_of_the_stdlib_is_refused(make, handler):
    with pytest.raises(TypeError, match="the stdlib's setup"):
        make("TCPServer", handler, max_line=8).serve_forever()


def test_other_files_are_refused():
    with pytest.raises(TypeError, match="BytesIO"):
        lines.limited(io.BytesIO(), limits.LineLimit(mock.Mock(max_line=8)), 100)


@pytest.mark.parametrize(("request_head", "status"), [
    (b"GET /" + b"x" * 66000 + b" HTTP/1.1\r\n\r\n", b"414"),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 66000 + b"\r\n\r\n", b"431"),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 1000 + b"\r\n\r\n", b"200"),
])
def test_head_of_a_request_has_the_limit_of_http_server(
        patched, exchange, request_head, status, hello):
    server, answer = exchange("ThreadPoolTCPServer", hello, request_head, max_line=64)
    assert answer[9:12] in {status, b""}  # a reset may take the answer
    assert server.limited["max_line"] == 0


# Settings.


@pytest.mark.parametrize(("name", "value"), [
    ("request_timeout", 0), ("request_timeout", -1), ("request_timeout", "5"),
    ("request_timeout", float("nan")), ("max_connections_per_client", 0),
    ("max_connections_per_client", "2"), ("max_line", 0), ("max_line", -1), ("max_line", "80"),
    ("max_line", float("nan")),
])
@pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
def test_wrong_limit_is_an_error_before_it_serves(name, value, method, make):
    with pytest.raises(ValueError, match=f"{name} must be None or more than 0"):
        getattr(make("TCPServer", **{name: value}), method)()


def test_part_of_a_byte_is_no_length(make):
    with pytest.raises(ValueError, match="whole number of bytes"):
        make("TCPServer", max_line=8.5).serve_forever()


def test_datagrams_have_no_connections(make):
    with pytest.raises(TypeError, match="SOCK_STREAM"):
        make("UDPServer").serve_forever()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forking_server_cannot_count(make):
    with pytest.raises(TypeError, match="use PreforkMixIn"):
        make("ForkingTCPServer", max_connections_per_client=5).serve_forever()


@pytest.mark.parametrize("bases", [
    (TLSMixIn, LimitsMixIn), (LimitsMixIn, ProxyProtocolMixIn), (TLSMixIn, ProxyProtocolMixIn),
])
def test_mixins_in_another_order_are_refused(bases):
    with pytest.raises(TypeError, match=f"{bases[1].__name__} has to stand before"):
        type("Server", (*bases, socketserver_fast.TCPServer), {})


# Kept connections of http.server.


@pytest.fixture
def hello(hello_handler):
    """The handler of hello_handler with an IdleTimeoutMixIn."""
    return type("Hello", (IdleTimeoutMixIn, hello_handler), {})


def get(client):
    client.request("GET", "/")
    return client.getresponse().read()


@pytest.fixture(params=["plain", "tls"])
def http_models(request, make):
    """`http_models(name, handler, **attributes)`: the server and a client, with and without TLS."""
    with contextlib.ExitStack() as stack:

        def build(name, handler, **attributes):
            client = http.client.HTTPConnection
            if request.param == "tls":
                certificate = request.getfixturevalue("certificate")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                attributes |= {"mixins": (LimitsMixIn, TLSMixIn), "ssl_context": context}
                trusting = ssl.create_default_context(cafile=str(certificate[0]))
                client = functools.partial(http.client.HTTPSConnection, context=trusting)
            server = make(name, handler, **attributes)
            one = client("localhost", server.server_address[1], timeout=10)
            stack.callback(one.close)
            return server, one

        yield build


@pytest.mark.parametrize("name", CONCURRENT)
def test_idle_connection_is_closed(name, http_models, serving, hello):
    server, client = http_models(name, type("Idle", (hello,), {"idle_timeout": 0.1}))
    with serving(server):
        assert [get(client) for _ in range(3)] == [b"hello"] * 3
        assert client.sock.recv(1) == b""
        client.close()


def test_first_request_and_slow_ones_have_the_handlers_timeout(make, serving, connect, hello):
    server = make("ThreadingTCPServer", type("Idle", (hello,), {"idle_timeout": 0.05}))
    with serving(server):
        client = connect(server)
        assert select_read(client, 0.2) is None
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.settimeout(10)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()


def test_each_request_has_its_own_time(http_models, serving, hello):
    server, client = http_models("ThreadPoolTCPServer", hello, request_timeout=0.4)
    with serving(server):
        assert get(client) == b"hello"
        time.sleep(0.6)  # idle for longer than a request may take
        assert get(client) == b"hello"
        client.sock.sendall(b"GET / HT")
        with contextlib.suppress(ssl.SSLEOFError):
            assert client.sock.recv(1) == b""
        client.close()
    assert server.limited["request_timeout"] == 1
    assert vars(server)["_limits"].running == {}
