"""Servers of each model count their requests, and Prometheus gets the counts."""

import math
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait
from socketserver_fast.limits import LimitsMixIn
from socketserver_fast.pool import pool_of
from socketserver_fast.statistics import StatisticsMixIn
from socketserver_fast.systemd import NotifyMixIn

MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]


class Obey(socketserver_fast.StreamRequestHandler):
    """Echoes a line, or does what it says."""

    def handle(self):
        line = self.rfile.readline()
        if line == b"fail\n":
            raise KeyError("as it was told")
        if line == b"leave\n":
            raise BrokenPipeError
        self.wfile.write(line)
        self.rfile.read()


@pytest.fixture
def make():
    """`make(name, *mixins, behind=..., **attributes)`: a server with statistics."""
    servers = []

    def build(name, *mixins, handler=Obey, behind=(), **attributes):
        bases = (*mixins, StatisticsMixIn, *behind, getattr(socketserver_fast, name))
        attributes = {"log_disconnects": False, "request_queue_size": 64, **attributes}
        servers.append(type("Server", bases, attributes)(("127.0.0.1", 0), handler))
        return servers[-1]

    yield build
    for server in servers:
        server.server_close()


def ask(address, line=b"hello\n"):
    with socket.create_connection(address, 10) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


@pytest.mark.parametrize("name", MODELS)
def test_outcomes(name, make, serving, connect, eventually, capsys):
    server = make(name)
    with serving(server) as address:
        for line in (b"hello\n", b"hello\n", b"hello\n", b"fail\n", b"fail\n", b"leave\n"):
            ask(address, line)
        eventually(lambda: server.statistics()["in_progress"] == 0)
        client = connect(server, b"hello\n")
        assert client.recv(10) == b"hello\n"
        found = server.statistics()
        client.close()
    assert [found[key] for key in ("accepted", "in_progress", "finished", "failed", "disconnected")
            ] == [7, 1, 3, 2, 1]
    assert "datagrams_dropped" not in found
    found = server.statistics()
    assert (found["accepted"], found["finished"]) == (7, 4)


def test_seconds_are_in_their_classes(make):
    server = make("TCPServer")
    for seconds in (0.0005, 0.0007, 0.3, 60.0):
        server._figures.own.note(seconds, 0)
    found = server.statistics()["seconds"]
    assert found["sum"] == pytest.approx(60.3012)
    assert [found["buckets"][bound] for bound in (0.0005, 0.001, 0.25, 0.5, 10.0, math.inf)] == [
        1, 2, 2, 3, 3, 4]


def test_seconds_are_those_of_the_handler(make, serving):
    def handle(request, *rest):
        request.recv(100)
        time.sleep(0.05)

    server = make("TCPServer", handler=handle)
    with serving(server) as address:
        assert ask(address) == b""
    assert 0.05 <= server.statistics()["seconds"]["sum"] < 5


@pytest.mark.parametrize("name", ["UDPServer", "ThreadPoolUDPServer"])
def test_datagrams(name, make, serving, eventually):
    server = make(name, handler=lambda *args: None)
    with serving(server) as address, socket.socket(type=socket.SOCK_DGRAM) as client:
        for _ in range(100):
            client.sendto(b"x", address)
        eventually(lambda: server.statistics()["finished"] == 100)
        assert server.statistics()["datagrams_dropped"] in (0, None)


def test_limits_are_counted(make, serving, connect):
    server = make("ThreadingTCPServer", LimitsMixIn, max_connections_per_client=1)
    with serving(server):
        client = connect(server, b"hello\n")
        assert client.recv(10) == b"hello\n"
        assert connect(server).recv(1) == b""
        client.close()
    found = server.statistics()
    assert found["limited"] == {
        "max_connections_per_client": 1, "max_line": 0, "request_timeout": 0}
    assert found["accepted"] == 1


