"""BaseRequestHandler and StreamRequestHandler: set-up, rfile, wfile, finish, and every odd request.

Most tests give a handler one end of a connection, without a server, and play its client."""

import array
import io
import os
import select
import socket
import ssl
import struct
import sys
from unittest import mock

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.fixture
def pair():
    """(request, client): the two ends of a connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10)
        request, _ = listener.accept()
    with request, client:
        client.settimeout(10)
        yield request, client


@pytest.fixture
def handle_with(socketserver):
    """`handle_with(request, handle, rbufsize=0)`: a handler that has handled the request."""

    def run(request, handle=lambda self: None, **attributes):
        attributes["handle"] = handle
        handler_class = type("Handler", (socketserver.StreamRequestHandler,), attributes)
        return handler_class(request, ("client", 1), "server")

    return run


def reset(client):
    """Close a socket so that the other end gets ECONNRESET, not the end of the stream."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def everything(client):
    """Return what comes until the end of the stream."""
    return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_base_handler_attributes_and_order(socketserver):
    class Handler(socketserver.BaseRequestHandler):
        def __init__(self, *args):
            self.calls = []  # impacket's: attributes before the constructor
            super().__init__(*args)

        def setup(self):
            self.calls += ["setup", self.request, self.client_address, self.server]

        def handle(self):
            self.calls.append("handle")

        def finish(self):
            self.calls.append("finish")

    assert Handler(1, 2, 3).calls == ["setup", 1, 2, 3, "handle", "finish"]


def test_base_handler_without_methods(socketserver):
    handler = socketserver.BaseRequestHandler(request=1, client_address=2, server=3)
    assert vars(handler) == {"request": 1, "client_address": 2, "server": 3}


def test_setup_order_on_a_stub(handle_with):
    stub = mock.Mock()
    handler = handle_with(
        stub, timeout=3, disable_nagle_algorithm=True, rbufsize=1, wbufsize=2, finish=mock.Mock()
    )
    assert stub.mock_calls == [
        mock.call.settimeout(3),
        mock.call.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True),
        mock.call.makefile("rb", 1),
        mock.call.makefile("wb", 2),
    ]
    assert handler.connection is handler.request is stub
    assert handler.rfile is handler.wfile is stub.makefile.return_value


def test_setup_defaults_on_a_stub(socketserver, handle_with):
    """CPython's tests of http.server use such a request: a file to read, and sendall."""
    stub = mock.Mock(spec=["makefile", "sendall"])
    stub.makefile.return_value = io.BytesIO(b"line\nrest")
    handler = handle_with(stub, lambda self: self.wfile.write(self.rfile.readline()))
    assert stub.mock_calls == [mock.call.makefile("rb", -1), mock.call.sendall(b"line\n")]
    assert isinstance(handler.wfile, socketserver._SocketWriter)
    assert handler.rfile.closed
    assert handler.wfile.closed


def test_setup_on_a_socket(socketserver, pair, handle_with):
    def handle(self):
        nodelay = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        seen.append((self.connection.gettimeout(), bool(nodelay)))
        seen.append((isinstance(self.rfile, io.BufferedIOBase), self.rfile.raw.fileno()))
        seen.append((isinstance(self.wfile, socketserver._SocketWriter), self.wfile.fileno()))

    seen = []
    handler = handle_with(pair[0], handle, timeout=3, disable_nagle_algorithm=True)
    assert seen == [(3, True), (True, pair[0].fileno()), (True, pair[0].fileno())]
    assert handler.connection is pair[0]


def test_setup_without_timeout_keeps_that_of_the_socket(pair, handle_with):
    pair[0].settimeout(7)
    handle_with(pair[0])
    assert pair[0].gettimeout() == 7


def test_timeout_as_a_read_only_property(pair, handle_with):
    """certbot's; so setup() may read `timeout` but not assign it."""
    handle_with(pair[0], timeout=property(lambda self: 4))
    assert pair[0].gettimeout() == 4


def test_setup_overridden_without_super(pair, handle_with):
    with pytest.raises(AttributeError, match="wfile"):
        handle_with(pair[0], setup=lambda self: None)


@pytest.mark.parametrize("rbufsize", [None, -1, 1, 2, 4096])
def test_rbufsize_buffered(pair, handle_with, rbufsize):
    def handle(self):
        assert isinstance(self.rfile, io.BufferedIOBase)
        lines.extend([self.rfile.readline(), self.rfile.peek(1)[:1], *self.rfile])

    lines = []
    pair[1].sendall(b"one\ntwo\nthree")
    pair[1].shutdown(socket.SHUT_WR)
    handle_with(pair[0], handle, rbufsize=rbufsize)
    assert lines == [b"one\n", b"t", b"two\n", b"three"]


