"""TLSMixIn: who waits for the handshake, what a handler sees, and how a connection ends."""

import array
import contextlib
import http.client
import http.server
import io
import logging
import os
import queue
import select
import socket
import ssl
import threading
from unittest import mock

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait
from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
from socketserver_fast.tls import TLSMixIn

MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]
CONCURRENT = MODELS[1:]


class Echo(socketserver_fast.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def trusting(certificate):
    """A client's."""
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture
def make(context):
    """`make(name, handler, **attributes)`: a server with TLS of this class."""
    with contextlib.ExitStack() as stack:

        def build(name, handler=Echo, *, mixins=(TLSMixIn,), **attributes):
            if name.startswith("Greenlet"):
                pytest.importorskip("greenlet")
            attributes = {"ssl_context": context, "request_queue_size": 64, **attributes}
            bases = (*mixins, getattr(socketserver_fast, name))
            server = type("Server", bases, attributes)(("127.0.0.1", 0), handler)
            stack.callback(server.server_close)
            return server

        yield build


@pytest.fixture
def secure(trusting):
    """`secure(address)`: a client's connection, closed after the test, on which an end without
    close_notify is an error."""
    with contextlib.ExitStack() as stack:

        def connect(address, context=trusting, name="localhost", before=b""):
            client = stack.enter_context(socket.create_connection(address, 10))
            client.sendall(before)
            return stack.enter_context(
                context.wrap_socket(client, server_hostname=name, suppress_ragged_eofs=False))

        yield connect


def ask(client, line=b"hello\n"):
    """Send a line, and return its answer."""
    client.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += client.recv(100)
    return answer


# The handshake.


@pytest.mark.parametrize("name", MODELS)
def test_each_model(name, make, serving, secure):
    with serving(make(name)) as address:
        with secure(address) as client:
            assert ask(client) == b"hello\n"
            assert ask(client, b"again\n") == b"again\n"
        with secure(address) as client:
            assert ask(client) == b"hello\n"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("attributes", "is_set"), [
    ({}, 1), ({"disable_nagle_algorithm": False}, 0),
])
def test_first_answer_does_not_wait_for_the_session_tickets(
    name, attributes, is_set, make, serving, secure
):
    class Handler(Echo):
        def setup(self):
            option = self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            super().setup()
            self.wfile.write(b"%d\n" % bool(option))

    handler = type("Handler", (Handler,), attributes)
    with serving(make(name, handler)) as address, secure(address) as client:
        assert client.recv(10) == b"%d\n" % is_set


@pytest.mark.skipif(not hasattr(socketserver_fast, "PreforkTCPServer"), reason="no fork")
@pytest.mark.parametrize("bases", [
    "ForkingTCPServer", "PreforkTCPServer", "PreforkMixIn, ThreadingTCPServer",
    "PreforkMixIn, ThreadPoolTCPServer", "PreforkMixIn, GreenletTCPServer",
])
def test_processes(bases, certificate, secure, echo_process):
    attributes = ["workers = 2", "ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)",
                  "ssl_context.load_cert_chain(*sys.argv[1:])"]
    with echo_process("tls", "TLSMixIn", bases, attributes, *certificate) as address:
        for _ in range(4):
            with secure(address) as client:
                assert ask(client) == b"hello\n"


@pytest.mark.parametrize("name", CONCURRENT)
def test_silent_clients_hold_up_nobody(name, make, serving, secure, connect):
    server = make(name)
    with serving(server) as address:
        silent = [connect(server) for _ in range(3)]
        with secure(address) as client:
            assert ask(client) == b"hello\n"
        for client in silent:
            client.close()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_handshake_that_takes_too_long_is_ended(name, hello, make, serving, connect):
    server = make(name, handshake_timeout=0.05)
    with serving(server):
        assert connect(server, hello).recv(1) == b""


