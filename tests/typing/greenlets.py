"""Greenlets: the servers and what a handler calls instead of what would block all others."""

import socket
import ssl
from typing import assert_type

import socketserver_fast as socketserver
from socketserver_fast import green


class Server(socketserver.GreenletMixIn, socketserver.TCPServer):
    max_connections = 10_000
    blocking_threshold = 0.2
    block_on_close = False


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        green.sleep(0.1)
        name = self.rfile.readline(255).decode().strip()
        address = green.run_in_thread(socket.gethostbyname, name)
        assert_type(address, str)
        with green.create_connection((address, 25), timeout=5) as connection:
            assert_type(connection, socket.socket)
            self.wfile.write(connection.recv(1000))

    def handle_upgrade(self, context: ssl.SSLContext) -> None:
        with context.wrap_socket(green.cooperative(socket.socket())) as secure:
            assert_type(secure, ssl.SSLSocket)


def main() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        assert_type(server.serve_until_signal(drain_timeout=2), int | None)
    with socketserver.GreenletUDPServer(("127.0.0.1", 0), Handler) as packets:
        assert_type(packets.shutdown(1), bool)
    socketserver.GreenletUnixDatagramServer("/nowhere", Handler).server_close()
    green.run_in_thread(len)  # type: ignore[call-arg]