def test_rbufsize_0_reads_nothing_ahead(pair, handle_with):
    """CGI depends on it: what follows the headers is left to the child."""

    def handle(self):
        assert isinstance(self.rfile, io.RawIOBase)
        lines.extend([self.rfile.readline(), self.request.recv(99)])

    lines = []
    pair[1].sendall(b"one\ntwo\n")
    handle_with(pair[0], handle, rbufsize=0)
    assert lines == [b"one\n", b"two\n"]


@pytest.mark.parametrize("wbufsize", [-1, 4096])
def test_wbufsize_buffered(pair, handle_with, wbufsize):
    def handle(self):
        self.wfile.write(b"part")
        assert not select.select([pair[1]], [], [], 0)[0]
        self.wfile.flush()
        assert pair[1].recv(9) == b"part"
        self.wfile.write(b"rest")

    handle_with(pair[0], handle, wbufsize=wbufsize)
    assert pair[1].recv(9) == b"rest"


def test_wbufsize_0_writes_at_once(pair, handle_with):
    def handle(self):
        assert self.wfile.write(b"now") == 3
        assert pair[1].recv(9) == b"now"

    handle_with(pair[0], handle)


def test_wfile_is_a_writer(socketserver, pair, handle_with):
    def handle(self):
        wfile = self.wfile
        flags = [wfile.writable(), wfile.readable(), wfile.seekable(), wfile.closed]
        assert flags == [True, False, False, False]
        assert isinstance(wfile, io.BufferedIOBase)
        assert wfile._sock is self.connection
        wfile.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        assert wfile.write(memoryview(array.array("I", [1, 2, 3]))) == 12
        assert wfile.write(array.array("I", [1, 2, 3])) == 12
        assert wfile.write(b"") == 0

    handle_with(pair[0], handle)
    pair[0].shutdown(socket.SHUT_WR)
    assert everything(pair[1]) == b"abc" + array.array("I", [1, 2, 3] * 2).tobytes()


@pytest.mark.parametrize("data", ["text", 3, None, [b"x"]])
def test_wfile_refuses_what_is_not_bytes(pair, handle_with, data):
    def handle(self):
        with pytest.raises(TypeError):
            self.wfile.write(data)

    handle_with(pair[0], handle)


def test_wfile_after_close(pair, handle_with):
    """write() is not refused and flush() is: as the stdlib's writer, which has no such check."""
    handler = handle_with(pair[0])
    assert handler.wfile.closed
    assert handler.wfile.write(b"late") == 4
    assert pair[1].recv(9) == b"late"
    with pytest.raises(ValueError, match="closed"):
        handler.wfile.flush()


def test_wfile_sock_replaced(pair, handle_with):
    other = mock.Mock()

    def handle(self):
        self.wfile._sock = other
        self.wfile.write(b"elsewhere")

    handle_with(pair[0], handle)
    assert other.mock_calls == [mock.call.sendall(b"elsewhere")]


def test_socket_writer_made_by_hand(socketserver, pair):
    with socketserver._SocketWriter(pair[0]) as writer:
        write = writer.write  # ovirt-imageio's: kept as a bound method
        assert write(b"by hand") == 7
    assert pair[1].recv(9) == b"by hand"
    assert pair[0].fileno() >= 0


def test_socket_writer_write_replaced_on_the_class(socketserver, pair, handle_with):
    wrote = []
    with mock.patch.object(socketserver._SocketWriter, "write", lambda self, b: wrote.append(b)):
        handle_with(pair[0], lambda self: self.wfile.write(b"seen"))
    handle_with(pair[0], lambda self: self.wfile.write(b"sent"))
    assert wrote == [b"seen"]
    assert pair[1].recv(9) == b"sent"


def test_text_wrappers(pair, handle_with):
    def handle(self):
        reader = io.TextIOWrapper(self.rfile, encoding="utf-8", newline="")
        writer = io.TextIOWrapper(self.wfile, encoding="utf-8", newline="\r\n")
        writer.write(reader.readline().upper() + reader.read())
        writer.flush()

    pair[1].sendall("grüß\nGott".encode())
    pair[1].shutdown(socket.SHUT_WR)
    handle_with(pair[0], handle)
    assert pair[1].recv(99) == "GRÜSS\r\nGott".encode()


def test_rfile_selected_on(pair, handle_with):
    def handle(self):
        assert not select.select([self.rfile], [], [], 0)[0]
        pair[1].sendall(b"x")
        assert select.select([self.rfile], [self.wfile], [], 10)[:2] == ([self.rfile], [self.wfile])
        assert self.rfile.raw._sock is self.request

    handle_with(pair[0], handle)