@pytest.mark.parametrize("name", MODELS)
def test_failed_handshake_is_one_debug_line(name, make, serving, secure, connect, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    server = make(name)
    with serving(server) as address:
        client = connect(server, b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while client.recv(100):
                pass
        with secure(address) as other:
            assert ask(other) == b"hello\n"
    lines = [record for record in caplog.records if record.name == "socketserver_fast"]
    assert [record.levelno for record in lines] == [logging.DEBUG]
    assert "HTTP_REQUEST" in caplog.text
    assert repr(client.getsockname()[1]) in caplog.text
    assert capsys.readouterr().err == ""


def test_client_that_does_not_trust_the_server(make, serving, secure, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(make("TCPServer")) as address, pytest.raises(ssl.SSLCertVerificationError):
        secure(address, ssl.create_default_context())
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_connections_do_not_keep_the_handshakes_timeout(make, serving, secure, background):
    seen = []
    server = make("ThreadingTCPServer", lambda request, *rest: seen.append(request.gettimeout()))
    with serving(server) as address:
        assert secure(address).recv(1) == b""
    assert seen == [None]


# What ssl has.


def test_certificate_of_the_client(make, serving, secure, certificate, context, trusting):
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    trusting.load_cert_chain(*certificate)

    class Name(socketserver_fast.StreamRequestHandler):
        def handle(self):
            subject = dict(pair[0] for pair in self.request.getpeercert()["subject"])
            self.wfile.write(subject["commonName"].encode() + b"\n")

    with serving(make("ThreadPoolTCPServer", Name)) as address:
        assert ask(secure(address)) == b"localhost\n"
        with pytest.raises(ssl.SSLError):
            secure(address, ssl.create_default_context(cafile=str(certificate[0]))).recv(1)


def test_sni_and_alpn(make, serving, secure, context, trusting):
    names = []
    context.sni_callback = lambda connection, name, context: names.append(name)
    context.set_alpn_protocols(["b", "a"])
    trusting.set_alpn_protocols(["a", "b"])

    class Protocol(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.request.selected_alpn_protocol().encode() + b"\n")

    with serving(make("ThreadingTCPServer", Protocol)) as address:
        assert ask(secure(address)) == b"b\n"
    assert names == ["localhost"]


@pytest.mark.parametrize("kind", ["method", "instance"])
def test_certificate_is_replaced_while_it_serves(
        kind, make, serving, secure, make_certificate, context):
    second = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    renewed = make_certificate("renewed.example")
    second.load_cert_chain(*renewed)
    current = [context]
    if kind == "method":
        server = make("ThreadingTCPServer", ssl_context=lambda self: current[-1])
    else:
        server = make("ThreadingTCPServer")
        server.ssl_context = lambda: current[-1]
    with serving(server) as address:
        trusting = ssl.create_default_context(cafile=str(renewed[0]))
        with secure(address) as kept:
            current.append(second)
            with secure(address, trusting, "renewed.example") as client:
                assert ask(client) == b"hello\n"
            assert ask(kept) == b"hello\n"


def test_callable_that_fails_is_an_error_of_that_request(make, serving, secure, capsys):
    calls = []

    def choose(self):
        calls.append(None)
        if len(calls) == 2:
            raise OSError("the new certificate cannot be read")
        return context

    server = make("TCPServer")
    context = server.ssl_context
    type(server).ssl_context = choose
    with serving(server) as address:
        with socket.create_connection(address, 10) as client:
            assert client.recv(1) == b""
        with secure(address) as client:
            assert ask(client) == b"hello\n"
    assert "the new certificate cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "error", "message"), [
    (None, TypeError, "must be an ssl.SSLContext"),
    ("server.pem", TypeError, "must be an ssl.SSLContext"),
    (lambda self: None, TypeError, "not None"),
    (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ValueError, "PROTOCOL_TLS_SERVER"),
])
@pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
def test_wrong_context_is_an_error_before_it_serves(wrong, error, message, method, make):
    with pytest.raises(error, match=message):
        getattr(make("ThreadPoolTCPServer", ssl_context=wrong), method)()


def test_datagrams_have_no_tls(make):
    with pytest.raises(TypeError, match="TLSMixIn is for servers of SOCK_STREAM"):
        make("UDPServer").serve_forever()


# The end of a connection.


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_end_is_announced_after_all_that_was_written(
        name, version, make, serving, secure, trusting):
    text = os.urandom(1 << 20) * 4

    class Large(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(text)

    trusting.maximum_version = version
    with serving(make(name, Large)) as address:
        client = secure(address)
        client.sendall(b"go\nthis is read by nobody\n")
        received = b"".join(iter(lambda: client.recv(1 << 16), b""))  # b"": after close_notify
        assert received == text


@pytest.mark.parametrize("name", CONCURRENT)
def test_end_does_not_wait_for_the_client(name, make, serving, secure, eventually):
    """The client neither answers close_notify nor closes."""
    server = make(name, lambda request, *rest: request.sendall(b"bye\n"), handshake_timeout=60)
    with serving(server) as address:
        client = secure(address)
        eventually(lambda: server.requests_in_progress == 0)
        assert client.recv(10) == b"bye\n"
        assert client.recv(10) == b""


@pytest.mark.parametrize("name", MODELS)
def test_answer_that_is_cut_short_by_an_error_does_not_look_whole(
        name, make, serving, secure, capsys):
    def fail(request, *rest):
        request.sendall(b"the first half")
        raise KeyError("the second half")

    with serving(make(name, fail)) as address:
        client = secure(address)
        assert client.recv(100) == b"the first half"
        with pytest.raises(ssl.SSLEOFError):
            client.recv(100)
    assert "the second half" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["close", "unwrap", "detach"])
def test_handler_may_end_it_itself(how, make, serving, secure, eventually, capsys):
    left = []

    def end(request, *rest):
        if how == "unwrap":
            socket.socket.shutdown(request, socket.SHUT_RD)
            with contextlib.suppress(OSError):
                request.unwrap()
        else:
            left.append(getattr(request, how)())

    with serving(make("TCPServer", end)) as address, contextlib.suppress(ssl.SSLEOFError):
        client = secure(address)
        if how == "detach":
            eventually(lambda: left)
            socket.close(left[0])
        assert client.recv(1) == b""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", CONCURRENT)
def test_drain_closes_connections_after_its_deadline(name, make, background, secure):
    server = make(name)
    serving = background(server.serve_forever)
    client = secure(server.server_address)
    assert ask(client) == b"hello\n"
    assert server.drain(0.1) is False
    with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError):
        assert client.recv(1) == b""
    serving.result(10)


