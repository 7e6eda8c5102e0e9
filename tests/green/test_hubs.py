"""More than one hub, servers in servers, Ctrl-C, and what a thread keeps for all its greenlets."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import sys
import threading
import time

import pytest

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)


def descriptors():
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


# One socket and two hubs.

@pytest.fixture
def two_hubs(make_green, serving, connect, receive):
    """`two_hubs(first, second)` calls each function in a greenlet of a server of its own: what they
    return, first to last. A function is called when the one before has begun."""
    @contextlib.contextmanager
    def run(*functions):
        results = {}
        with contextlib.ExitStack() as stack:
            clients = []
            for number, function in enumerate(functions):
                def handle(handler, number=number, function=function):
                    handler.wfile.write(b"x")
                    try:
                        results[number] = function()
                    except Exception as error:
                        results[number] = repr(error)

                server = make_green(handle)
                stack.enter_context(serving(server))
                clients.append(connect(server))
                assert receive(clients[-1], 1) == b"x"
            yield
            for client in clients:
                assert client.recv(1) == b""
        results["all"] = [results[number] for number in range(len(functions))]
        run.results = results["all"]

    return run


def test_reader_and_writer_of_one_socket_in_two_hubs(two_hubs, receive):
    ours, theirs = socket.socketpair()
    with green.cooperative(ours) as shared, theirs:
        theirs.settimeout(10)
        with two_hubs(lambda: shared.sendall(bytes(3_000_000)), lambda: shared.recv(5)):
            theirs.sendall(b"reply")
            assert receive(theirs, 3_000_000) == bytes(3_000_000)
    assert two_hubs.results == [None, b"reply"]


def test_two_hubs_read_one_socket_and_a_third_party_closes_it(two_hubs, eventually):
    ours, theirs = socket.socketpair()
    shared = green.cooperative(ours)
    with theirs, two_hubs(lambda: shared.recv(5), lambda: shared.recv(5)):
        time.sleep(0.05)  # until both wait
        shared.close()
    assert two_hubs.results == ["OSError(9, 'Bad file descriptor')"] * 2


def test_socket_that_timed_out_in_one_hub_and_is_used_in_another(two_hubs):
    ours, theirs = socket.socketpair()

    def receive_in_vain():
        shared.settimeout(0.02)
        return shared.recv(1)

    with green.cooperative(ours) as shared, theirs:
        with two_hubs(receive_in_vain, receive_in_vain):
            pass
    assert two_hubs.results == ["TimeoutError('timed out')"] * 2


def test_listener_that_two_hubs_accept_from(two_hubs):
    with green.cooperative(socket.create_server(("127.0.0.1", 0))) as listener:
        with two_hubs(*[lambda: listener.accept()[0].close() for _ in range(2)]):
            for _ in range(2):
                socket.create_connection(listener.getsockname()).close()
    assert two_hubs.results == [None, None]


# Servers in servers, and Ctrl-C.

NESTED = """
    import os, signal, socket, sys, threading
    import socketserver_fast

    class Inner(socketserver_fast.StreamRequestHandler):
        def handle(self):
            {inner}

    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            with socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Inner) as inner:
                threading.Timer(0.1, drive, [inner]).start()
                inner.serve_forever(None)
                print("inner ended")

    def drive(inner):
        clients.append(socket.create_connection(inner.server_address))
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    class Server(socketserver_fast.GreenletTCPServer):
        block_on_close = False

    clients = []
    server = Server(("127.0.0.1", 0), Handler)
    clients.append(socket.create_connection(server.server_address))
    try:
        server.serve_forever(None)
    except KeyboardInterrupt:
        print("interrupted")
    server.server_close()
    for client in clients:
        client.close()
    print(signal.set_wakeup_fd(-1))
