"""Defines what the load says over HTTP and what must come back, byte for byte."""

import xmlrpc.client


def pattern(size):
    """Return so many bytes that both sides know."""
    alphabet = b"abcdefghijklmnopqrstuvwxyz"
    return (alphabet * (size // len(alphabet) + 1))[:size]


PAGE = pattern(1024)

# What Firefox sends with a page's own requests.
BROWSER = """\
Host: 127.0.0.1:8000
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Referer: http://127.0.0.1:8000/
Cookie: session=0123456789abcdef0123456789abcdef
Upgrade-Insecure-Requests: 1
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: same-origin
Priority: u=0, i
"""
TEXT = "a line of text that an XML-RPC call sends, and gets back"
CALL = xmlrpc.client.dumps((TEXT,), "echo").encode()
ANSWER = xmlrpc.client.dumps((TEXT,), methodresponse=True).encode()


def request(version, body=b""):
    """Return a GET of /page, or with a body a POST to it."""
    head = f"{'POST' if body else 'GET'} /page HTTP/{version}\n{BROWSER}"
    if body:
        head += f"Content-Type: application/octet-stream\nContent-Length: {len(body)}\n"
    return (head + "\n").replace("\n", "\r\n").encode() + body


def exchange(work, shape, size):
    """Return what is sent and the body that has to come back."""
    version = "1.0" if shape == "close" else "1.1"
    if work == "xmlrpc":
        return request(version, CALL), ANSWER
    if shape == "upload":
        return request(version, pattern(size)), PAGE
    return request(version), pattern(size) if shape == "static" else PAGE


def application(environ, start_response):
    """Answer as a WSGI application: one page of 1 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1024")])
    return [PAGE]
