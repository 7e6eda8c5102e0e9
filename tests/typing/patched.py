"""The stdlib's own classes, patched, keep the types that they have; patch() knows its settings."""

import http.server

import socketserver_fast


def main() -> None:
    socketserver_fast.patch()
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler) as server:
        server.serve_forever()
    socketserver_fast.unpatch()


def with_models() -> None:
    socketserver_fast.patch(threads=None)
    socketserver_fast.patch(threads="pool", max_workers=8, min_workers=2, worker_idle_timeout=None)
    socketserver_fast.patch(threads="pool", max_connections=8, stall_seconds=None)
    socketserver_fast.patch(threads="greenlet", max_connections=None, blocking_threshold=0.1)


def refused() -> None:
    socketserver_fast.patch(threads="processes")  # type: ignore[call-overload]
    socketserver_fast.patch(threads="pool", blocking_threshold=1)  # type: ignore[call-overload]
    socketserver_fast.patch(max_workers=8)  # type: ignore[call-overload]
    socketserver_fast.patch("pool")  # type: ignore[call-overload]