def test_rfile_timeout_then_cannot_read(pair, handle_with):
    def handle(self):
        with pytest.raises(TimeoutError):
            self.rfile.readline()
        pair[1].sendall(b"too late\n")
        for _ in range(2):
            with pytest.raises(OSError, match="cannot read from timed out object"):
                self.rfile.readline()

    handle_with(pair[0], handle, timeout=0.02)


def test_rfile_timeout_changed_between_reads(pair, handle_with):
    def handle(self):
        assert self.rfile.read1(2) == b"ab"
        self.connection.settimeout(0.02)
        assert self.rfile.read1(2) == b"cd"
        with pytest.raises(TimeoutError):
            self.rfile.read1(2)

    pair[1].sendall(b"abcd")
    handle_with(pair[0], handle)


def test_wfile_timeout(pair, handle_with):
    def handle(self):
        with pytest.raises(TimeoutError):
            self.wfile.write(bytes(64 << 20))

    handle_with(pair[0], handle, timeout=0.05)


def test_rfile_of_a_nonblocking_socket(pair, handle_with):
    with pair[0].makefile("rb") as file:
        pair[0].setblocking(False)
        expected = [file.read(1), file.read1(1), file.readinto(bytearray(1))]

    def handle(self):
        self.connection.setblocking(False)
        read = [self.rfile.read(1), self.rfile.read1(1), self.rfile.readinto(bytearray(1))]
        assert read == expected

    handle_with(pair[0], handle)


def test_rfile_half_closed_client_still_answered(pair, handle_with):
    def handle(self):
        self.wfile.write(self.rfile.read()[::-1])
        assert self.rfile.read() == self.rfile.readline() == b""

    pair[1].sendall(b"abc")
    pair[1].shutdown(socket.SHUT_WR)
    handle_with(pair[0], handle)
    assert pair[1].recv(9) == b"cba"


def test_rfile_connection_reset(pair, handle_with):
    def handle(self):
        with pytest.raises(ConnectionResetError):
            self.rfile.readline()
        with pytest.raises(ConnectionError):
            self.wfile.write(b"x")

    reset(pair[1])
    handle_with(pair[0], handle)


def test_reset_seen_by_handle_error(make_server, connect):
    errors = []

    def handle(self):
        reset(client)
        while True:
            self.wfile.write(bytes(4096))

    def handle_error(self, request, client_address):
        errors.append(sys.exc_info()[0])

    server = make_server("TCPServer", handler=handle, handle_error=handle_error)
    client = connect(server)
    server.handle_request()
    assert len(errors) == 1
    assert issubclass(errors[0], ConnectionError)


def test_finish_ignores_a_broken_pipe_on_flush(pair, handle_with):
    def handle(self):
        self.wfile = mock.Mock(closed=False)
        self.wfile.flush.side_effect = BrokenPipeError

    handler = handle_with(pair[0], handle)
    assert handler.wfile.mock_calls == [mock.call.flush(), mock.call.close()]
    assert handler.rfile.closed


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_finish_after_the_handler_closed_its_files(pair, handle_with, wbufsize):
    def handle(self):
        self.wfile.write(b"x")
        self.wfile.close()
        self.rfile.close()

    handler = handle_with(pair[0], handle, wbufsize=wbufsize)
    assert handler.rfile.closed
    assert pair[1].recv(9) == b"x"


def test_request_closed_in_handle_still_readable(pair, handle_with):
    """The file holds the socket's io-reference: its descriptor is not free for another client."""

    def handle(self):
        assert self.rfile.readline() == b"one\n"
        self.request.close()
        assert self.rfile.readline() == b"two\n"
        pair[1].sendall(b"three\n")
        assert self.rfile.readline() == b"three\n"
        fds.append(self.rfile.raw.fileno())

    fds = []
    pair[1].sendall(b"one\ntwo\n")
    handle_with(pair[0], handle)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fds[0])
    assert pair[1].recv(9) == b""


def test_request_closed_in_handle_without_buffered_data(pair, handle_with):
    def handle(self):
        self.request.close()
        pair[1].sendall(b"later\n")
        self.wfile.write(self.rfile.readline())

    handle_with(pair[0], handle)
    assert everything(pair[1]) == b"later\n"


def test_request_detached_in_handle(make_server, connect):
    fds = []
    server = make_server("TCPServer", handler=lambda self: fds.append(self.request.detach()))
    client = connect(server)
    server.handle_request()
    with socket.socket(fileno=fds[0]) as detached:
        detached.sendall(b"still open")
        assert client.recv(99) == b"still open"


