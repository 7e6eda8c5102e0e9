"""A pool of threads: settings, hooks that it shares with threads, and how it ends."""

from typing import Any, assert_type

import socketserver_fast as socketserver


class Server(socketserver.ThreadPoolMixIn, socketserver.TCPServer):
    max_workers = 8
    min_workers = 2
    worker_idle_timeout = None
    daemon_threads = True
    log_disconnects = False

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.requests_in_progress < 100

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        while line := self.rfile.readline(65536):
            assert_type(line, bytes)
            assert_type(self.wfile.write(line), int)


def main() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading_server: socketserver.ThreadingMixIn = server
        assert_type(threading_server.block_on_close, bool)
        assert_type(server.shutdown(timeout=1.5), bool)
        assert_type(server.drain(30), bool)
    with socketserver.ThreadPoolUDPServer(("127.0.0.1", 0), Handler) as packets:
        assert_type(packets.serve_until_signal(), int | None)
    socketserver.ThreadPoolUnixStreamServer("/nowhere", Handler).handle_request()
    socketserver.ThreadPoolTCPServer(("", 0), Handler, False).server_bind()
