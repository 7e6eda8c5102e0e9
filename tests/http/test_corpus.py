"""Hundreds of good and bad requests, answered by the stdlib in a process of its own, and patched in
every model: the answers and the log are the same, byte for byte but for the dates."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

import socketserver_fast

SITE = pathlib.Path(__file__).parent / "site.py"
MODELS = ["sync", "threads", "pool", "greenlet"]
PROTOCOLS = ["HTTP/1.1", "HTTP/1.0", "WSGI"]

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"get", b"G\xc3T", b""]
PATHS = [
    b"/", b"/small", b"/large", b"/missing", b"/folder", b"/folder/", b"/small/", b"//small",
    b"/small?q=1",
    b"/sm%61ll", b"/%2e%2e/small", b"small", b"/a%ffb", b"/\xe4", b"*", b"/small#x",
    b"http://host/small",
    b"/%0d%0aX:%20y", b"/\x01", b"/" + b"x" * 3000,
]  # fmt: skip
VERSIONS = [
    b" HTTP/1.1", b" HTTP/1.0", b"", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.10", b" HTTP/1",
    b" http/1.1",
    b" HTTP/1.x", b" HTTP/1.1 ", b"  HTTP/1.1", b" HTTP/1.1 x", b"\tHTTP/1.1", b" HTTP/1.1\r",
]  # fmt: skip
HEADERS = [
    b"", b"Host: a\r\n", b"Host: a\nX: y\n", b"Connection: close\r\n",
    b"Connection: Keep-Alive\r\n",
    b"connection:close \r\n", b"Connection: close\r\nConnection: keep-alive\r\n", b"X:\r\n",
    b"X:y\r\n",
    b"X: a\r\n b\r\n", b" folded\r\n", b"no colon\r\n", b": y\r\n", b"X : y\r\n", b"X Y: z\r\n",
    b"From a\r\nX: y\r\n", b"X: y\r\nFrom a\r\n", b"From: a\r\n", b"X: a\rb\r\n",
    b"X: a\r\r\n", b"X: \0\r\n",
    b"X: \xe4\x85\xa0\r\n", b"\xe4: y\r\n", b"X: \x0c\x1c\r\n", b"X: " + b"y" * 9000 + b"\r\n",
    b"X: " + b"y" * 65533 + b"\r\n", b"X: " + b"y" * 65540 + b"\r\n", b"X: y\r\n" * 98,
    b"X: y\r\n" * 99, b"X: y\r\n" * 100, b"X: y\r\n" * 101,
    b"A: 1\r\nB: 2\r\na: 3\r\nB-C: 4\r\nB_C: 5\r\n",
    b"Content-Type: text/html\r\n", b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"Content-Type: multipart/mixed\r\n", b"Content-Type: message/rfc822\r\n",
    b"Content-Type: \xa0multipart/mixed\r\n",
    b"If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
    b"If-Modified-Since: nonsense\r\n", b"Expect: 100-continue\r\n", b"Expect: other\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 5\r\nExpect: 100-continue\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n", b"Server-Name: evil\r\n",
    b"Cookie: a=b; c=\"d\"\r\n", b"X: %s %d\r\n", b"X: \x1b[31m\r\n",
]  # fmt: skip
ENDS = [b"\r\n", b"\n", b"", b"\r", b"\r\nhello", b"\r\nhelloGET /small HTTP/1.1\r\n\r\n"]


def corpus():
    """The requests, each of which is followed by the end of the stream."""
    for method in METHODS:
        for path in PATHS:
            yield method + b" " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for method in (b"GET", b"POST", b"HEAD"):
        for version in VERSIONS:
            for end in (b"\r\n", b"\n", b""):
                yield method + b" /small" + version + end + b"\r\n"
        for version in (b"HTTP/1.0", b"HTTP/1.1"):
            for headers in HEADERS:
                yield method + b" /small " + version + b"\r\n" + headers + b"\r\nhello"
        for end in ENDS:
            for headers in (b"", b"A: b\r\n", b"Content-Length: 5\r\n", b"A"):
                yield method + b" /small HTTP/1.1\r\n" + headers + end
    two = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"
    yield from (two * 2, two * 20, two + b"POST / HTTP/1.1\r\n\r\n", b"\r\n" + two, b"\n", b"",
    b"x")
    yield b"GET /" + b"x" * 65600 + b" HTTP/1.1\r\n\r\n"
    yield two + b"GET /" + b"x" * 65520 + b" HTTP/1.1\r\n\r\n" + two


REQUESTS = list(dict.fromkeys(corpus()))
NUMBERS = [
    rb"Date: [^\r\n]*", rb"Last-Modified: [^\r\n]*", rb"\[\d\d/[^\]]*\]", rb":\d+/", rb"port \d+",
]  # fmt: skip


def test_corpus_is_large():
    assert len(REQUESTS) >= 500


@pytest.fixture(scope="module")
def answers_of(tmp_path_factory):
    """`answers_of(model)`: the answers to all requests by each protocol, and the log."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(bytes(range(256)) * 2000)
    (folder / "folder").mkdir()
    (folder / "folder" / "index.html").write_bytes(b"<html>")
    answers = {}

    def ask(model):
        if model not in answers:
            answers[model] = serve(model, folder)
        return answers[model]

    return ask


def serve(model, folder):
    log = folder.parent / f"{folder.name}-{model}"
    with contextlib.ExitStack() as stack:
        stderr = stack.enter_context(log.open("wb"))
        package = pathlib.Path(socketserver_fast.__file__).parent.parent
        path = os.pathsep.join([str(package), *sys.path])
        server = subprocess.Popen(
            [sys.executable, "-P", SITE, model, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env={**os.environ, "PYTHONPATH": path, "PYTHON_COLORS": "0"},
        )  # fmt: skip
        stack.enter_context(server)
        stack.callback(server.kill)
        ports = list(map(int, server.stdout.readline().split()))
        found = {
            protocol: [masked(answer(port, request)) for request in REQUESTS]
            for protocol, port in zip(PROTOCOLS, ports, strict=True)
        }
        server.stdin.close()
        server.wait(20)
    # Without the lines of tracebacks, which name our methods as well.
    found["log"] = re.findall(rb"(?m)^[^ ].*", masked(log.read_bytes()))
    return found


def answer(port, request):
    """All that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def masked(answer):
    for number in NUMBERS:
        answer = re.sub(number, b"", answer)
    return answer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("protocol", [*PROTOCOLS, "log"])
@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_the_stdlib(answers_of, model, protocol):
    if model == "greenlet":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    expected, found = answers_of("stdlib")[protocol], answers_of(model)[protocol]
    wrong = [
        f"{request[:200]!r}\n  {theirs[-400:]!r}\n  {ours[-400:]!r}"
        for request, theirs, ours in zip(REQUESTS, expected, found, strict=False)
        if theirs != ours
    ]
    assert not wrong, f"{len(wrong)} of {len(REQUESTS)}:\n" + "\n".join(wrong[:5])
    assert len(expected) == len(found)
