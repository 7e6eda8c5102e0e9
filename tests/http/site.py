"""Serve a folder by http.server, in HTTP/1.0, 1.1 and by wsgiref, until standard input ends.

Usage: site.py MODEL FOLDER, with MODEL stdlib, sync, threads, pool or greenlet. It prints the
ports."""

import http.server
import socketserver
import sys
import threading
import wsgiref.simple_server


class Draining:
    """Reads what is left before the end, or the client's kernel might lose the answer."""

    def finish(self):
        """As ever, after that."""
        while self.rfile.read(65536):
            pass
        super().finish()


class WSGIHandler(Draining, wsgiref.simple_server.WSGIRequestHandler):
    """A request of the application."""


class Handler(Draining, http.server.SimpleHTTPRequestHandler):
    """Files, and for POST what was understood of the request."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_POST(self):
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length) if length.isdigit() else 0)
        seen = [
            self.command, self.path, self.request_version, self.requestline, self.close_connection,
            self.headers.items(), str(self.headers), self.headers.defects, body,
        ]  # fmt: skip
        answer = repr(seen).encode()
        self.send_response(200, "Fine")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[:10])
        self.wfile.write(answer[10:])


class OldHandler(Handler):
    """The same in HTTP/1.0."""

    protocol_version = "HTTP/1.0"


def application(environ, start_response):
    """Answers what was understood of the request, in pieces."""
    known = ("HTTP_", "CONTENT_", "PATH_INFO", "QUERY_STRING", "REQUEST_METHOD", "REMOTE_ADDR")
    seen = {name: value for name, value in environ.items() if name.startswith((*known, "SERVER_"))}
    del seen["SERVER_PORT"]
    start_response("200 Fine", [("Content-Type", "text/plain")])
    yield b"seen:"
    yield repr(sorted(seen.items())).encode()


def main(model, folder):
    """Serve in this model."""
    if model != "stdlib":
        import socketserver_fast

        socketserver_fast.patch(threads=model if model in ("pool", "greenlet") else None)
    mixins = () if model == "sync" else (socketserver.ThreadingMixIn,)
    wsgi = type("WSGI", (*mixins, wsgiref.simple_server.WSGIServer), {"daemon_threads": True})
    web = type("Web", (*mixins, http.server.HTTPServer), {"daemon_threads": True})
    servers = [
        web(("127.0.0.1", 0), lambda *args: Handler(*args, directory=folder)),
        web(("127.0.0.1", 0), lambda *args: OldHandler(*args, directory=folder)),
        wsgi(("127.0.0.1", 0), WSGIHandler),
    ]
    servers[2].set_app(application)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(*(server.server_port for server in servers), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
