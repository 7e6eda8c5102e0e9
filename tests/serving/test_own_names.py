"""Programs keep their own drain(), requests_in_progress and other names that we added."""

import os
import socketserver as stdlib

import pytest

import socketserver_fast

MIXINS = ["ThreadingMixIn", "ThreadPoolMixIn", "GreenletMixIn"]
MIXINS += ["ForkingMixIn", "PreforkMixIn"] * hasattr(os, "fork")


class Theirs(stdlib.TCPServer):
    requests_in_progress = "theirs"

    def drain(self):
        return f"{self.server_address[0]} drained"

    def serve_until_signal(self):
        return "their signal"


class InFront:
    def drain(self):
        return "in front"


@pytest.fixture(params=MIXINS)
def mixin(request):
    """One of the mix-ins."""
    if request.param == "GreenletMixIn":
        pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
    return getattr(socketserver_fast, request.param)


@pytest.mark.parametrize("patched", [False, True])
def test_class_behind_a_mixin_keeps_its_own_methods(mixin, patched):
    if patched:
        socketserver_fast.patch()
    try:
        class Server(mixin, Theirs):
            pass

        class Extended(InFront, Server):
            pass

        with Server(("127.0.0.1", 0), None) as server:
            assert server.drain() == "127.0.0.1 drained"
            assert server.requests_in_progress == "theirs"
            assert server.serve_until_signal() == "their signal"
        with Extended(("127.0.0.1", 0), None) as server:
            assert server.drain() == "in front"
    finally:
        socketserver_fast.unpatch()


def test_class_behind_a_mixin_that_has_none_can_be_drained(mixin):
    class Server(mixin, stdlib.TCPServer):
        pass

    server = Server(("127.0.0.1", 0), None)
    assert server.requests_in_progress == 0
    assert server.drain(10)


def test_attributes_of_the_program_have_any_name(socketserver):
    class Server(socketserver.ThreadingUDPServer):
        def __init__(self, *arguments):
            self.requests_in_progress = self.datagrams_dropped = self.datagrams_truncated = 0
            super().__init__(*arguments)

        def process_request(self, request, client_address):
            self.requests_in_progress += 1

    with Server(("127.0.0.1", 0), None) as server:
        server.process_request(None, None)
        server.datagrams_dropped -= 1
        assert (server.requests_in_progress, server.datagrams_dropped) == (1, -1)
        assert server.datagrams_truncated == 0
