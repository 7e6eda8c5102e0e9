"""A WSGI application in two processes with eight threads each: `python wsgi_app.py [PORT]`.

A Server of this package and the handler of wsgiref, which tells the application that it has one
thread: `wsgi.multithread` is False.
"""

import sys
from collections.abc import Iterable
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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


class Server(socketserver_fast.PreforkMixIn, socketserver_fast.ThreadPoolTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    workers = 2
    max_workers = 8
    log_disconnects = False  # wsgiref lets the TimeoutError of a silent client pass

    def server_bind(self) -> None:
        super().server_bind()
        host, port = self.server_address
        self.base_environ = {"SERVER_NAME": host, "SERVER_PORT": str(port), "SCRIPT_NAME": ""}

    def get_app(self) -> WSGIApplication:
        return application


class Handler(WSGIRequestHandler):
    timeout = 30  # seconds for each read and each write


def main() -> None:
    address = "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with Server(address, Handler) as server:
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal(drain_timeout=10)


if __name__ == "__main__":
    main()
