"""Greenlet servers: the ordinary handler, parked instead of blocked."""

import contextlib
import contextvars
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest

import socketserver_fast

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)
greenlet = pytest.importorskip("greenlet")


@pytest.mark.parametrize("base", ["GreenletTCPServer", "GreenletUnixStreamServer"])
def test_many_connections_at_once_on_one_thread(make_green, serving, connect, base, receive):
    threads = set()

    def handle(handler):
        for line in handler.rfile:
            threads.add(threading.get_ident())
            handler.wfile.write(line)

    server = make_green(handle, base=getattr(socketserver_fast, base))
    with serving(server):
        clients = [connect(server, b"first\n") for _ in range(100)]
        for text in (b"first\n", b"second\n", b"third\n"):
            for client in clients:
                assert receive(client, len(text)) == text
                client.sendall(b"second\n" if text == b"first\n" else b"third\n")
        for client in clients:
            client.close()
    assert len(threads) == 1


def test_long_line_and_long_answer_park(make_green, serving, connect, background, receive):
    server = make_green()
    with serving(server):
        line = os.urandom(1 << 20).replace(b"\n", b" ") * 3 + b"\n"
        slow, quick = connect(server), connect(server)
        sending = background(slow.sendall, line)  # the handler's write fills both buffers
        for _ in range(20):
            quick.sendall(b"quick\n")
            assert receive(quick, 6) == b"quick\n"
        assert receive(slow, len(line)) == line
        sending.result(10)
        slow.close()
        quick.close()


def test_hooks_in_the_order_of_the_threading_server(make_green, serving, connect, eventually):
    def run(base):
        calls = []
        hooks = ["get_request", "verify_request", "process_request", "finish_request",
                 "shutdown_request", "close_request", "handle_error"]

        def recording(name):
            def hook(self, *args):
                calls.append(name)
                return getattr(super(type(self), self), name)(*args)
            return hook

        def handle(handler):
            calls.append("handle")
            if handler.rfile.readline() == b"raise\n":
                raise LookupError
        overrides = {name: recording(name) for name in hooks}
        overrides["handle_error"] = lambda self, *args: calls.append("handle_error")
        server = make_green(handle, base=base, **overrides)
        with serving(server):
            for text in (b"raise\n", b"fine\n"):
                client = connect(server, text)
                assert client.recv(1) == b""
                eventually(lambda: calls[-1] == "close_request")
                client.close()
        return calls

    assert run(green.GreenletTCPServer) == run(socketserver_fast.ThreadingTCPServer)


def test_request_refused_by_verify_request(make_green, serving, connect):
    server = make_green(verify_request=lambda *args: False)
    with serving(server):
        assert connect(server).recv(1) == b""
        assert connect(server).recv(1) == b""


@pytest.mark.parametrize("error", [LookupError("in the handler"), OSError(22, "in the handler")])
def test_error_in_one_handler_leaves_the_others_alone(
        make_green, serving, connect, capsys, error, receive):
    def handle(handler):
        if handler.rfile.readline() == b"raise\n":
            raise error
        handler.wfile.write(b"done")

    server = make_green(handle)
    with serving(server):
        waiting = connect(server)
        assert connect(server, b"raise\n").recv(1) == b""
        waiting.sendall(b"go on\n")
        assert receive(waiting, 4) == b"done"
    assert "in the handler" in capsys.readouterr().err


def test_error_that_leaves_handle_error_goes_to_the_excepthook(
        make_green, serving, connect, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))

    def handle(handler):
        if handler.rfile.readline() == b"raise\n":
            raise ZeroDivisionError

    def handle_error(self, request, client_address):
        raise LookupError from None

    server = make_green(handle, handle_error=handle_error)
    with serving(server):
        assert connect(server, b"raise\n").recv(1) == b""
        assert connect(server, b"fine\n").recv(1) == b""
    assert seen == [LookupError]