def test_nothing_is_lost_among_many_threads(make, serving):
    server = make("ThreadPoolTCPServer", handler=lambda request, *rest: request.recv(10),
                  max_workers=8)

    def ask_often():
        for _ in range(100):
            ask(server.server_address)

    with serving(server):
        threads = [threading.Thread(target=ask_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    found = server.statistics()
    assert (found["accepted"], found["finished"]) == (400, 400)
    assert found["seconds"]["buckets"][math.inf] == 400


@pytest.mark.skipif(not wait.native, reason="the workers of a portable build do not")
@pytest.mark.parametrize("periodic", [[], [NotifyMixIn]], ids=["alone", "with NotifyMixIn"])
def test_pool_still_accepts_by_itself(make, serving, periodic):
    server = make("ThreadPoolTCPServer", behind=periodic)
    with serving(server) as address:
        ask(address)
        assert pool_of(server).accepting


@pytest.mark.parametrize("place", ["behind", "mixins"])
def test_service_actions_of_the_program_are_called_after_each_request(make, serving, place):
    class Counting:
        calls = 0

        def service_actions(self):
            super().service_actions()
            self.calls += 1

    behind = [NotifyMixIn, Counting] if place == "behind" else [NotifyMixIn]
    mixins = [Counting] if place == "mixins" else []
    server = make("ThreadPoolTCPServer", *mixins, behind=behind)
    with serving(server, poll_interval=None) as address:
        for _ in range(5):
            ask(address)
    assert server.calls >= 5


PROCESSES = """
import socketserver, sys, threading
from socketserver_fast import *
from socketserver_fast.statistics import StatisticsMixIn

class Server(StatisticsMixIn, BASES):
    workers = 3

def work(*args):
    args[0].recv(100)

with Server(("127.0.0.1", 0), work) as server:
    def tell():
        for line in sys.stdin:
            print(server.statistics(), flush=True)
    threading.Thread(target=tell, daemon=True).start()
    print(server.server_address[1], flush=True)
    server.serve_until_signal()
    print(server.statistics(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("bases", [
    "ForkingTCPServer", "PreforkTCPServer", "PreforkMixIn, ThreadPoolTCPServer",
])
def test_processes_count_together(bases, eventually):
    program = PROCESSES.replace("BASES", bases)
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdin=-1, stdout=-1,
                          text=True) as child:
        def told():
            return eval(child.stdout.readline().replace("inf:", "1e999:"))

        def figures():
            child.stdin.write("\n")
            child.stdin.flush()
            return told()

        try:
            address = "127.0.0.1", int(child.stdout.readline())
            for _ in range(100):
                ask(address)
            eventually(lambda: figures()["finished"] == 100)
            for _ in range(10):
                ask(address)
            child.terminate()
            found = told()
            assert (found["accepted"], found["finished"], found["in_progress"]) == (110, 110, 0)
            assert found["seconds"]["buckets"][math.inf] == 110
            assert child.wait(30) == 0
        finally:
            child.kill()


def test_mixin_before_tls_is_refused():
    from socketserver_fast.tls import TLSMixIn

    with pytest.raises(TypeError, match="TLSMixIn has to stand before StatisticsMixIn"):
        type("Server", (StatisticsMixIn, TLSMixIn, socketserver_fast.TCPServer), {})


def test_scrape(make, serving, eventually):
    prometheus_client = pytest.importorskip("prometheus_client")
    from socketserver_fast.metrics import Collector

    registry = prometheus_client.CollectorRegistry()
    server = make("ThreadPoolTCPServer", LimitsMixIn)
    registry.register(Collector(server))
    registry.register(Collector(make("UDPServer"), name="packets"))
    web, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        with serving(server) as address:
            ask(address)
            eventually(lambda: server.statistics()["finished"] == 1)
            eventually(lambda: server.requests_in_progress == 0)
            with urllib.request.urlopen(f"http://127.0.0.1:{web.server_port}/metrics") as page:
                lines = page.read().decode().splitlines()
    finally:
        web.shutdown()
        web.server_close()
        thread.join(10)
    for line in [
        'socketserver_in_progress{server="Server"} 0.0',
        'socketserver_requests_total{outcome="finished",server="Server"} 1.0',
        'socketserver_limited_total{limit="request_timeout",server="Server"} 0.0',
        'socketserver_handler_seconds_bucket{le="+Inf",server="Server"} 1.0',
        'socketserver_in_progress{server="packets"} 0.0',
    ]:
        assert line in lines


def test_metrics_without_prometheus_client(make, monkeypatch):
    from socketserver_fast.metrics import Collector

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install socketserver_fast\[metrics\]"):
        Collector(make("TCPServer"))


@pytest.mark.parametrize("name", MODELS)
def test_all_mixins_together(name, serving, certificate):
    from socketserver_fast.proxy_protocol import ProxyProtocolMixIn
    from socketserver_fast.systemd import NotifyMixIn
    from socketserver_fast.tls import TLSMixIn

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    bases = (ProxyProtocolMixIn, LimitsMixIn, TLSMixIn, StatisticsMixIn, NotifyMixIn,
             getattr(socketserver_fast, name))
    server = type("Server", bases, {
        "proxy_protocol_from": ("127.0.0.1",), "request_timeout": 60, "ssl_context": context,
        "max_connections_per_client": 3})(("127.0.0.1", 0), Obey)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with serving(server) as address:
        for _ in range(3):
            with socket.create_connection(address, 10) as client:
                client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
                with trusting.wrap_socket(client, server_hostname="localhost") as secure:
                    secure.sendall(b"hello\n")
                    assert secure.recv(10) == b"hello\n"
                    secure.unwrap()
    found = server.statistics()
    assert (found["finished"], found["limited"]["max_connections_per_client"]) == (3, 0)