def test_drain_waits_for_connections(make, background, secure):
    server = make("ThreadingTCPServer")
    serving = background(server.serve_forever)
    client = secure(server.server_address)
    assert ask(client) == b"hello\n"
    draining = background(server.drain, 10)
    assert ask(client, b"still\n") == b"still\n"
    client.unwrap().close()
    assert draining.result(10) is True
    serving.result(10)


@pytest.mark.skipif(not wait.native, reason="where waits do not show")
@pytest.mark.parametrize("name", CONCURRENT)
def test_drain_ends_kept_connections_that_are_idle(name, make, background, secure):
    class Page(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        setup = socketserver_fast.StreamRequestHandler.setup

        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = make(name, Page)
    serving = background(server.serve_forever)
    client = secure(server.server_address)
    assert ask(client, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 204")
    assert background(server.drain, 60).result(10) is True
    assert client.recv(1) == b""
    serving.result(10)


@pytest.mark.parametrize("name", CONCURRENT)
@pytest.mark.parametrize("do", ["read", "write"])
def test_timeout_of_the_handler(name, do, make, serving, secure):
    errors = queue.SimpleQueue()

    class Handler(socketserver_fast.StreamRequestHandler):
        timeout = 0.01

        def handle(self):
            try:
                self.rfile.readline() if do == "read" else self.wfile.write(bytes(1 << 24))
            except TimeoutError as error:
                errors.put(str(error))

    with serving(make(name, Handler, handshake_timeout=0.05)) as address:
        secure(address)
        assert errors.get(timeout=10) == f"The {do} operation timed out"


@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_class_of_the_program_shakes_hands_itself(name, make, serving, secure, context):
    timeouts = []

    class Connection(ssl.SSLSocket):
        def do_handshake(self, block=False):
            timeouts.append(self.gettimeout())
            super().do_handshake(block)

        def read(self, *args):
            return super().read(*args).swapcase()

        def recv_into(self, buffer, *args):
            data = self.read(len(buffer))
            buffer[:len(data)] = data
            return len(data)

    context.sslsocket_class = Connection
    with serving(make(name, handshake_timeout=9)) as address, secure(address) as client:
        assert ask(client) == b"HELLO\n"
        client.close()
    assert timeouts == [9]


def test_class_of_the_program_parks(make, serving, secure, context):
    """One that is derived from the cooperative class, which the context has once greenlets are
    there."""
    server = make("GreenletTCPServer")
    context.sslsocket_class = type("Connection", (ssl.SSLContext.sslsocket_class,), {})
    with serving(server) as address, secure(address) as idle:
        assert ask(idle) == b"hello\n"
        with secure(address) as client:
            assert ask(client) == b"hello\n"


@pytest.mark.parametrize("name", MODELS)
def test_no_descriptor_is_left(name, make, serving, secure, connect, eventually):
    if not os.path.exists("/proc/self/fd"):  # noqa: PTH110
        pytest.skip("/proc")
    server = make(name)
    with serving(server) as address:
        for turn in range(6):
            if turn == 1:
                eventually(lambda: server.requests_in_progress == 0)
                before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            with secure(address) as client:
                assert ask(client) == b"hello\n"
            with connect(server, b"no TLS") as client:
                pass
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208
        eventually(lambda: not vars(server)["_tls_connections"])


# With others.


@pytest.mark.parametrize("name", MODELS)
def test_behind_a_proxy(name, make, serving, secure):
    class Client(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"%s %s\n" % (self.client_address[0].encode(),
                                           type(self.request).__name__.encode()))

    server = make(name, Client, mixins=(ProxyProtocolMixIn, TLSMixIn),
                  proxy_protocol_from=("127.0.0.1",))
    with serving(server) as address:
        client = secure(address, before=b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        address, kind = ask(client).split()
        assert address == b"192.0.2.1"
        assert kind in (b"SSLSocket", b"TLSSocket")


def test_tls_before_the_proxys_header_is_refused():
    bases = (TLSMixIn, ProxyProtocolMixIn, socketserver_fast.TCPServer)
    with pytest.raises(TypeError, match="ProxyProtocolMixIn has to stand before TLSMixIn"):
        type("Server", bases, {})


@pytest.mark.parametrize("patched", [False, True])
def test_http_server_of_the_stdlib(patched, context, certificate, serving, hello_handler):
    class Server(TLSMixIn, http.server.ThreadingHTTPServer):
        ssl_context = context

    if patched:
        socketserver_fast.patch()
    try:
        with serving(Server(("127.0.0.1", 0), hello_handler)) as address:
            trusting = ssl.create_default_context(cafile=str(certificate[0]))
            client = http.client.HTTPSConnection("localhost", address[1], context=trusting)
            for _ in range(2):
                client.request("GET", "/")
                assert client.getresponse().read() == b"hello"
            client.close()
    finally:
        socketserver_fast.unpatch()


@pytest.mark.parametrize("name", ["ThreadPoolTCPServer", "GreenletTCPServer"])
def test_many_clients_at_once(name, make, serving, secure):
    server, failures = make(name), []

    def talk():
        try:
            for _ in range(5):
                with secure(server.server_address) as client:
                    assert ask(client) == b"hello\n"
        except BaseException as error:
            failures.append(error)

    with serving(server):
        threads = [threading.Thread(target=talk) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


# rfile and wfile over TLS, which are compiled, as they are with the stdlib.


@pytest.fixture
def pair(socketserver, context, trusting, background):
    """(handler, client): a handler that has been set up over TLS, and its client."""
    here, there = socket.socketpair()
    client = background(trusting.wrap_socket, there, False, True, True, "localhost")
    handler = object.__new__(socketserver.StreamRequestHandler)
    with context.wrap_socket(here, server_side=True) as handler.request, client.result(10) as other:
        other.settimeout(10)
        handler.setup()
        yield handler, other
        handler.finish()


def test_files_are_compiled(pair, implementation):
    handler, _ = pair
    names = type(handler.rfile).__name__, type(handler.wfile).__name__
    if implementation == "stdlib":
        assert names == ("BufferedReader", "_SocketWriter")
    else:
        assert names == ("SocketReader", "SocketWriter")


@pytest.mark.parametrize("rbufsize", [None, -1, 0, 100])
def test_every_size_of_the_buffer(pair, rbufsize):
    handler, client = pair
    handler.rfile.close()
    handler.rbufsize = rbufsize
    handler.setup()
    client.sendall(b"one\ntwo\n")
    assert [handler.rfile.readline(), handler.rfile.readline()] == [b"one\n", b"two\n"]


def test_files_read_and_write(pair, background):
    handler, client = pair
    client.sendall(b"one\ntwo\nthree\n12345678")
    assert handler.rfile.readline() == b"one\n"
    assert handler.rfile.peek()[:4] == b"two\n"
    assert next(handler.rfile) == b"two\n"
    assert handler.rfile.read(6) == b"three\n"
    room = bytearray(4)
    assert handler.rfile.readinto(room) == 4
    assert (room, handler.rfile.read1(100)) == (b"1234", b"5678")
    assert [handler.wfile.write(data) for data in (b"abc", b"", bytearray(b"def"))] == [3, 0, 3]
    assert client.recv(3) + client.recv(3) == b"abcdef"
    text = os.urandom(1 << 20)
    writing = background(handler.wfile.write, text)
    received = b""
    while len(received) < len(text):
        received += client.recv(1 << 16)
    assert (received, writing.result(10)) == (text, len(text))


def test_end_of_the_stream(pair, background):
    handler, client = pair
    client.sendall(b"last")
    closing = background(lambda: socket.socket.shutdown(client, socket.SHUT_WR))
    assert handler.rfile.readline() == b"last"  # a ragged end, which ssl suppresses
    assert handler.rfile.read() == b""
    closing.result(10)


def test_ragged_end_is_an_error_where_it_is_not_suppressed(pair, background):
    handler, client = pair
    handler.connection.suppress_ragged_eofs = False
    client.sendall(b"last")
    closing = background(lambda: socket.socket.shutdown(client, socket.SHUT_WR))
    with pytest.raises(ssl.SSLEOFError):
        handler.rfile.readline()
    closing.result(10)


@pytest.mark.parametrize("read", [
    lambda rfile, size: rfile.read(size),
    lambda rfile, size: rfile.readline(),
    lambda rfile, size: bytes(rfile.readinto(line := bytearray(size)) and line),
], ids=["read", "readline", "readinto"])
def test_lines_of_every_length(read, pair, background):
    handler, client = pair
    sizes = [1, 477, 478, 479, 480, 5, 16383, 16384, 16385, 50000, 3]
    lines = [b"x" * (size - 1) + b"\n" for size in sizes]
    sending = background(lambda: [client.sendall(line) for line in lines])
    assert [read(handler.rfile, size) for size in sizes] == lines
    sending.result(10)


@pytest.mark.parametrize("data", [
    array.array("I", range(9)), memoryview(b"abcdef")[::1].cast("B", (2, 3)), b"", bytearray()])
def test_whatever_has_bytes_is_written(data, pair, receive):
    handler, client = pair
    size = memoryview(data).nbytes
    assert handler.wfile.write(data) == size
    handler.wfile.write(b".")
    assert receive(client, size + 1) == bytes(data) + b"."


def test_timeout_spoils_the_file(pair):
    handler, client = pair
    handler.connection.settimeout(0.01)
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        handler.rfile.readline()
    client.sendall(b"late\n")
    with pytest.raises(OSError, match="timed out object"):
        handler.rfile.readline()


def test_after_unwrap_the_files_are_plain(pair, background):
    handler, client = pair
    unwrapping = background(client.unwrap)
    handler.connection.unwrap()
    plain = unwrapping.result(10)
    plain.sendall(b"plain\n")
    assert handler.rfile.readline() == b"plain\n"
    handler.wfile.write(b"too")
    assert plain.recv(10) == b"too"


def test_methods_that_were_replaced_are_called(pair, monkeypatch, socketserver):
    handler, client = pair
    calls = []
    for name in ("recv_into", "sendall"):
        method = getattr(ssl.SSLSocket, name)
        monkeypatch.setattr(ssl.SSLSocket, name, lambda *args, name=name, method=method: (
            calls.append(name), method(*args))[1])
    again = object.__new__(socketserver.StreamRequestHandler)
    again.request = handler.request
    again.setup()
    client.sendall(b"line\n")
    assert again.rfile.readline() == b"line\n"
    again.wfile.write(b"answer")
    again.finish()
    assert calls == ["sendall", "recv_into", "sendall"]  # the first is the client's


@pytest.mark.parametrize("replaced", ["read", "sendall"])
def test_methods_that_were_replaced_by_other_callables(replaced, pair, monkeypatch):
    handler, client = pair
    client.sendall(b"line\n")
    method = mock.Mock(return_value=0)
    monkeypatch.setattr(ssl.SSLSocket, replaced, method)
    handler.rfile.close()
    handler.setup()
    if replaced == "read":
        assert handler.rfile.readline() == b""
    else:
        handler.wfile.write(b"answer")
    assert method.call_count == 1


def test_methods_that_were_set_on_the_socket_are_called(pair):
    handler, client = pair
    calls = []
    for name in ("sendall", "recv_into"):
        method = getattr(handler.connection, name)
        setattr(handler.connection, name, lambda *args, name=name, method=method: (
            calls.append(name), method(*args))[1])
    client.sendall(b"line\n")
    assert handler.rfile.readline() == b"line\n"
    handler.wfile.write(b"answer")
    assert client.recv(10) == b"answer"
    assert calls == ["recv_into", "sendall"]


def test_makefile_that_was_set_on_the_socket_is_called(pair):
    handler, client = pair
    client.sendall(b"line\n")
    handler.connection.makefile = lambda *args: io.BytesIO(b"another\n")
    handler.rfile.close()
    handler.setup()
    assert handler.rfile.readline() == b"another\n"


@pytest.mark.parametrize("size", [479, 480, 1000, 8000])
@pytest.mark.parametrize("start", [b"", b"line\n"])
def test_read_takes_all_of_a_record(start, size, pair):
    handler, client = pair
    client.sendall(start + b"x" * size)
    if start:
        assert handler.rfile.readline() == start
    assert len(handler.rfile.peek()) == size
    assert handler.connection.pending() == 0
    assert len(handler.rfile.read1(8192)) == size


def test_file_keeps_the_connection_open(pair):
    handler, client = pair
    handler.connection.close()
    client.sendall(b"line\n")
    assert handler.rfile.readline() == b"line\n"
    assert handler.rfile.fileno() >= 0
    handler.rfile.close()
    assert handler.connection.fileno() == -1


def test_raw_is_a_socket_io(pair):
    handler, client = pair
    assert isinstance(handler.rfile.raw, socket.SocketIO)
    assert handler.rfile.raw._sock is handler.connection
    client.sendall(b"line\n")
    room = bytearray(10)
    assert handler.rfile.raw.readinto(room) == 5


# While one reads or writes another may close the connection. Its descriptor's number then goes to
# the next one, of which nothing may be read and to which nothing may be written.


@pytest.fixture
def sending(trusting):
    """`handshake, send = sending(socket)`: handshake() makes it a client's, send() sends a part of
    the record of a line, and with True the rest."""

    def make(sock):
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(received, to_send, server_hostname="localhost")

        def handshake():
            while client.version() is None or to_send.pending:
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                sock.sendall(to_send.read())
                if client.version() is None:
                    received.write(sock.recv(1 << 16))

        def send(rest=False):
            if not rest:
                client.write(b"line\n")
            sock.sendall(to_send.read() if rest else to_send.read(10))

        return handshake, send

    return make


@pytest.mark.parametrize("seconds", [None, 10])
def test_descriptor_is_open_while_a_thread_reads(
    seconds, socketserver, context, sending, background, eventually
):
    here, there = socket.socketpair()
    handshake, send = sending(there)
    handler = object.__new__(socketserver.StreamRequestHandler)
    handler.timeout = seconds
    wrapping = background(context.wrap_socket, here, True)
    handshake()
    with there, wrapping.result(10) as handler.request:
        handler.setup()
        number = handler.request.fileno()
        reading = background(handler.rfile.readline)
        send()
        eventually(lambda: not select.select([number], [], [], 0)[0])  # it waits for the rest
        closing = background(lambda: (handler.rfile.close(), handler.request.close()))
        with contextlib.suppress(TimeoutError):  # the stdlib's ends with the read
            closing.result(0.1)
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(one) for _ in range(4) for one in socket.socketpair()]
            assert number not in [one.fileno() for one in others]
        send(rest=True)
        with contextlib.suppress(ValueError):  # the file is closed
            assert reading.result(10) == b"line\n"
        closing.result(10)
        assert handler.request.fileno() == -1


@pytest.mark.parametrize("seconds", [None, 10])
@pytest.mark.parametrize("do", ["read", "write"])
def test_closed_while_a_greenlet_waits(do, seconds, make, serving, secure, eventually):
    waiting, errors, unread = [], [], []

    class Handler(socketserver_fast.StreamRequestHandler):
        timeout = seconds

        def handle(self):
            if self.rfile.readline() == b"end it\n":
                self.end(waiting[0])
                self.wfile.write(b"done\n")
                return
            waiting.append(self)
            try:
                self.rfile.readline() if do == "read" else self.wfile.write(bytes(1 << 24))
            except (OSError, ValueError) as error:
                errors.append(error)

        def end(self, other):
            number = other.connection.fileno()
            other.rfile.close()
            other.connection.close()
            with contextlib.ExitStack() as stack:
                others = [stack.enter_context(one) for _ in range(4) for one in socket.socketpair()]
                assert number in [one.fileno() for one in others]
                for one in others:
                    one.setblocking(False)
                    one.sendall(b"of another connection")
                for _ in range(1000):
                    if not errors:
                        socketserver_fast.green.sleep(0.002)
                unread.extend([one.recv(100) for one in others])

    with serving(make("GreenletTCPServer", Handler)) as address:
        victim, other = secure(address), secure(address)
        victim.sendall(b"wait\n")
        eventually(lambda: waiting)
        assert ask(other, b"end it\n") == b"done\n"
    assert (len(errors), set(unread)) == (1, {b"of another connection"})
