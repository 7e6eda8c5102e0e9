"""What every handler answers. The load generator knows the same texts and checks each byte."""


def pattern(size):
    """So many bytes that both sides know."""
    alphabet = b"abcdefghijklmnopqrstuvwxyz"
    return (alphabet * (size // len(alphabet) + 1))[:size]


PAGE = pattern(1024)


def application(environ, start_response):
    """The WSGI application: one page of 1 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1024")])
    return [PAGE]
