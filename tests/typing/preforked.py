"""Threads in several processes, ended by a signal."""

import signal
from typing import assert_type

import socketserver_fast as socketserver


class Server(socketserver.PreforkMixIn, socketserver.ThreadingTCPServer):
    workers = 4
    max_requests = 10_000
    worker_timeout = 60
    drain_timeout = 2.5
    reuse_port = True
    log_disconnects = False

    def worker_started(self) -> None:
        assert_type(self.worker_index, int | None)

    def worker_stopping(self) -> None:
        super().worker_stopping()


class PoolsInProcesses(socketserver.PreforkMixIn, socketserver.ThreadPoolTCPServer):
    workers = None
    max_workers = 8


class GreenletsInProcesses(socketserver.PreforkMixIn, socketserver.GreenletTCPServer):
    worker_timeout = None
    max_connections = 1000


def main() -> None:
    with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
        assert_type(server.serve_until_signal(signal.SIGTERM, drain_timeout=None), int | None)
        assert_type(server.drain(timeout=2.5), bool)
        assert_type(server.shutdown(), bool)
        assert_type(server.requests_in_progress, int)
    for combined in (PoolsInProcesses, GreenletsInProcesses):
        combined(("127.0.0.1", 0), socketserver.StreamRequestHandler).serve_forever()
    with socketserver.PreforkUnixDatagramServer("/nowhere", lambda *_: None) as packets:
        assert_type(packets.workers, int | None)
