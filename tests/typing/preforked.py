"""Threads in several processes, ended by a signal."""

import signal
from typing import assert_type

import socketserver_fast as socketserver


class Server(socketserver.PreforkMixIn, socketserver.ThreadingTCPServer):
    workers = 4
    max_requests = 10_000
    log_disconnects = False

    def worker_started(self) -> None:
        assert_type(self.worker_index, int | None)


def main() -> None:
    with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
        assert_type(server.serve_until_signal(signal.SIGTERM, drain_timeout=None), int | None)
        assert_type(server.drain(timeout=2.5), bool)
        assert_type(server.shutdown(), bool)
        assert_type(server.requests_in_progress, int)