"""


@pytest.mark.parametrize("inner", ["self.rfile.readline()", "pass"])
def test_interrupt_reaches_the_outermost_of_nested_servers(run_script, inner):
    output = run_script(NESTED.format(inner=inner)).splitlines()
    assert output[-2:] == ["interrupted", "-1"]


def test_interrupt_raised_by_a_handler_of_a_nested_server(run_script):
    output = run_script(NESTED.format(inner="raise KeyboardInterrupt")).splitlines()
    assert output[-2:] == ["interrupted", "-1"]


@pytest.mark.untraced(reason="what a signal's handler raises would be lost in the tracer")
@pytest.mark.parametrize("block_on_close", [True, False])
def test_interrupts_leave_no_descriptors(make_green, background, receive, block_on_close):
    def once():
        server = make_green(block_on_close=block_on_close)
        client = socket.socket()

        def drive():
            client.connect(server.server_address)
            client.sendall(b"line\n")
            assert receive(client, 5) == b"line\n"
            signal.raise_signal(signal.SIGINT)

        driven = background(drive)
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        driven.result(10)
        if block_on_close:
            client.close()
        server.server_close()
        client.close()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        once()
        before = descriptors()
        for _ in range(3):
            once()
        assert descriptors() <= before
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, handler)


def test_closed_while_a_drain_waits(make_green, connect, receive, background):
    """The connection of a request in progress is closed by another thread: the drain ends."""
    requests = []

    def handle(handler):
        requests.append(handler.request)
        handler.wfile.write(handler.rfile.readline())
        handler.rfile.readline()

    server = make_green(handle)
    served = background(server.serve_forever)
    client = connect(server, b"line\n")
    assert receive(client, 5) == b"line\n"
    drained = background(server.drain, 10)
    served_or_not = time.monotonic()
    requests[0].shutdown(socket.SHUT_RDWR)
    assert drained.result(10) is True
    assert time.monotonic() - served_or_not < 9
    served.result(10)


# Errors that get past everything.

@pytest.mark.parametrize("hook", ["handle_error", "excepthook", "both hooks"])
def test_hook_that_raises_ends_its_request_only(
        make_green, serving, connect, receive, monkeypatch, capsys, hook):
    def fail(*unused):
        raise OSError(28, "No space left on device")

    def handle(handler):
        if handler.rfile.readline() == b"raise\n":
            raise LookupError
        handler.wfile.write(b"fine")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_type))
    monkeypatch.setattr(threading, "excepthook", print if hook == "handle_error" else fail)
    if hook == "both hooks":
        monkeypatch.setattr(sys, "excepthook", fail)
    server = make_green(handle, handle_error=fail)
    with serving(server):
        for _ in range(3):
            assert connect(server, b"raise\n").recv(1) == b""
            assert receive(connect(server, b"line\n"), 4) == b"fine"
    assert seen == ([OSError] * 3 if hook == "both hooks" else [])


# What a thread keeps.

def test_asyncio_run_in_many_handlers_at_a_time(make_green, serving, connect, receive):
    def handle(handler):
        async def work():
            assert handler.rfile.readline() == b"line\n"  # parks
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            await asyncio.sleep(0.001)
            async for number in numbers():
                handler.wfile.write(b"%d" % number)
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
            handler.wfile.write(b"done")

        async def numbers():
            for number in range(3):
                assert sys.get_asyncgen_hooks().finalizer is not None
                yield number
                handler.request.sendall(b"-")
                green.sleep(0.001)

        asyncio.run(work())
        assert sys.get_asyncgen_hooks().finalizer is None
        assert asyncio._get_running_loop() is None

    server = make_green(handle)
    with serving(server):
        clients = [connect(server) for _ in range(20)]
        for client in reversed(clients):
            client.sendall(b"line\n")
        for client in clients:
            assert receive(client, 10) == b"0-1-2-done"


def test_greenlets_do_not_see_the_loop_that_serves(make_green, connect, receive, background):
    """serve_forever() in a coroutine: its handlers are outside of the loop."""
    seen = []

    def handle(handler):
        seen.append(asyncio._get_running_loop())
        handler.wfile.write(handler.rfile.readline())
        handler.server.shutdown()

    server = make_green(handle)

    async def serve():
        server.serve_forever()
        return asyncio.get_running_loop() is not None

    served = background(asyncio.run, serve())
    assert receive(connect(server, b"line\n"), 5) == b"line\n"
    assert served.result(10)
    assert seen == [None]


@pytest.mark.untraced(reason="it traces itself")
@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_tracer_set_while_serving_sees_later_requests(
        make_green, serving, connect, receive, kind):
    def handle(handler):
        handler.wfile.write(handler.rfile.readline())

    def trace(frame, event, argument):
        if frame.f_code is handle.__code__ and event == "call":
            seen.append(event)

    seen = []
    server = make_green(handle)
    with serving(server):
        for function, count in ((None, 0), (trace, 2), (None, 2)):
            getattr(threading, f"set{kind}")(function)
            try:
                for _ in range(2):
                    assert receive(connect(server, b"line\n"), 5) == b"line\n"
            finally:
                getattr(threading, f"set{kind}")(None)
            assert len(seen) == count


# Times.

@pytest.mark.parametrize("value", [
    float("nan"), float("inf"), -float("inf"), 1e308, 9.3e9, -1, -0.5, "1.5", b"1", None, 1j, [],
    1 << 70, True, 0, -0.0, 1e-300])
def test_sleep_raises_what_time_sleep_raises(make_green, serving, connect, value):
    def outcome(sleep):
        try:
            return sleep(value)
        except Exception as error:
            return type(error), str(error)

    seen = []
    server = make_green(lambda handler: seen.append(outcome(green.sleep)))
    with serving(server):
        assert connect(server).recv(1) == b""
    right = (None if value is True else outcome(time.sleep))
    assert seen == [right]
    assert value is True or outcome(green.sleep) == right


@pytest.mark.parametrize("value", [
    float("nan"), float("inf"), 1e308, "1.5", b"1", 1j])
def test_poll_interval_raises_what_selectors_raises(make_green, value):
    import socketserver

    handler = socketserver.BaseRequestHandler
    with (socketserver.TCPServer(("127.0.0.1", 0), handler) as server,
          pytest.raises((ValueError, OverflowError, TypeError)) as right):
        server.serve_forever(value)
    with make_green(handler) as server, pytest.raises(right.type) as caught:
        server.serve_forever(value)
    assert caught.type is right.type


def test_run_in_thread_takes_keywords(make_green, serving, connect, receive):
    def handle(handler):
        handler.wfile.write(green.run_in_thread(int, "ff", base=16).to_bytes(1, "big"))

    server = make_green(handle)
    with serving(server):
        assert receive(connect(server), 1) == b"\xff"
    assert green.run_in_thread(int, "ff", base=16) == 255


def test_only_gevent_and_eventlet_are_refused(run_script):
    output = run_script("""
        import socket, threading

        class Counted(socket.socket):
            pass

        plain, socket.socket = socket.socket, Counted
        import socketserver_fast
        from socketserver_fast import green

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())

        server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"line\\n")
            print(client.recv(10))
        server.shutdown()
        server.server_close()
        thread.join()
        for name in ("gevent._socket3", "eventlet.greenio.base"):
            Counted.__module__ = name
            try:
                server.serve_forever()
            except RuntimeError as error:
                print(str(error).split()[0])
    """)
    assert output.splitlines() == ["b'line\\n'", "gevent", "eventlet"]


def test_asyncio_imported_while_as_many_modules_leave(run_script):
    run_script("""
        import socket, sys, threading, types
        import socketserver_fast
        assert "asyncio" not in sys.modules

        fillers = [f"filler{number}" for number in range(1000)]
        sys.modules.update((name, types.ModuleType(name)) for name in fillers)

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.rfile.readline()
                before = len(sys.modules)
                import asyncio

                async def work():
                    while len(sys.modules) > before:
                        del sys.modules[fillers.pop()]
                    self.wfile.write(b"inside\\n")
                    self.wfile.write(self.rfile.readline())

                asyncio.run(work())

        with socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            clients = [socket.create_connection(server.server_address, 10) for _ in range(3)]
            for text, answer in (b"begin\\n", b"inside\\n"), (b"line\\n", b"line\\n"):
                for client in clients:
                    client.sendall(text)
                assert [client.recv(9) for client in clients] == [answer] * 3
            server.shutdown()
            thread.join()
    """)


def test_interrupt_while_all_handlers_are_ended(make_green, connect, background, eventually):
    def handle(self):
        try:
            inside.append(1)
            self.rfile.readline()
        finally:
            ended.append(1)
            raise KeyboardInterrupt

    inside, ended = [], []
    server = make_green(handle, block_on_close=False)
    running = background(server.serve_forever)
    clients = [connect(server) for _ in range(5)]
    eventually(lambda: len(inside) == 5)
    server.shutdown()
    with pytest.raises(KeyboardInterrupt):
        running.result(10)
    assert len(ended) == 5
    for client in clients:
        client.close()


def test_listener_replaced_when_a_client_has_just_woken_the_server(make_green, serving, connect,
                                                                   receive):
    """The new one has the old one's number and no client: accept() would block the hub."""

    def handle(self):
        if self.client_address == "of the one to replace it":
            replace_listener()
        for line in self.rfile:
            if line == b"replace\n":  # the other request has its turn next, and then the server
                connect(server)
                server.process_request(ours, "of the one to replace it")
            self.wfile.write(line)

    def replace_listener():
        number = server.fileno()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server.socket.close()
            os.dup2(listener.fileno(), number)
        server.socket = socket.socket(fileno=number)

    server = make_green(handle, block_on_close=False)
    ours, theirs = socket.socketpair()
    with theirs, serving(server):
        client = connect(server, b"replace\n")
        assert receive(client, 8) == b"replace\n"
        for one in theirs, client:
            one.sendall(b"line\n")
            assert receive(one, 5) == b"line\n"
        with socket.create_connection(server.socket.getsockname(), 10) as visitor:
            visitor.sendall(b"line\n")
            assert receive(visitor, 5) == b"line\n"
