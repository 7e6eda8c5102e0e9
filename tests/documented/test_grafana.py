"""The dashboard of docs/examples asks for metrics and labels that a scrape has."""

import json
import re
from pathlib import Path

import pytest

import socketserver_fast
from socketserver_fast.metrics import Collector
from socketserver_fast.statistics import StatisticsMixIn

FILE = Path(__file__).parents[2] / "docs" / "examples" / "grafana.json"
if not FILE.exists():
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)
DASHBOARD = json.loads(FILE.read_text())


def queries():
    """Return what the panels and the variables ask of Prometheus."""
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


@pytest.fixture(scope="module")
def scraped():
    """The metrics of a server of each kind: {name: its labels}."""
    prometheus_client = pytest.importorskip("prometheus_client")
    found = {}
    for base in (socketserver_fast.TCPServer, socketserver_fast.UDPServer):
        server_class = type("Server", (StatisticsMixIn, base), {})
        with server_class(("127.0.0.1", 0), None) as server:
            registry = prometheus_client.CollectorRegistry()
            registry.register(Collector(server))
            text = prometheus_client.generate_latest(registry).decode()
        for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


@pytest.mark.parametrize("query", list(queries()))
def test_query_names_what_is_there(query, scraped):
    names = set(re.findall(r"socketserver_\w+", query))
    assert names
    assert names <= set(scraped)
    labels = set(re.findall(r"(\w+)=~?\"", query))
    for several in re.findall(r"by \((.*?)\)|label_values\(\w+, (\w+)\)", query):
        labels.update(", ".join(filter(None, several)).split(", "))
    assert labels - {"instance"} <= set.union(*(scraped[name] for name in names))


def test_every_metric_is_shown(scraped):
    asked = " ".join(queries())
    assert [name for name in scraped if name not in asked and not name.endswith("_created")] == []


def test_panels_do_not_cover_each_other():
    taken = [(x, y) for panel in DASHBOARD["panels"] for place in [panel["gridPos"]]
             for x in range(place["x"], place["x"] + place["w"])
             for y in range(place["y"], place["y"] + place["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
