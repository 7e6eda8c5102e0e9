"""Packets, by file and by hand, in threads and in processes, and what becomes of lost ones."""

import socket
from typing import assert_type

from socketserver_fast import (
    DatagramRequestHandler,
    ForkingMixIn,
    ThreadingUnixDatagramServer,
    UDPServer,
)


class Server(ForkingMixIn, UDPServer):
    max_packet_size = 1400
    recv_buffer_size = 4 << 20
    reply_from_destination = True
    max_children = 4
    timeout = 1.5


class Handler(DatagramRequestHandler):
    def handle(self) -> None:
        assert_type(self.packet, bytes)
        assert_type(self.socket, socket.socket)
        self.wfile.write(self.rfile.readline().upper())


def main() -> None:
    with Server(("", 5140), Handler) as server:
        assert_type(server.fileno(), int)
        assert_type(server.active_children, set[int] | None)
        server.handle_request()
        assert_type(server.datagrams_dropped, int | None)
        assert_type(server.datagrams_truncated, int)
        server.datagrams_truncated = 0  # type: ignore[misc]
    ThreadingUnixDatagramServer("/nowhere", Handler).shutdown()
