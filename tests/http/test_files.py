"""Files: send_file(), and http.server's copyfile(), which uses it. Whatever the file and wherever
it is sent, the client gets the bytes that the file has."""

import contextlib
import http.client
import http.server
import io
import os
import runpy
import socket
import socketserver as stdlib
import tempfile
import threading

import pytest

import socketserver_fast
from socketserver_fast._http import downloads, files, kernel
from socketserver_fast._sockets import wait

SIZES = [0, 1, 1000, files.SMALL, files.SMALL + 1, files.PIECE * 3 + 17]
DATA = bytes(os.urandom(997)) * 4000  # larger than what two sockets hold
native = pytest.mark.skipif(
    not (wait.native and hasattr(os, "sendfile")), reason="a portable build has no sendfile(2)"
)


@pytest.fixture
def file_of(tmp_path):
    """`file_of(data)`: a file with this in it, open to read."""
    with contextlib.ExitStack() as stack:

        def make(data, **options):
            path = tmp_path / "file"
            path.write_bytes(data)
            return stack.enter_context(path.open("rb", **options))

        yield make


@pytest.fixture
def wfile_of():
    """`wfile_of(sock)`: the wfile that a handler has for it."""
    handlers = []

    def make(sock):
        handler = socketserver_fast.StreamRequestHandler.__new__(
            socketserver_fast.StreamRequestHandler
        )
        handler.request = sock
        handler.setup()
        handlers.append(handler)
        return handler.wfile

    yield make
    for handler in handlers:
        handler.finish()


@pytest.fixture
def received_from(background):
    """`received_from(wfile_of, function)`: what arrives while function(wfile) runs; its result."""

    def run(wfile_of, function, prepare=lambda sock: None):
        ours, peer = socket.socketpair()
        with ours, peer:
            prepare(ours)
            received = background(lambda: peer.makefile("rb").read())
            try:
                result = function(wfile_of(ours))
            finally:
                ours.shutdown(socket.SHUT_WR)
            return received.result(20), result

    return run


# What the kernel says of a file.


def test_size_of_a_regular_file(file_of):
    assert kernel.size_of(file_of(b"a file")) == 6
    assert kernel.size_of(file_of(b"a file", buffering=0)) == 6


def test_only_ordinary_regular_files_have_a_size(file_of, tmp_path):
    class Own(io.FileIO):
        pass

    file_of(b"a file")
    with Own(tmp_path / "file") as own, io.FileIO(os.devnull) as device:
        for other in (own, device, io.BytesIO(b"a file")):
            assert kernel.size_of(other) is None
        with io.BufferedReader(own) as buffered:
            assert kernel.size_of(buffered) is None


def test_cached_leaves_the_position(file_of):
    file = file_of(b"a file")
    assert kernel.cached(file, 6) in (b"a file", None)  # None where the system cannot tell
    assert file.read() == b"a file"


def test_cached_has_all_or_nothing(file_of):
    assert kernel.cached(file_of(b"a file"), 7) is None
    assert kernel.cached(file_of(DATA), files.SMALL + 1) is None


# send_file().


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_whole_file(file_of, wfile_of, received_from, size, timeout, buffering):
    file = file_of(DATA[:size], buffering=buffering)
    seen = received_from(
        wfile_of,
        lambda wfile: socketserver_fast.send_file(wfile, file),
        lambda sock: sock.settimeout(timeout),
    )
    assert seen == (DATA[:size], size)
    assert file.tell() == size
    assert file.read() == b""


@pytest.mark.parametrize("offset", [0, 1, 100_000, 999_999, 1_000_000, 2_000_000])
@pytest.mark.parametrize("count", [None, 0, 1, 100_000, 5_000_000])
def test_a_part(file_of, wfile_of, received_from, offset, count):
    file = file_of(DATA[:1_000_000])
    file.read(10)  # neither the position nor what is buffered counts
    expected = DATA[:1_000_000][offset : None if count is None else offset + count]
    received, sent = received_from(
        wfile_of, lambda wfile: socketserver_fast.send_file(wfile, file, offset, count)
    )
    assert (received, sent) == (expected, len(expected))
    assert file.tell() == offset + len(expected)


class Reversed(io.FileIO):
    """A file that reads something else than what is on the disk."""

    def read(self, size=-1):
        return super().read(size)[::-1]


