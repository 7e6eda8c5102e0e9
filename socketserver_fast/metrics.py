"""Reports the statistics of a server to Prometheus; needs the package prometheus_client.

    prometheus_client.REGISTRY.register(Collector(server))
    prometheus_client.start_http_server(9100)
"""

import math

__all__ = ["Collector"]


class Collector:
    """Collects the statistics of a server with a StatisticsMixIn, for prometheus_client.

    The metrics have a label `server`: `name`, or by default the name of the server's class. With a
    PreforkMixIn, create it in the parent, whose figures cover all workers. Raises ImportError
    without prometheus_client: pip install socketserver_fast[metrics].
    """

    def __init__(self, server, name=None):
        try:
            from prometheus_client import core
        except ImportError as error:
            raise ImportError("metrics need the package prometheus_client: "
                              "pip install socketserver_fast[metrics]", name=error.name) from error
        self._core = core
        self._server = server
        self._label = [type(server).__name__ if name is None else name]

    def describe(self):
        """Return nothing, so that registering does not have to collect."""
        return []

    def collect(self):
        """Yield the metrics; called each time that Prometheus asks."""
        core, found = self._core, self._server.statistics()
        yield self._family(core.GaugeMetricFamily, "in_progress", "Requests in progress",
                           found["in_progress"])
        requests = core.CounterMetricFamily(
            "socketserver_requests", "Requests that have ended", labels=["server", "outcome"])
        for outcome in ("finished", "failed", "disconnected"):
            requests.add_metric([*self._label, outcome], found[outcome])
        yield requests
        limited = core.CounterMetricFamily(
            "socketserver_limited", "Connections that a limit has ended",
            labels=["server", "limit"])
        for limit, count in found["limited"].items():
            limited.add_metric([*self._label, limit], count)
        yield limited
        yield self._histogram(found["seconds"])
        if found.get("datagrams_dropped") is not None:
            yield self._family(core.CounterMetricFamily, "datagrams_dropped",
                               "Datagrams that the kernel has dropped", found["datagrams_dropped"])

    def _family(self, kind, name, text, value):
        family = kind(f"socketserver_{name}", text, labels=["server"])
        family.add_metric(self._label, value)
        return family

    def _histogram(self, seconds):
        histogram = self._core.HistogramMetricFamily(
            "socketserver_handler_seconds", "Seconds that handlers took", labels=["server"])
        buckets = [("+Inf" if bound == math.inf else str(bound), count)
                   for bound, count in seconds["buckets"].items()]
        histogram.add_metric(self._label, buckets, seconds["sum"])
        return histogram
