"""A TCP proxy: `python proxy.py PORT HOST PORT` passes on what comes to the first port."""

import socket
import sys
import threading
from typing import Any

import socketserver_fast as socketserver


class ProxyServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: Any, target: tuple[str, int]) -> None:
        self.target = target
        super().__init__(address, Pair)


class Pair(socketserver.BaseRequestHandler):
    server: ProxyServer

    def handle(self) -> None:
        try:
            target = socket.create_connection(self.server.target, timeout=10)
        except OSError as error:
            print(f"{self.server.target}: {error}", file=sys.stderr)
            return
        with target:
            target.settimeout(None)
            back = threading.Thread(target=pump, args=(target, self.request), daemon=True)
            back.start()
            pump(self.request, target)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on until the end, then pass on the end, and only in this direction."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # one of them is gone: neither has anything left to say to the other
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main() -> None:
    port, host, target_port = sys.argv[1:]
    with ProxyServer(("127.0.0.1", int(port)), (host, int(target_port))) as server:
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal(drain_timeout=5)


if __name__ == "__main__":
    main()
