"""Answers Prometheus for --metrics, one scrape at a time.

It runs in a thread of its own. With --workers the parent answers instead, at the turns of its loop,
since a process that forks should have no threads.
"""

import io
import threading

from prometheus_client import CollectorRegistry, MetricsHandler

from socketserver_fast._serving import order
from socketserver_fast.metrics import Collector
from socketserver_fast.servers import TCPServer

LONGEST_REQUEST = 65536  # bytes


class Exporter(TCPServer):
    """Answers with the figures of a server. No client blocks it for more than a second."""

    allow_reuse_address = True
    log_disconnects = False
    timeout = 0  # handle_request() does not wait

    def __init__(self, address, server, name):
        registry = CollectorRegistry()
        registry.register(Collector(server, name))
        self.address_family = address.family
        super().__init__(address.address, type("Scrape", (Scrape,), {"registry": registry}))

    def start(self):
        """Start a thread that answers."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()


class Scrape(MetricsHandler):
    """Answers one request, which has to come at once and in one piece."""

    timeout = 1  # seconds

    def setup(self):
        super().setup()
        self.rfile = io.BytesIO(self.request.recv(LONGEST_REQUEST))


class ParentAnswers:
    """Lets the parent of worker processes answer, at the turns of its loop."""

    exporter = None

    def service_actions(self):
        super().service_actions()
        if self.worker_index is None:
            self.exporter.handle_request()

    def worker_started(self):
        super().worker_started()
        self.exporter.server_close()


order.declare_periodic(ParentAnswers)
