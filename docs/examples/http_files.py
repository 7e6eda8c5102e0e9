"""A folder over HTTP by the patched standard library: `python http_files.py FOLDER [PORT]`."""

import functools
import http.server
import sys

import socketserver_fast


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = 30  # seconds without a request, after which they are not


class Server(socketserver_fast.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    socketserver_fast.patch()
    handler = functools.partial(Handler, directory=sys.argv[1])
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    with Server(("127.0.0.1", port), handler) as server:
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal(drain_timeout=10)


if __name__ == "__main__":
    main()
