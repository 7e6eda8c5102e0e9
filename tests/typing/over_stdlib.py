"""Mix-ins over a server class of the stdlib."""

import http.server

from socketserver_fast import PreforkMixIn, ThreadingMixIn, ThreadPoolMixIn


class Threads(ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class Pool(ThreadPoolMixIn, http.server.HTTPServer):
    max_workers = 4


# Its shutdown() returns a bool, and that of HTTPServer None.
class Workers(PreforkMixIn, ThreadingMixIn, http.server.HTTPServer):  # type: ignore[misc]
    workers = 2


def serve(server: Threads | Pool | Workers) -> None:
    server.serve_until_signal(drain_timeout=10)