@pytest.mark.parametrize("error", ["SystemExit", "GreenletExit"])
def test_exits_end_only_their_handler(make_green, serving, connect, capsys, error, receive):
    import greenlet

    def handle(handler):
        if handler.rfile.readline() == b"raise\n":
            raise {"SystemExit": SystemExit, "GreenletExit": greenlet.GreenletExit}[error]
        handler.wfile.write(b"done")

    server = make_green(handle)
    with serving(server):
        assert connect(server, b"raise\n").recv(1) == b""
        assert receive(connect(server, b"fine\n"), 4) == b"done"
    assert capsys.readouterr().err == ""


def test_keyboard_interrupt_in_a_handler_leaves_serve_forever(
        make_green, connect, background, receive):
    def handle(handler):
        if handler.rfile.readline() == b"raise\n":
            raise KeyboardInterrupt
        handler.wfile.write(b"done")

    server = make_green(handle)
    outcome = []

    def serve():
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        outcome.append("left")
        waiting.sendall(b"fine\n")
        server.server_close()
        outcome.append(receive(waiting, 4))

    served = background(serve)
    waiting = connect(server)
    assert connect(server, b"raise\n").recv(1) == b""
    served.result(10)
    assert outcome == ["left", b"done"]


# Timeouts.

def test_timeout_of_the_handler_raises_timeout_error(make_green, serving, connect, background):
    seen = []

    class Handler(socketserver_fast.StreamRequestHandler):
        timeout = 0.05

        def handle(self):
            try:
                self.rfile.readline()
            except TimeoutError as error:
                seen.append(str(error))
                with pytest.raises(OSError, match="timed out object"):
                    self.rfile.readline()

    server = make_green(Handler)
    with serving(server):
        started = time.monotonic()
        clients = [connect(server, b"no line") for _ in range(50)]
        for client in clients:
            assert client.recv(1) == b""
        assert time.monotonic() - started >= 0.05
    assert seen == ["timed out"] * 50


def test_timeout_counts_for_the_whole_of_a_write(make_green, serving, connect, eventually):
    seen = []

    def handle(handler):
        handler.request.settimeout(0.1)
        try:
            handler.wfile.write(bytes(32 << 20))
        except TimeoutError as error:
            seen.append(str(error))

    server = make_green(handle)
    with serving(server):
        client = connect(server)
        eventually(lambda: seen)
        client.close()
    assert seen == ["timed out"]


def test_timeouts_end_in_the_order_of_their_deadlines(make_green, serving, connect):
    ended = []

    def handle(handler):
        seconds = float(handler.rfile.readline())
        handler.request.settimeout(seconds)
        with pytest.raises(TimeoutError):
            handler.request.recv(1)
        ended.append(seconds)

    server = make_green(handle)
    with serving(server):
        order = [0.5, 0.1, 0.4, 0.2, 0.3, 0.15, 0.35]
        clients = [connect(server, b"%.2f\n" % seconds) for seconds in order]
        for client in clients:
            assert client.recv(1) == b""
    assert ended == sorted(order)


def test_timeout_zero_does_not_wait(make_green, serving, connect, receive):
    def handle(handler):
        handler.request.setblocking(False)
        assert handler.request.gettimeout() == 0
        assert not handler.request.getblocking()
        with pytest.raises(BlockingIOError):
            handler.request.recv(1)
        assert handler.rfile.read(1) is None
        handler.request.setblocking(True)
        assert handler.request.timeout is None
        handler.wfile.write(b"done")

    server = make_green(handle)
    with serving(server):
        assert receive(connect(server), 4) == b"done"


# Ending.

def test_shutdown_from_a_handler(make_green, connect, background, receive):
    def handle(handler):
        handler.rfile.readline()
        handler.server.shutdown()
        handler.wfile.write(b"done")

    server = make_green(handle)
    served = background(server.serve_forever, None)
    assert receive(connect(server, b"stop\n"), 4) == b"done"
    served.result(10)


