"""Serves a WSGI application by wsgiref, patched and with threads: `python wsgi_app.py [PORT]`."""

import socketserver
import sys
from collections.abc import Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import socketserver_fast


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greets by GET, echoes by POST."""
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    else:
        body = f"Hello from {environ['PATH_INFO']}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Handler(WSGIRequestHandler):
    timeout = 30


def main() -> None:
    socketserver_fast.patch()
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with make_server("127.0.0.1", port, application, Server, Handler) as server:
        print("listening on", *server.server_address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
