"""A request's head read by the compiled parser, or left to the stdlib's: the handler, the message,
what was answered and what is left to read are the same. The original reads the same bytes."""

import email.message
import http.client
import http.server
import io
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketserver_fast._http import head, requests
from socketserver_fast._sockets import reader, wait

native = pytest.mark.skipif(not wait.native, reason="a portable build reads by the stdlib")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers to memory, at the same time every time."""

    protocol_version = "HTTP/1.1"

    def __init__(self, rfile):
        self.rfile = rfile
        self.wfile = io.BytesIO()
        self.close_connection = True

    def date_time_string(self, timestamp=None):
        return "now"

    def log_message(self, format, *args):
        self.wfile.write(b"log: " + (format % args).encode() + b"\n")


def parsed_by(parse_request, rfile, kind=Handler):
    """Return what can be seen of a handler after its method has parsed the head."""
    handler = kind(rfile)
    handler.raw_requestline = rfile.readline(65537)
    try:
        result = parse_request(handler)
    except Exception as error:
        result = type(error), str(error)
    seen = {name: value for name, value in vars(handler).items() if not name.endswith("file")}
    seen["headers"] = contents(seen.get("headers"))
    return result, seen, handler.wfile.getvalue(), rfile.read()


def contents(message):
    """All that is in a message, and what it gives."""
    if not isinstance(message, email.message.Message):
        return message
    seen = dict(vars(message))
    if isinstance(message._payload, list):
        seen["_payload"] = [contents(part) for part in message._payload]
    seen["defects"] = [(type(defect), str(defect)) for defect in message.defects]
    names = {name.lower() for name, _ in message.items()}
    return [
        type(message), list(vars(message)), seen, message.items(), text(message.as_string),
        text(message.as_bytes), {name: message.get_all(name) for name in names},
        message.get_content_type(), message.is_multipart(), message.get_params(), len(message),
    ]  # fmt: skip


def text(method):
    """Return its text, or the error: an unfinished multipart message cannot be written."""
    try:
        return method()
    except Exception as error:
        return type(error), str(error)


def assert_same(data, kind=Handler):
    """The patched method and the original agree about a connection that brings this and ends."""
    expected = parsed_by(requests._parse_request, io.BytesIO(data), kind)
    ours, peer = socket.socketpair()
    with ours, peer, reader.open_reader(ours, -1) as rfile:
        sender = threading.Thread(target=send, args=(peer, data))
        sender.start()
        try:
            found = parsed_by(requests.parse_request, rfile, kind)
        finally:
            sender.join(10)
    assert found == expected


def send(peer, data):
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def is_compiled(data, kind=Handler):
    """Return whether the compiled parser takes the whole head."""
    ours, peer = socket.socketpair()
    with ours, peer, reader.open_reader(ours, -1) as rfile:
        send(peer, data)
        handler = kind(rfile)
        handler.raw_requestline = rfile.readline(65537)
        return head.parse_request(handler) is not None


# The first of these are plain; the rest have each something that the e-mail parser cares about.
PLAIN_LINES = [
    b"Host: example.org", b"Accept: */*", b"accept:*/*", b"X-Empty:", b"X-Blank:   ",
    b"X:\t a b \t",
    b"X-8bit: \xe4\xf6\x85\xa0", b"A!#$%&'*+-.^_`|~(){}@,;/[]?=<>\"\\: odd", b"Cookie: a=b; c=d",
    b"Connection: close", b"Connection: keep-alive", b"CONNECTION: Close", b"Connection: close ",
    b"Connection: upgrade, close", b"Expect: 100-continue", b"expect: 100-Continue", b"Expect: 200",
    b"Content-Type: text/plain; charset=utf-8", b"Content-Type: text", b"Content-Type: ;",
    b"Content-Length: 12", b"Content-Transfer-Encoding: base64", b"X: message/rfc822", b"X: a:b",
    b"Content-Types: multipart/mixed", b"From: me", b"X: " + b"y" * 9000,
]  # fmt: skip
OTHER_LINES = [
    b" folded", b"\tfolded", b"no colon", b": no name", b"From me", b"From me: you", b"X Y: space",
    b"X\t: tab", b"X : y", b"\xe4: y", b"X: a\rb", b"X: a\r", b"\r", b"X: \0", b"X\0: y",
    b"\x7f: y",
    b"X: \x7f", b"X: \x0b\x0c\x1c\x1d\x1e", b"X: \x1f",
    b"Content-Type: multipart/mixed; boundary=b",
    b"Content-Type: multipart/mixed", b"content-type:\tMULTIPART/Digest", b"--b", b"--b--",
    b"Content-Type: message/rfc822", b"Content-Type: Message/delivery-status",
    b"Content-Type: \xa0multipart/mixed", b"Content-Type: \x85message/http",
    b"X: " + b"y" * 65530, b"X: " + b"y" * 65540, b"X" * 65537,
]  # fmt: skip
FIRST_LINES = [
    b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"POST /a?b#c HTTP/1.1", b"get x HTTP/1.1",
    b"GET //a HTTP/1.1", b"GET / HTTP/1.10", b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET /",
    b"POST /", b"GET  /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET\t/ HTTP/1.1",
    b"GET / HTTP/1.1\r", b"GET /\xe4 HTTP/1.1", b"GET /\xa0 HTTP/1.1", b"GET /\x85x HTTP/1.1",
    b"G\xc3T / HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1.", b"GET / HTTP/1.2", b"GET / HTTP/1,1",
    b"GET / XHTTP/1.1", b"GET / HTTP/1.1 HTTP/1.1", b"GET a b HTTP/1.1", b"HTTP/1.1", b"",
    b"GET HTTP/1.1", b"GET / HTTP/01.1", b"GET /\0 HTTP/1.1", b"GET / HTTP/-1.1",
    b"\x7f / HTTP/1.1",
]  # fmt: skip
ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\n", b""]
usual_ends = st.sampled_from([b"\r\n"] * 20 + ENDS)


def lines_of(names):
    return st.lists(st.builds(bytes.__add__, st.sampled_from(names), usual_ends), max_size=12)


nearly_good = st.builds(
    lambda first, end, lines, body: first + end + b"".join(lines) + body,
    st.sampled_from(FIRST_LINES[:4] * 8 + FIRST_LINES),
    usual_ends,
    st.one_of(lines_of(PLAIN_LINES), lines_of(PLAIN_LINES * 4 + OTHER_LINES)),
    st.sampled_from([b"\r\n", b"\r\nbody", b"\n", b"\nX: y\r\n\r\n", b"", b"X: unfinished"]),
)
alphabet = st.sampled_from([b"a", b"X", b":", b" ", b"\t", b"\r", b"\n", b"\r\n", b"From ",
b"\0", b"\xff",
                            b"content-type", b"multipart", b"/", b"-", b"close",
                            b"Connection"])  # fmt: skip
arbitrary = st.one_of(
    st.binary(max_size=200), st.lists(alphabet, max_size=40).map(b"".join)
).map(lambda tail: b"GET / HTTP/1.1\r\n" + tail)


@settings(deadline=None, max_examples=400)
@given(nearly_good)
def test_nearly_good_heads_are_parsed_the_same(data):
    assert_same(data)


@settings(deadline=None, max_examples=400)
@given(arbitrary)
def test_arbitrary_heads_are_parsed_the_same(data):
    assert_same(data)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_arbitrary_requests_are_parsed_the_same(data):
    assert_same(data)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("line", PLAIN_LINES + OTHER_LINES, ids=lambda line: repr(line[:30]))
def test_each_line_is_parsed_the_same(line, end):
    for before in (b"", b"A: 1\r\n"):
        for after in (b"", b"B: 2\r\n"):
            assert_same(b"GET / HTTP/1.1\r\n" + before + line + end + after + b"\r\nbody")


@pytest.mark.parametrize("line", FIRST_LINES, ids=repr)
def test_each_request_line_is_parsed_the_same(line):
    for end in ENDS:
        assert_same(line + end + b"A: 1\r\n\r\n")


@pytest.mark.parametrize("octet", range(256))
def test_each_byte_in_a_name_and_in_a_value(octet):
    octet = bytes([octet])
    for line in (octet, b"X" + octet + b"Y", b"X: a" + octet + b"b", b"X:" + octet):
        assert_same(b"GET / HTTP/1.1\r\n" + line + b"\r\nA: 1\r\n\r\n")
        assert_same(b"GET / HTTP/1.1\r\nA: 1\r\n" + line + b": z\r\n\r\n")
    assert_same(b"G" + octet + b"T / HTTP/1.1\r\n\r\n")
    assert_same(b"GET /" + octet + b" HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("count", [0, 1, 98, 99, 100, 101, 127, 128, 129, 200])
def test_number_of_headers(count):
    assert_same(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * count + b"\r\nbody")


@pytest.mark.parametrize("limit", [0, 1, 5, 100, 1000])
def test_limits_of_http_client_count(monkeypatch, limit):
    monkeypatch.setattr(http.client, "_MAXHEADERS", limit)
    for count in (0, 1, 4, 5, 6, 100, 130):
        assert_same(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * count + b"\r\nbody")


@pytest.mark.parametrize("limit", [1, 2, 10, 65536, 100000])
def test_longest_line_of_http_client_counts(monkeypatch, limit):
    monkeypatch.setattr(http.client, "_MAXLINE", limit)
    for length in (1, 2, 3, 9, 10, 11, 65535, 65536, 65537, 100001):
        assert_same(b"GET / HTTP/1.1\r\n" + b"X:".ljust(length - 2, b"y") + b"\r\n\r\n")


# That it is the compiled parser, and where it is not.


@native
@pytest.mark.parametrize("line", PLAIN_LINES, ids=lambda line: repr(line[:30]))
def test_plain_lines_are_compiled(line):
    assert is_compiled(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")


@native
@pytest.mark.parametrize("line", OTHER_LINES, ids=lambda line: repr(line[:30]))
def test_other_lines_are_left_to_the_stdlib(line):
    assert not is_compiled(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")


@native
@pytest.mark.parametrize("name", ["set_raw", "get", "__init__", "get_content_type"])
def test_a_message_class_with_methods_of_its_own_is_left_to_the_stdlib(name):
    method = getattr(http.client.HTTPMessage, name)
    replaced = {name: lambda *args, **options: method(*args, **options)}
    message = type("Message", (http.client.HTTPMessage,), replaced)
    kind = type("Handler", (Handler,), {"MessageClass": message})
    assert not is_compiled(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", kind)
    assert_same(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", kind)


@native
def test_a_message_class_that_adds_methods_is_compiled():
    message = type("Message", (http.client.HTTPMessage,), {"first": lambda self: self.keys()[0]})
    kind = type("Handler", (Handler,), {"MessageClass": message})
    assert is_compiled(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", kind)
    assert_same(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", kind)
    message.set_raw = lambda self, name, value: None
    assert not is_compiled(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", kind)


@pytest.mark.parametrize("kind", [email.message.Message, email.message.EmailMessage, lambda: None])
def test_other_message_classes(kind):
    assert_same(b"GET / HTTP/1.1\r\nA: 1\r\n\r\n", type("H", (Handler,), {"MessageClass": kind}))


@native
def test_a_replaced_parse_headers_is_called(monkeypatch):
    monkeypatch.setattr(http.client, "parse_headers", lambda file, _class: {"replaced": "yes"})
    ours, peer = socket.socketpair()
    with ours, peer, reader.open_reader(ours, -1) as rfile:
        send(peer, b"GET / HTTP/1.1\r\nA: 1\r\n\r\n")
        assert parsed_by(requests.parse_request, rfile)[1]["headers"] == {"replaced": "yes"}


def test_protocol_version_decides_what_is_kept():
    for version in ("HTTP/1.0", "HTTP/1.1"):
        kind = type("Handler", (Handler,), {"protocol_version": version})
        for request in (b"HTTP/1.0", b"HTTP/1.1"):
            for line in (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
                         b"Expect: 100-continue\r\n"):  # fmt: skip
                assert_same(b"GET / " + request + b"\r\n" + line + b"\r\n", kind)


@pytest.mark.parametrize("answer", [True, False])
def test_handle_expect_100_is_asked(answer):
    kind = type("Handler", (Handler,), {"handle_expect_100": lambda self: answer})
    assert_same(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", kind)


# A head that comes in parts.


@native
def test_a_head_in_two_parts():
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nbody"
    expected = parsed_by(requests._parse_request, io.BytesIO(data))
    for cut in range(16, len(data)):
        ours, peer = socket.socketpair()
        with ours, peer, reader.open_reader(ours, -1) as rfile:
            peer.sendall(data[:cut])
            later = threading.Timer(0.002, send, (peer, data[cut:]))
            later.start()
            try:
                assert parsed_by(requests.parse_request, rfile) == expected
            finally:
                later.join()


@native
@pytest.mark.parametrize("data", [b"no colon\r\n", b"X: y\r\n" * 101, b"X" * 65537])
def test_an_error_is_seen_before_the_head_is_complete(data):
    ours, peer = socket.socketpair()
    with ours, peer, reader.open_reader(ours, -1) as rfile:
        ours.settimeout(0.2 if data.startswith(b"no") else 10)
        sender = threading.Thread(target=peer.sendall, args=(b"GET / HTTP/1.1\r\n" + data,))
        sender.start()
        handler = Handler(rfile)
        handler.raw_requestline = rfile.readline(65537)
        if data.startswith(b"no"):
            with pytest.raises(TimeoutError):  # the original goes on reading
                requests.parse_request(handler)
        else:
            assert requests.parse_request(handler) is False
            assert b" 431 " in handler.wfile.getvalue()
        sender.join(10)


@native
def test_a_timeout_in_the_head_leaves_the_handler_as_the_original_does():
    found = []
    for parse_request in (requests._parse_request, requests.parse_request):
        ours, peer = socket.socketpair()
        with ours, peer, reader.open_reader(ours, -1) as rfile:
            ours.settimeout(0.02)
            peer.sendall(b"GET /a HTTP/1.1\r\nX: y\r\nX")
            handler = Handler(rfile)
            handler.raw_requestline = rfile.readline(65537)
            with pytest.raises(TimeoutError):
                parse_request(handler)
            found.append({n: v for n, v in vars(handler).items() if not n.endswith("file")})
    assert found[0] == found[1]


@native
def test_a_closed_rfile_is_refused_by_the_original():
    ours, peer = socket.socketpair()
    with ours, peer:
        rfile = reader.open_reader(ours, -1)
        rfile.close()
        handler = Handler(rfile)
        handler.raw_requestline = b"GET / HTTP/1.1\r\n"
        with pytest.raises(ValueError, match="closed file"):
            requests.parse_request(handler)