def test_shutdown_does_not_wait_for_requests_but_server_close_does(
        make_green, connect, background, receive):
    server = make_green()
    served = background(server.serve_forever)
    client = connect(server, b"one\n")
    assert receive(client, 4) == b"one\n"
    server.shutdown()
    closed = background(server.server_close)
    client.sendall(b"two\n")
    assert receive(client, 4) == b"two\n"
    assert not closed.done()
    client.close()
    closed.result(10)
    served.result(10)


def test_without_block_on_close_the_requests_are_ended(make_green, connect, background, receive):
    ended = []

    def handle(handler):
        try:
            handler.wfile.write(handler.rfile.readline())
            handler.rfile.readline()
        finally:
            green.sleep(0.01)  # cleaning up may wait
            ended.append(1)

    server = make_green(handle, block_on_close=False)
    served = background(server.serve_forever)
    clients = [connect(server, b"one\n") for _ in range(3)]
    for client in clients:
        assert receive(client, 4) == b"one\n"
    server.shutdown()
    for client in clients:
        assert client.recv(1) == b""
    served.result(10)
    assert len(ended) == 3


def test_serves_again_after_a_shutdown(make_green, serving, connect, receive):
    server = make_green()
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(server, b"line\n") as client:
            assert receive(client, 5) == b"line\n"
        server.shutdown()
        thread.join(10)
        assert not thread.is_alive()


def test_closing_the_listener_ends_serve_forever(make_green, connect, background, receive):
    server = make_green()
    served = background(server.serve_forever, None)
    with connect(server, b"line\n") as client:
        assert receive(client, 5) == b"line\n"
    server.server_close()
    served.result(10)


def test_service_actions_after_each_request_and_each_interval(
        make_green, serving, connect, eventually, receive):
    calls = []
    server = make_green(service_actions=lambda self: calls.append(1))
    with serving(server, 30):
        for _ in range(5):
            with connect(server, b"line\n") as client:
                assert receive(client, 5) == b"line\n"
        eventually(lambda: len(calls) == 5)
    calls.clear()
    server = make_green(service_actions=lambda self: calls.append(1))
    with serving(server, 0.01):
        eventually(lambda: len(calls) > 3)


def test_max_connections_leaves_the_rest_in_the_backlog(
        make_green, serving, connect, eventually, receive):
    server = make_green(max_connections=2)
    with serving(server):
        first, second, third = (connect(server, b"line\n") for _ in range(3))
        assert receive(first, 5) == receive(second, 5) == b"line\n"
        third.settimeout(0.1)
        with pytest.raises(TimeoutError):
            third.recv(1)
        assert server.requests_in_progress == 2
        first.close()
        third.settimeout(10)
        assert receive(third, 5) == b"line\n"
        second.close()
        third.close()


# Others.

def test_datagrams_are_not_held_up_by_a_handler_that_parks(make_green, serving, connect):
    def handle(handler):
        line = handler.rfile.read()
        if line == b"slow":
            green.sleep(0.2)
        handler.wfile.write(line)

    for base in (green.GreenletUDPServer, green.GreenletUnixDatagramServer):
        server = make_green(handle, base=base)
        with serving(server):
            slow, quick = connect(server, b"slow"), connect(server)
            for _ in range(5):
                quick.send(b"quick")
                assert quick.recv(100) == b"quick"
            assert slow.recv(100) == b"slow"


def test_flooding_client_does_not_starve_quiet_ones(make_green, serving, connect, receive):
    server = make_green()
    stop = threading.Event()
    with serving(server):
        flooding = connect(server)

        def flood():
            line = b"x" * 63 + b"\n"
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    flooding.sendall(line * 1000)

        def drain():
            with contextlib.suppress(OSError):
                while flooding.recv(1 << 20):
                    pass

        threads = [threading.Thread(target=flood), threading.Thread(target=drain)]
        for thread in threads:
            thread.start()
        quiet = [connect(server) for _ in range(20)]
        for _ in range(10):
            for client in quiet:
                client.sendall(b"quiet\n")
                assert receive(client, 6) == b"quiet\n"
        stop.set()
        threads[0].join(10)
        flooding.shutdown(socket.SHUT_RDWR)
        threads[1].join(10)
        for client in quiet:
            client.close()


