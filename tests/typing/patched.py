"""The stdlib's own classes, patched, keep the types that they have."""

import http.server

import socketserver_fast


def main() -> None:
    socketserver_fast.patch()
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler) as server:
        server.serve_forever()
    socketserver_fast.unpatch()