@pytest.mark.parametrize("kind", ["memory", "subclass", "pipe", "temporary", "generic wfile"])
def test_what_has_to_be_read_is_read(
    tmp_path, wfile_of, received_from, background, monkeypatch, kind
):
    data, expected = DATA[:100_000], DATA[:100_000]
    (tmp_path / "file").write_bytes(data)
    with contextlib.ExitStack() as stack:
        if kind == "memory":
            file = io.BytesIO(data)
        elif kind == "subclass":
            file, expected = stack.enter_context(Reversed(tmp_path / "file")), data[::-1]
        elif kind == "pipe":
            reading, writing = os.pipe()
            file = stack.enter_context(os.fdopen(reading, "rb"))
            background(write_all, writing, data)
        elif kind == "temporary":
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(data)
        else:
            file = stack.enter_context((tmp_path / "file").open("rb"))
            monkeypatch.setattr(socketserver_fast._SocketWriter, "write", write_by_send)
        seen = received_from(wfile_of, lambda wfile: socketserver_fast.send_file(wfile, file))
        assert seen == (expected, len(expected))


def write_all(descriptor, data):
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def write_by_send(self, data):
    self._sock.sendall(data)
    return len(data)


@native
@pytest.mark.parametrize("refused_after", [0, 300_000])
@pytest.mark.parametrize("count", [None, 400_000])
def test_what_the_kernel_refuses_is_copied(
    file_of, wfile_of, received_from, monkeypatch, refused_after, count
):
    def send(sock, file, offset, end):
        sock.sendall(os.pread(file.fileno(), refused_after, offset))
        file.seek(offset + refused_after)
        return offset + refused_after, False

    monkeypatch.setattr(kernel, "send", send)
    file = file_of(DATA[:1_000_000])
    received, sent = received_from(
        wfile_of, lambda wfile: socketserver_fast.send_file(wfile, file, 10, count)
    )
    assert received == DATA[10:1_000_000][:count]
    assert sent == len(received)


@native
def test_the_kernel_does_it(file_of, wfile_of, received_from, monkeypatch):
    monkeypatch.setattr(files, "copy", None)
    file = file_of(DATA)
    assert received_from(wfile_of, lambda w: socketserver_fast.send_file(w, file))[1] == len(DATA)


@native
def test_negative_numbers_are_refused(file_of, wfile_of, received_from):
    for arguments in ((-1,), (0, -1)):
        with pytest.raises(ValueError, match="non-negative"):
            socketserver_fast.send_file(None, file_of(b""), *arguments)


@pytest.mark.parametrize("kind", ["regular", "memory"])
def test_a_client_that_does_not_read_is_a_timeout(file_of, wfile_of, kind):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(0.05)
        file = file_of(DATA) if kind == "regular" else io.BytesIO(DATA)
        with pytest.raises(TimeoutError):
            socketserver_fast.send_file(wfile_of(ours), file)
        if kind == "regular" and wait.native:
            peer.settimeout(0.2)
            received = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    received += len(peer.recv(1 << 20))
            assert file.tell() <= received


def test_a_client_that_is_gone_is_an_error(file_of, wfile_of):
    ours, peer = socket.socketpair()
    with ours, peer:
        wfile = wfile_of(ours)
        peer.close()
        with pytest.raises(BrokenPipeError):
            socketserver_fast.send_file(wfile, file_of(DATA))


def test_a_socket_that_may_not_wait(file_of, wfile_of):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            socketserver_fast.send_file(wfile_of(ours), file_of(DATA))