def test_yield_after_many_operations_that_never_wait(make_green, serving, connect, receive):
    """A handler that always finds something to do lets the others have their turn."""
    turns, begun = [], []

    def handle(handler):
        mine = handler.rfile.readline()
        begun.append(mine)
        while len(begun) < 2:
            green.sleep(0.001)
        for _ in range(20_000):
            handler.wfile.write(b"x")
            if not turns or turns[-1] != mine:
                turns.append(mine)

    server = make_green(handle)
    with serving(server):
        clients = [connect(server, b"%d\n" % number) for number in range(2)]
        for client in clients:
            receive(client, 20_000)
    assert len(turns) > 4


def test_import_without_greenlet(tmp_path):
    (tmp_path / "greenlet.py").write_text("raise ImportError('none')")
    script = ("import sys, socketserver_fast; assert 'greenlet' not in sys.modules; "
              "socketserver_fast.GreenletTCPServer")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "ImportError" in run.stderr
    assert "pip install socketserver_fast[greenlet]" in run.stderr


def test_names_are_there_before_greenlet_is_imported():
    script = ("import sys, socketserver_fast\n"
              "assert 'GreenletTCPServer' in dir(socketserver_fast)\n"
              "assert 'greenlet' not in sys.modules\n"
              "from socketserver_fast import GreenletMixIn, GreenletTCPServer\n"
              "assert issubclass(GreenletTCPServer, GreenletMixIn)\n")
    subprocess.run([sys.executable, "-c", script], check=True)


def test_handle_request_without_serve_forever(make_green, connect, background, receive):
    def handle(handler):
        handler.wfile.write(handler.rfile.readline())

    server = make_green(handle, timeout=10)
    client = connect(server)
    served = background(server.handle_request)
    client.sendall(b"line\n")
    assert receive(client, 5) == b"line\n"
    served.result(10)


def test_context_variables_end_with_their_request(make_green, serving, connect, receive):
    """Though a greenlet handles one request after the other."""
    variable = contextvars.ContextVar("variable", default=b"none")

    def handle(handler):
        line = handler.rfile.readline()
        handler.wfile.write(variable.get())
        variable.set(line)

    with serving(make_green(handle)) as address:
        for _ in range(3):
            with socket.create_connection(address, 10) as client:
                client.sendall(b"line\n")
                assert receive(client, 4) == b"none"
                assert client.recv(1) == b""


def test_greenlets_end_with_serve_forever(make_green, serving, connect, receive):
    greenlets = set()

    def handle(handler):
        greenlets.add(weakref.ref(greenlet.getcurrent()))
        handler.wfile.write(handler.rfile.readline())

    server = make_green(handle)
    with serving(server):
        for count in (5, 5):
            clients = [connect(server) for _ in range(count)]
            for client in clients:
                client.sendall(b"line\n")
            for client in clients:
                assert receive(client, 5) == b"line\n"
                assert client.recv(1) == b""
        assert len(greenlets) < 10  # some did more than one
    gc.collect()
    assert not [one for one in greenlets if one() is not None]


def test_default_timeout_is_that_of_accepted_sockets(make_green, serving, connect, receive):
    def handle(handler):
        handler.wfile.write(b"%r" % handler.request.gettimeout())
        with pytest.raises(TimeoutError):
            handler.rfile.readline()
        handler.wfile.write(b"!")

    server = make_green(handle)
    with serving(server):
        socket.setdefaulttimeout(0.25)
        try:
            client = connect(server)
            assert receive(client, 5) == b"0.25!"
        finally:
            socket.setdefaulttimeout(None)
