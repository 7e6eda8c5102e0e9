"""Reads requests for http.server, where patch() puts it."""

import http.server

from socketserver_fast._http import head

_parse_request = http.server.BaseHTTPRequestHandler.parse_request


def parse_request(self):
    """BaseHTTPRequestHandler.parse_request(), compiled for what is plainly a request."""
    parsed = head.parse_request(self)
    return _parse_request(self) if parsed is None else parsed


METHODS = {http.server.BaseHTTPRequestHandler: {"parse_request": parse_request}}