def test_rfile_reads_after_request_shut_down_by_another_thread(pair, handle_with, background):
    lines = []
    handling = background(handle_with, pair[0], lambda self: lines.append(self.rfile.readline()))
    pair[1].sendall(b"half a line")
    pair[0].shutdown(socket.SHUT_RD)
    handling.result(10)
    assert lines in ([b"half a line"], [b""])


INTERRUPTED_WRITE = """
    import signal, socket, socketserver, threading
    signals, reading = [], threading.Event()
    def handler(*args):
        signals.append(1)
        if len(signals) == 5:
            reading.set()
    signal.signal(signal.SIGALRM, handler)
    request, client = socket.socketpair()
    size = 8 << 20
    received = []
    def read():
        reading.wait()
        while data := client.recv(1 << 16):
            received.append(data)
    class Writer(socketserver.StreamRequestHandler):
        def handle(self):
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            assert self.wfile.write(payload) == size
            signal.setitimer(signal.ITIMER_REAL, 0)
    payload = bytes(range(256)) * (size // 256)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    Writer(request, None, None)
    request.close()
    thread.join()
    assert b"".join(received) == payload
    assert len(signals) >= 5
"""


@posix
def test_wfile_write_interrupted_by_signals(python):
    child = python(INTERRUPTED_WRITE)
    assert child.communicate(timeout=20) == ("", "")
    assert child.returncode == 0


def test_rfile_read_interrupted_by_a_raising_signal_handler(python):
    child = python("""
        import signal, socket, socketserver
        def handler(*args):
            raise KeyError("from the signal handler")
        class Reader(socketserver.StreamRequestHandler):
            def handle(self):
                try:
                    self.rfile.readline()
                except KeyError:
                    client.sendall(b"after\\n")
                    print(self.rfile.readline())
        signal.signal(signal.SIGALRM, handler)
        request, client = socket.socketpair()
        with request, client:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            Reader(request, None, None)
    """)
    assert child.communicate(timeout=20) == ("b'after\\n'\n", "")


def test_wfile_large_write_to_a_slow_reader(pair, handle_with, background):
    payload = bytes(range(256)) * (8 << 12)
    handling = background(handle_with, pair[0], lambda self: self.wfile.write(payload))
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    received = bytearray()
    while len(received) < len(payload):
        received += pair[1].recv(100_000)
    handling.result(10)
    assert received == payload


@pytest.fixture
def tls(certificate):
    """The contexts of a server and of a client that trusts it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=certificate[0])


def echo_two_lines(self):
    self.wfile.write(self.rfile.readline())
    self.wfile.write(self.rfile.readline())


def assert_echoed_over_tls(client, context):
    """Both lines go in one TLS record: the second waits in OpenSSL, where select() sees nothing."""
    with context.wrap_socket(client, server_hostname="localhost") as secure:
        secure.sendall(b"one\ntwo\n")
        assert secure.recv(4) + secure.recv(4) == b"one\ntwo\n"


def test_tls_handshake_in_setup(make_server, socketserver, connect, serving, tls):
    def setup(self):
        self.request = tls[0].wrap_socket(self.request, server_side=True)
        socketserver.StreamRequestHandler.setup(self)

    def finish(self):
        socketserver.StreamRequestHandler.finish(self)
        self.request.close()

    methods = {"setup": setup, "handle": echo_two_lines, "finish": finish}
    server = make_server("ThreadingMixIn", "TCPServer", handler=methods)
    with serving(server):
        assert_echoed_over_tls(connect(server), tls[1])


def test_tls_listening_socket(make_server, connect, serving, tls):
    server = make_server("TCPServer", handler=echo_two_lines)
    server.socket = tls[0].wrap_socket(server.socket, server_side=True)
    with serving(server):
        reset(connect(server, b"no handshake"))
        assert_echoed_over_tls(connect(server), tls[1])


def test_tls_begun_within_the_request(make_server, socketserver, connect, serving, tls):
    """STARTTLS: connection, rfile and wfile are made anew in the middle of handle()."""

    def handle(self):
        assert self.rfile.readline() == b"STARTTLS\n"
        self.wfile.write(b"go\n")
        self.rfile.close()
        self.request = self.connection = tls[0].wrap_socket(self.request, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = socketserver._SocketWriter(self.connection)
        echo_two_lines(self)
        self.connection.close()

    server = make_server("TCPServer", handler=handle)
    with serving(server):
        client = connect(server, b"STARTTLS\n")
        assert client.recv(3) == b"go\n"
        assert_echoed_over_tls(client, tls[1])
