"""wsgiref: the same bytes and the same environ as ever, the head together with the body, and each
piece of a body on the wire before the application goes on."""

import contextlib
import http.client
import io
import socket
import threading
import wsgiref.handlers
import wsgiref.simple_server

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import socketserver_fast
from socketserver_fast._http import gateway, head
from socketserver_fast._sockets import wait, writer

native = pytest.mark.skipif(not wait.native, reason="a portable build writes by the stdlib")
Handler = wsgiref.simple_server.WSGIRequestHandler


@pytest.fixture
def site(serving):
    """`site(application)`: the address of a wsgiref server of it."""
    with contextlib.ExitStack() as stack:

        def serve(application, **attributes):
            attributes = {"log_message": lambda *args: None, **attributes}
            kind = type("Handler", (Handler,), attributes)
            server = wsgiref.simple_server.make_server(
                "127.0.0.1", 0, application, handler_class=kind
            )
            return stack.enter_context(serving(server))

        yield serve


def ask(address, request=b"GET / HTTP/1.0\r\n\r\n"):
    """The whole answer, byte for byte but for the date."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        answer = client.makefile("rb").read()
    return b"\n".join(line for line in answer.split(b"\n") if not line.startswith(b"Date: "))


def respond(start_response, *headers, status="200 OK"):
    return start_response(status, list(headers))


def plain(environ, start_response):
    respond(start_response, ("Content-Type", "text/plain"))
    return [b"body"]


def streamed(environ, start_response):
    respond(start_response)
    return iter([b"a", b"", b"b" * 100_000, b"c"])


def empty(environ, start_response):
    respond(start_response, status="204 No Content")
    return []


def written(environ, start_response):
    write = respond(start_response, ("X", "y"))
    write(b"a")
    write(b"b")
    return [b"c"]


def large(environ, start_response):
    respond(start_response)
    return [b"x" * 1_000_000]


def failing_early(environ, start_response):
    raise ValueError("early")


def failing_late(environ, start_response):
    respond(start_response)
    yield b"a"
    raise ValueError("late")


def failing_before_data(environ, start_response):
    respond(start_response)
    raise ValueError("before data")
    yield b"a"


def not_latin(environ, start_response):
    respond(start_response, ("X", "\u1234"))
    return [b"body"]


def not_bytes(environ, start_response):
    respond(start_response)
    return ["text"]


def not_started(environ, start_response):
    return [b"body"]


def with_length(environ, start_response):
    respond(start_response, ("Content-Length", "4"), ("Date", "today"), ("Server", "mine"))
    return [b"body"]


def file_wrapped(environ, start_response):
    respond(start_response)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"body" * 5000))


APPLICATIONS = [
    plain, streamed, empty, written, large, failing_early, failing_late, failing_before_data,
    not_latin,
    not_bytes, not_started, with_length, file_wrapped,
]  # fmt: skip
REQUESTS = [b"GET / HTTP/1.0\r\n\r\n", b"HEAD / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n",
b"broken\r\n\r\n"]


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
@pytest.mark.parametrize("application", APPLICATIONS)
def test_answers_are_the_same_bytes(site, application, request_, monkeypatch, capfd):
    monkeypatch.setattr("socket.socket.shutdown", lambda *args: None)
    answers = []
    for patched in (False, True):
        (socketserver_fast.patch if patched else socketserver_fast.unpatch)()
        answers.append(ask(site(application), request_))
    assert answers[0] == answers[1]


class Recorded(io.BufferedIOBase):
    """A wfile that remembers each write."""

    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(bytes(data))
        return len(data)


@pytest.fixture
def writes_of(monkeypatch):
    """`writes_of(application)`: what is written in one piece each."""

    def run(application, kind=wsgiref.handlers.SimpleHandler):
        wfile = Recorded()
        monkeypatch.setattr(gateway, "SocketWriter", Recorded)
        environ = {"SERVER_PROTOCOL": "HTTP/1.0"}
        handler = kind(io.BytesIO(), wfile, io.StringIO(), environ)
        handler.run(application)
        assert "_write" not in vars(handler)
        return wfile.writes

    return run


@pytest.mark.parametrize(
    ("application", "pieces"),
    [(plain, 1), (streamed, 4), (empty, 1), (written, 3), (large, 2), (failing_early, 1),
     (failing_late, 1), (failing_before_data, 1), (not_started, 1), (with_length, 1)],
)  # fmt: skip
def test_the_head_leaves_with_the_first_piece(writes_of, application, pieces):
    writes = writes_of(application)
    assert len(writes) == pieces
    assert b"\r\n\r\n" in writes[0]


def test_a_write_of_ones_own_gets_each_piece(writes_of):
    class Own(wsgiref.handlers.SimpleHandler):
        def _write(self, data):
            super()._write(data)

    assert len(writes_of(plain, Own)) > 3


def test_a_flush_of_ones_own_comes_after_the_write(writes_of):
    class Own(wsgiref.handlers.SimpleHandler):
        def _flush(self):
            self.stdout.write(b"flushed")

    assert writes_of(plain, Own)[-1] == b"flushed"


def test_an_application_that_streams_has_each_piece_on_the_wire(site):
    arrived, done = [], threading.Event()

    def application(environ, start_response):
        respond(start_response)
        for piece in (b"one", b"two", b"three"):
            yield piece
            data = b""
            while not data.endswith(piece):
                data += client.recv(1000)  # or it would wait for ever
            arrived.append(piece)
        done.set()

    with socket.create_connection(site(application), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert done.wait(10)
    assert arrived == [b"one", b"two", b"three"]


@native
def test_a_real_server_sends_head_and_body_at_once(site, monkeypatch):
    seen = []

    def write(self, data):
        gateway.write(self, data)
        seen.append(type(self.stdout) is writer.SocketWriter)

    monkeypatch.setattr(wsgiref.handlers.BaseHandler, "write", write)
    with contextlib.closing(http.client.HTTPConnection(*site(plain), timeout=10)) as client:
        client.request("GET", "/")
        assert client.getresponse().read() == b"body"
    assert seen == [True]


# The environ.


class Environ(Handler):
    """A handler of a request that was read."""

    def __init__(self, headers, path="/a%20b?c=d", base=None):
        self.server = type("Server", (), {"base_environ": base or {"SERVER_NAME": "s"}})
        self.client_address = ("192.0.2.1", 1)
        self.command, self.path, self.request_version = "GET", path, "HTTP/1.1"
        self.headers = http.client.HTTPMessage()
        self.headers._headers = headers


def assert_same_environ(handler, compiled=True):
    expected = gateway._get_environ(handler)
    found = handler.get_environ()
    assert list(found.items()) == list(expected.items())
    assert (head.get_environ(handler) is not None) == compiled


names = st.sampled_from(
    ["Content-Type", "content-length", "Host", "X-A", "x_a", "X-a", "Server-Name", "Cookie", "\xdf"]
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(names, st.text(st.characters(max_codepoint=255), max_size=8))),
    st.text(st.sampled_from("/a?%2f#e\xe4"), max_size=12),
)
def test_environ_is_the_same(headers, path):
    assert_same_environ(Environ(headers, path))


@pytest.mark.parametrize("value", ["\u1234", "\udc80", 1])
def test_unusual_values_are_left_to_the_original(value):
    handler = Environ([("A", "b"), ("C", value)])
    assert head.get_environ(handler) is None
    if value == "\u1234":
        assert handler.get_environ() == gateway._get_environ(handler)
    else:
        with pytest.raises(AttributeError, match="strip"):
            handler.get_environ()


def test_a_name_for_the_clients_address():
    handler = Environ([], base={"SERVER_NAME": "s", "REMOTE_HOST": ""})
    handler.address_string = lambda: "client.example"
    assert_same_environ(handler)  # which has it until Python 3.12


def test_more_names_than_are_remembered():
    for number in range(300):
        assert_same_environ(Environ([(f"X-Name-{number}", "y"), ("x-name-0", "z")]))


def test_headers_of_another_class_are_left_to_the_original():
    class Message(http.client.HTTPMessage):
        def items(self):
            return [("Replaced", "yes")]

    handler = Environ([("A", "b")])
    handler.headers.__class__ = Message
    assert_same_environ(handler, compiled=False)