@native
def test_a_file_that_is_cut_meanwhile_ends_there(file_of, wfile_of, background):
    file = file_of(DATA)
    ours, peer = socket.socketpair()
    with ours, peer:
        sent = background(socketserver_fast.send_file, wfile_of(ours), file)
        received = len(peer.recv(100))
        os.truncate(file.name, len(DATA) // 2)
        ours_done = []

        def read():
            nonlocal received
            while part := peer.recv(1 << 20):
                received += len(part)

        reading = threading.Thread(target=read)
        reading.start()
        ours_done.append(sent.result(20))
        ours.shutdown(socket.SHUT_WR)
        reading.join(20)
        assert ours_done == [received]
        assert received < len(DATA)


# http.server.


@pytest.fixture
def site(tmp_path, monkeypatch, serving):
    """`site(base, **attributes)`: the address of an http.server of tmp_path."""
    with contextlib.ExitStack() as stack:

        def serve(base=http.server.HTTPServer, **attributes):
            attributes = {"log_message": lambda *args: None, **attributes}
            kind = type("Handler", (http.server.SimpleHTTPRequestHandler,), attributes)
            server = base(("127.0.0.1", 0), lambda *args: kind(*args, directory=tmp_path))
            return stack.enter_context(serving(server))

        yield serve


@pytest.fixture(params=[None, "pool", "greenlet"])
def threads(request):
    """Patched so that threads become this."""
    if request.param == "greenlet":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    socketserver_fast.unpatch()
    socketserver_fast.patch(threads=request.param)
    yield
    socketserver_fast.unpatch()
    socketserver_fast.patch()


def get(address, path="/file"):
    client = http.client.HTTPConnection(*address, timeout=10)
    try:
        client.request("GET", path)
        return client.getresponse().read()
    finally:
        client.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("base", [http.server.HTTPServer, http.server.ThreadingHTTPServer])
def test_files_are_served_whole(threads, site, tmp_path, base, size):
    (tmp_path / "file").write_bytes(DATA[:size])
    address = site(base)
    assert get(address) == get(address) == DATA[:size]


@native
@pytest.mark.parametrize("size", SIZES[:4])
def test_small_files_are_served_whole_if_they_would_have_to_be_waited_for(
    site, tmp_path, monkeypatch, size
):
    (tmp_path / "file").write_bytes(DATA[:size])
    asked = []
    monkeypatch.setattr(kernel, "cached", lambda file, size: asked.append(size))
    assert get(site()) == DATA[:size]
    assert asked == [size]


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_file_that_grows_keeps_the_connection_in_step(threads, site, tmp_path, size):
    def end_headers(self):
        http.server.BaseHTTPRequestHandler.end_headers(self)

    def copyfile(self, source, outputfile):
        http.server.SimpleHTTPRequestHandler.copyfile(self, source, outputfile)
        with (tmp_path / "file").open("ab") as file:
            file.write(b"more")

    path = tmp_path / "file"
    path.write_bytes(DATA[:size])
    address = site(
        http.server.ThreadingHTTPServer, protocol_version="HTTP/1.1", copyfile=copyfile,
        end_headers=end_headers,
    )  # fmt: skip
    client = http.client.HTTPConnection(*address, timeout=10)
    for grown in (0, 4, 8):
        client.request("GET", "/file")
        assert client.getresponse().read() == DATA[:size] + b"more" * (grown // 4)
    client.close()


@native
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_file_that_was_cut_ends_its_connection(threads, site, tmp_path, size):
    def read_less(file):
        os.truncate(tmp_path / "file", size // 2)
        return size

    path = tmp_path / "file"
    path.write_bytes(DATA[:size])
    address = site(http.server.ThreadingHTTPServer, protocol_version="HTTP/1.1")
    client = http.client.HTTPConnection(*address, timeout=10)
    client.request("GET", "/file")
    assert len(client.getresponse().read()) == size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "size_of", read_less)
        client.request("GET", "/file")
        with pytest.raises(http.client.IncompleteRead) as caught:
            client.getresponse().read()
    assert len(caught.value.partial) == size // 2
    client.close()


def test_a_copyfile_of_ones_own_is_called(site, tmp_path):
    (tmp_path / "file").write_bytes(b"file")
    address = site(copyfile=lambda self, source, wfile: wfile.write(source.read().upper()))
    assert get(address) == b"FILE"


def test_a_source_that_is_no_regular_file_is_copied(site, tmp_path):
    (tmp_path / "file").write_bytes(b"file")
    assert b"file</a>" in get(site(), "/")


@native
def test_greenlets_run_on_while_one_client_does_not_read(serving, tmp_path, receive):
    pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    (tmp_path / "file").write_bytes(DATA)

    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            for _ in self.rfile:
                with (tmp_path / "file").open("rb") as file:
                    socketserver_fast.send_file(self.wfile, file)

    server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
    with serving(server) as address:
        clients = [socket.create_connection(address, timeout=10) for _ in range(3)]
        for client in clients:
            client.sendall(b"\n")
        for client in reversed(clients):
            assert receive(client, len(DATA)) == DATA
            client.close()


@native
def test_greenlets_are_answered_while_a_file_waits_for_its_client(serving, tmp_path, receive):
    pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    (tmp_path / "file").write_bytes(DATA)

    class Handler(stdlib.StreamRequestHandler):
        def handle(self):
            if self.rfile.readline() == b"file\n":
                with (tmp_path / "file").open("rb") as file:
                    socketserver_fast.send_file(self.wfile, file)
            else:
                self.wfile.write(b"answer\n")

    server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
    with serving(server) as address, contextlib.ExitStack() as stack:
        silent, other = (
            stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(2)
        )
        silent.sendall(b"file\n")
        assert silent.recv(100, socket.MSG_PEEK)  # it is under way, and more than fits
        other.sendall(b"word\n")
        try:
            assert receive(other, 7) == b"answer\n"
        finally:
            assert receive(silent, len(DATA)) == DATA


@native
def test_the_position_after_a_timeout_is_behind_what_was_sent(file_of, wfile_of):
    ours, peer = socket.socketpair()
    with ours, peer, file_of(DATA) as file:
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            socketserver_fast.send_file(wfile_of(ours), file)
        ours.shutdown(socket.SHUT_WR)
        assert file.tell() == len(peer.makefile("rb").read()) > 0


@native
def test_a_pool_answers_while_files_wait_for_their_clients(site, tmp_path):
    socketserver_fast.unpatch()
    socketserver_fast.patch(threads="pool", max_workers=2, stall_seconds=None)
    (tmp_path / "file").write_bytes(DATA * 3)
    (tmp_path / "other").write_bytes(b"other")
    address = site(http.server.ThreadingHTTPServer)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            silent = stack.enter_context(socket.create_connection(address, timeout=10))
            silent.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        assert get(address, "/other") == b"other"


seqpacket = pytest.mark.skipif(
    not (wait.native and hasattr(socket, "SOCK_SEQPACKET")), reason="writes are not kept apart"
)


def writes_for(path, folder, base=http.server.SimpleHTTPRequestHandler, **attributes):
    """Return what a handler writes for a GET of the path, each write by itself."""
    attributes = {"log_message": lambda *args: None, **attributes}
    kind = type("Handler", (base,), attributes)
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, peer:
        peer.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        kind(ours, ("192.0.2.1", 1), None, directory=folder)
        ours.shutdown(socket.SHUT_WR)
        return [*iter(lambda: peer.recv(1 << 20), b"")]


@seqpacket
@pytest.mark.parametrize(
    ("path", "end"), [("/file", b"a small file"), ("/nothing", b"</html>\n"), ("/", b"</html>\n")]
)
def test_a_head_leaves_with_its_small_body(tmp_path, path, end):
    (tmp_path / "file").write_bytes(b"a small file")
    (whole,) = writes_for(path, tmp_path)
    assert whole.startswith(b"HTTP/1.0 ")
    assert whole.endswith(end)


@seqpacket
@pytest.mark.parametrize(
    "name",
    ["send_head", "end_headers", "flush_headers", "send_error", "list_directory", "copyfile"],
)
def test_a_head_leaves_at_once_where_other_code_follows(tmp_path, name):
    (tmp_path / "file").write_bytes(b"a small file")
    original = getattr(http.server.SimpleHTTPRequestHandler, name)
    written = writes_for("/file", tmp_path, **{name: lambda self, *args: original(self, *args)})
    assert len(written) == 2
    assert written[1] == b"a small file"


@seqpacket
def test_a_wfile_that_is_asked_for_more_sends_the_head_first(tmp_path):
    (tmp_path / "file").write_bytes(b"a small file")

    def guess_type(self, path):
        self.wfile.write(b"HTTP/1.0 103 Early Hints\r\n\r\n")
        self.wfile.write(memoryview(b"one"))
        self.wfile.flush()
        return "text/plain"

    written = writes_for("/file", tmp_path, guess_type=guess_type)
    assert written[:2] == [b"HTTP/1.0 103 Early Hints\r\n\r\n", b"one"]
    assert len(written) == 3


@seqpacket
def test_a_head_leaves_with_its_body_where_the_module_is_the_program(tmp_path):
    (tmp_path / "file").write_bytes(b"a small file")
    cls = runpy.run_path(http.server.__file__)["SimpleHTTPRequestHandler"]
    for name, method in downloads.METHODS[http.server.SimpleHTTPRequestHandler].items():
        setattr(cls, name, method)
    assert len(writes_for("/file", tmp_path, cls)) == 1
