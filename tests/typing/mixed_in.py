"""A server mixed from the package's classes, with state of its own and every kind of handler."""

import functools
import threading
from typing import Any, assert_type

import socketserver_fast as socketserver


class CountingServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, CountingHandler, bind_and_activate=False)
        self.lock = threading.Lock()
        self.requests = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self.lock:
            self.requests += 1
        return True

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.settimeout(5)
        return connection, address


class CountingHandler(socketserver.StreamRequestHandler):
    server: CountingServer  # narrower than the base class has it
    timeout = 10
    wbufsize = -1

    def handle(self) -> None:
        for line in self.rfile:
            assert_type(line, bytes)
            self.wfile.write(b"%d " % self.server.requests + line)


class GreetingHandler(socketserver.BaseRequestHandler):
    def __init__(self, greeting: bytes, request: Any, client_address: Any, server: Any) -> None:
        self.greeting = greeting
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        self.request.sendall(self.greeting)


def drop(request: Any, client_address: Any, server: socketserver.BaseServer) -> None:
    server.close_request(request)


def main() -> None:
    with CountingServer(("127.0.0.1", 0)) as server:
        assert_type(server, CountingServer)
        server.server_bind()
        server.server_activate()
        server.handle_request()
    any_callable = [drop, functools.partial(GreetingHandler, b"hello"), GreetingHandler]
    del any_callable
    socketserver.TCPServer(("127.0.0.1", 0), functools.partial(GreetingHandler, b"hello"))
    socketserver.UDPServer(("127.0.0.1", 0), drop)
    socketserver.TCPServer(("127.0.0.1", 0), lambda request, address, server: None)
    socketserver.UnixStreamServer("/nowhere", CountingHandler).serve_forever(poll_interval=None)
