"""What every handler answers. The load generator knows the same texts and checks each byte."""

PAGE = (b"abcdefghijklmnopqrstuvwxyz" * 40)[:1024]
BODY = (b"abcdefghijklmnopqrstuvwxyz" * 40330)[: 1 << 20]


def application(environ, start_response):
    """The WSGI application: one page of 1 KiB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1024")])
    return [PAGE]
