"""NaN, infinity and text are refused as times, in the way of the stdlib."""

import socket
import threading

import pytest

import socketserver_fast

NO_TIMES = [
    (float("nan"), ValueError),
    (float("inf"), OverflowError),
    (1e308, OverflowError),
    (10**400, OverflowError),
    ("1.5", TypeError),
    (b"1", TypeError),
]
no_times = pytest.mark.parametrize(
    ("seconds", "error"), NO_TIMES, ids=[f"{type(t).__name__}-{str(t)[:5]}" for t, _ in NO_TIMES])

POOLS = ["ThreadPoolTCPServer", "GreenletTCPServer"]
POOLS += ["PreforkTCPServer"] * hasattr(socketserver_fast, "PreforkTCPServer")


@pytest.fixture(params=POOLS)
def own_server(request):
    """A server of a class that the stdlib has not."""
    with getattr(socketserver_fast, request.param)(("127.0.0.1", 0), None) as server:
        yield server


@no_times
def test_poll_interval_that_is_no_time(make_server, seconds, error):
    server = make_server("TCPServer")
    with pytest.raises(error):
        server.serve_forever(seconds)
    server.shutdown()  # it has returned, so this does not wait


@no_times
def test_poll_interval_that_is_no_time_of_own_servers(own_server, seconds, error):
    with pytest.raises(error):
        own_server.serve_forever(seconds)


def test_poll_interval_does_not_count_after_a_shutdown(make_server, background):
    server = make_server("TCPServer")
    stopping = background(server.shutdown)
    while not server._BaseServer__shutdown_request:
        pass
    server.serve_forever(float("nan"))
    stopping.result(10)


@pytest.mark.parametrize("seconds", [-1, -0.0, -float("inf"), 1e-300, 0])
def test_poll_interval_that_does_not_wait(make_server, seconds):
    server = make_server("TCPServer", service_actions=lambda server: turns.append(server.stop()))
    turns = []
    type(server).stop = lambda server: setattr(server, "_BaseServer__shutdown_request", True)
    server.serve_forever(seconds)
    assert len(turns) == 1


@no_times
def test_timeout_of_handle_request_that_is_no_time(make_server, seconds, error):
    server = make_server("TCPServer", timeout=seconds)
    with pytest.raises(error):
        server.handle_request()


@no_times
def test_timeout_of_a_handler_that_is_no_time(socketserver, seconds, error):
    handler_class = type("Handler", (socketserver.StreamRequestHandler,), {"timeout": seconds})
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(error):
        handler_class(ours, None, None)


@no_times
@pytest.mark.parametrize("method", ["shutdown", "drain"])
def test_stopping_in_no_time_changes_nothing(own_server, method, seconds, error):
    with pytest.raises(error):
        getattr(own_server, method)(seconds)
    assert not own_server._BaseServer__shutdown_request
    assert own_server.fileno() >= 0


@no_times
def test_drain_timeout_of_serve_until_signal_that_is_no_time(own_server, seconds, error):
    with pytest.raises(error):
        own_server.serve_until_signal(drain_timeout=seconds)
    assert own_server.fileno() >= 0


@no_times
@pytest.mark.parametrize(("attribute", "model"), [
    ("worker_idle_timeout", "ThreadPoolTCPServer"),
    ("worker_timeout", "PreforkTCPServer"),
    ("drain_timeout", "PreforkTCPServer"),
])
def test_settings_that_are_no_time(attribute, model, seconds, error):
    if not hasattr(socketserver_fast, model):
        pytest.skip(f"no {model} here")
    server_class = type("Server", (getattr(socketserver_fast, model),), {attribute: seconds})
    with server_class(("127.0.0.1", 0), None) as server, pytest.raises(error):
        server.serve_forever()


@pytest.mark.parametrize("seconds", [9e9, 9223372036.0])
def test_longest_timeouts_wait(seconds, background):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(seconds)
        with socketserver_fast._sockets.reader.open_reader(ours, -1) as reader:
            reading = background(reader.readline)
            sender = threading.Timer(0.05, theirs.sendall, [b"late\n"])
            sender.start()
            assert reading.result(10) == b"late\n"
            sender.join()
