"""Greenlet servers survive bad clients, bad handlers and bad luck."""

import contextlib
import ctypes
import gc
import logging
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)

RESET = b"\x01\0\0\0\0\0\0\0"  # struct linger: close() resets the connection


def handle_everything(handler):
    """Uses every way of reading and writing."""
    handler.wfile.write(handler.rfile.readline())
    handler.wfile.write(handler.rfile.read(6))
    handler.wfile.write(bytes(1 << 20))
    handler.rfile.read()


@pytest.mark.parametrize("sent", [b"", b"li", b"line\n", b"line\nab", b"line\nabcdef"])
@pytest.mark.parametrize("how", ["close", "reset", "half", "half_and_reset"])
def test_client_that_vanishes(make_green, serving, connect, eventually, receive, capsys, sent, how):
    server = make_green(handle_everything)
    with serving(server):
        for _ in range(5):
            client = connect(server, sent)
            if how.startswith("half"):
                client.shutdown(socket.SHUT_WR)
            if how.endswith("reset"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            if how == "half":
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(1 << 16):
                        pass
            client.close()
        eventually(lambda: server.requests_in_progress == 0)
        good = connect(server, b"line\nabcdef")
        assert receive(good, 11 + (1 << 20)).startswith(b"line\nabcdef")
        good.close()
    errors = set(re.findall(r"^(\w+)(?::|$)", capsys.readouterr().err, re.MULTILINE))
    assert errors <= {"ConnectionResetError", "BrokenPipeError"}


def test_client_that_sends_a_line_and_hangs_up_before_it_is_read(make_green, serving, connect):
    """The one event that says both must not make the handler wait for a second one."""
    lines = []

    def handle(handler):
        lines.append(handler.rfile.readline())  # registered while it waits
        green.sleep(0.05)  # the rest and the end come meanwhile
        lines.extend(handler.rfile.readline() for _ in range(2))
        lines.append(handler.request.recv(1))

    server = make_green(handle)
    with serving(server):
        client = connect(server)
        time.sleep(0.01)
        client.sendall(b"one\n")
        client.sendall(b"two\n")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert lines == [b"one\n", b"two\n", b"", b""]


def test_slow_clients_beside_good_ones(make_green, serving, connect, receive):
    server = make_green()
    with serving(server):
        slow = [connect(server) for _ in range(200)]
        good = [connect(server) for _ in range(20)]
        for _ in range(30):
            for client in slow:
                client.send(b"x")
            for client in good:
                client.sendall(b"line\n")
            for client in good:
                assert receive(client, 5) == b"line\n"
        for client in slow:
            client.sendall(b"\n")
            assert receive(client, 31) == b"x" * 30 + b"\n"
        for client in slow + good:
            client.close()


def test_ten_thousand_idle_connections(make_green, serving, connect, receive):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10000, (hard if hard != resource.RLIM_INFINITY else 1 << 20) // 2 - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * count + 400)), hard))
    server = make_green(request_queue_size=4096)
    try:
        with serving(server):
            clients = []
            for number in range(count):
                client = socket.socket()
                client.bind((f"127.0.0.{2 + number % 50}", 0))
                client.connect(server.server_address)
                client.settimeout(20)
                client.sendall(b"line\n")
                clients.append(client)
            for client in clients:
                assert receive(client, 5) == b"line\n"
            for client in clients[::97]:
                client.sendall(b"again\n")
                assert receive(client, 6) == b"again\n"
            assert server.requests_in_progress == count
            for client in clients:
                client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert count > 1000


def test_many_connections_leave_nothing_behind(tmp_path, receive):
    (tmp_path / "server.py").write_text(textwrap.dedent("""
        import gc, resource, sys
        import socketserver_fast

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.cycle = self
                for line in self.rfile:
                    if line == b"memory\\n":
                        gc.collect()
                        with open("/proc/self/statm") as file:
                            pages = int(file.read().split()[1])
                        line = b"%d %d\\n" % (pages * resource.getpagesize(),
                                             sys.getallocatedblocks())
                    self.wfile.write(line)

        class Server(socketserver_fast.GreenletTCPServer):
            request_queue_size = 100

        server = Server(("127.0.0.1", 0), Handler)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    """))
    command = [sys.executable, str(tmp_path / "server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        address = "127.0.0.1", int(program.stdout.readline())

        def ask(number, line):
            with socket.socket() as client:
                client.bind((f"127.0.0.{2 + number % 50}", 0))
                client.connect(address)
                client.sendall(line)
                if number % 3 == 0:
                    assert receive(client, len(line)) == line
                    client.sendall(line)
                return client.recv(100)

        try:
            memory = []
            for count in (2000, 18000):
                for number in range(count):
                    assert ask(number, b"line\n") == b"line\n"
                memory.append([int(word) for word in ask(1, b"memory\n").split()])
        finally:
            program.kill()
    (resident, blocks), (resident_after, blocks_after) = memory
    assert resident_after - resident < 2 << 20
    assert blocks_after - blocks < 1000


def test_out_of_descriptors_rests_and_recovers(run_script):
    output = run_script("""
        import logging, os, resource, socket, threading, time
        import socketserver_fast
        logging.basicConfig(format="%(message)s", stream=__import__("sys").stdout)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(line)

        server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        first = socket.create_connection(server.server_address)
        first.sendall(b"line\\n")
        assert first.recv(10) == b"line\\n"
        second = socket.socket()
        hoard = []
        try:
            while True:
                hoard.append(os.dup(0))
        except OSError:
            pass
        second.connect(server.server_address)
        second.sendall(b"line\\n")
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.15  # it does not spin
        first.sendall(b"line\\n")
        assert first.recv(10) == b"line\\n"         # and serves who is there
        for fd in hoard:
            os.close(fd)
        assert second.recv(10) == b"line\\n"
        first.close()
        second.close()
        server.shutdown()
        server.server_close()
        thread.join()
    """)
    assert output.count("cannot accept connections") == 1


def test_interrupt_from_the_keyboard_while_all_wait(run_script):
    output = run_script("""
        import os, signal, socket, threading
        import socketserver_fast

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
                self.wfile.write(self.rfile.readline())

        server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
        client = socket.create_connection(server.server_address)
        client.sendall(b"one\\n")
        try:
            server.serve_forever(None)
        except KeyboardInterrupt:
            print("interrupted")
        client.sendall(b"two\\n")
        server.server_close()
        print(client.recv(100))
        client.close()
    """)
    assert output == "interrupted\nb'one\\ntwo\\n'\n"


def test_fork_in_a_handler(run_script):
    """The child serves its request on its own, blocking; the parent's hub is not its business."""
    run_script("""
        import os, socket, threading, warnings
        import socketserver_fast
        from socketserver_fast import green
        warnings.simplefilter("ignore", DeprecationWarning)  # the test's own threads

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                if self.rfile.readline() == b"fork\\n":
                    child = os.fork()
                    if child == 0:
                        self.wfile.write(self.rfile.readline())
                        os._exit(0)
                    assert green.run_in_thread(os.waitpid, child, 0) == (child, 0)
                else:
                    self.wfile.write(self.rfile.readline())

        server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        other = socket.create_connection(server.server_address)
        other.sendall(b"stay\\n")
        client = socket.create_connection(server.server_address)
        client.settimeout(10)
        client.sendall(b"fork\\n")
        client.sendall(b"child\\n")
        assert client.recv(100) == b"child\\n"
        other.sendall(b"parent\\n")
        assert other.recv(100) == b"parent\\n"
        server.shutdown()
        client.close()
        other.close()
        server.server_close()
        thread.join()
    """)


def test_nested_servers_share_the_hub(make_green, serving, connect, receive):
    inner = make_green()

    def handle(handler):
        command = handler.rfile.readline()
        if command == b"serve\n":
            inner.serve_forever()
        elif command == b"stop\n":
            inner.shutdown()
        handler.wfile.write(command)

    outer = make_green(handle)
    with serving(outer):
        serving_inner = connect(outer, b"serve\n")
        first, second = connect(inner, b"inner\n"), connect(outer, b"outer\n")
        assert receive(first, 6) == b"inner\n"
        assert receive(second, 6) == b"outer\n"
        first.close()
        assert receive(connect(outer, b"stop\n"), 5) == b"stop\n"
        assert receive(serving_inner, 6) == b"serve\n"


def test_greenlet_of_one_hub_resumed_in_another_thread(make_green, serving, connect, background,
                                                       eventually, receive):
    import greenlet

    parked = []

    def handle(handler):
        parked.append(greenlet.getcurrent())
        handler.wfile.write(handler.rfile.readline())

    server = make_green(handle)
    with serving(server):
        client = connect(server)
        eventually(lambda: parked)
        with pytest.raises(greenlet.error):
            parked[0].switch()
        client.sendall(b"fine\n")
        assert receive(client, 5) == b"fine\n"


def test_raw_greenlets_in_a_handler_park_too(make_green, serving, connect, receive):
    import greenlet

    def handle(handler):
        lines = []
        child = greenlet.greenlet(lambda: lines.append(handler.rfile.readline()))
        child.switch()
        handler.wfile.write(lines[0])

    server = make_green(handle)
    with serving(server):
        clients = [connect(server) for _ in range(5)]
        for client in clients:
            client.sendall(b"line\n")
            assert receive(client, 5) == b"line\n"


def test_greenlet_exit_thrown_into_a_parked_handler(make_green, serving, connect, receive):
    import greenlet

    parked, ended = [], []

    def handle(handler):
        if handler.rfile.readline() == b"end\n":
            handler.server._close_requests()
            return
        parked.append(greenlet.getcurrent())
        try:
            green.sleep(60)
        finally:
            ended.append(sys.exc_info()[0])

    server = make_green(handle)
    with serving(server):
        sleeping = connect(server, b"sleep\n")
        while not parked:
            time.sleep(0.001)
        assert connect(server, b"end\n").recv(1) == b""
        assert sleeping.recv(1) == b""
    assert ended == [greenlet.GreenletExit]


def test_deep_recursion_in_many_handlers(make_green, serving, connect, receive):
    def deep(handler, depth):
        if depth:
            return deep(handler, depth - 1)
        return handler.rfile.readline()

    server = make_green(lambda handler: handler.wfile.write(deep(handler, 300)))
    with serving(server):
        clients = [connect(server) for _ in range(100)]
        for client in clients:
            client.sendall(b"line\n")
        for client in clients:
            assert receive(client, 5) == b"line\n"


def test_handler_that_holds_up_the_others_is_logged_once(make_green, serving, connect, caplog):
    def handle(handler):
        handler.rfile.readline()
        time.sleep(0.3)  # the offending line

    server = make_green(handle, blocking_threshold=0.1)
    with caplog.at_level(logging.WARNING, "socketserver_fast"), serving(server):
        for _ in range(2):
            assert connect(server, b"line\n").recv(1) == b""
    # A slow machine may hold up the others at any line.
    assert caplog.text.count("the offending line") == 1


def test_waiting_is_not_holding_up(make_green, serving, connect, caplog):
    server = make_green(lambda handler: green.sleep(0.3), blocking_threshold=0.05)
    with caplog.at_level(logging.WARNING, "socketserver_fast"), serving(server):
        assert connect(server).recv(1) == b""
    assert not caplog.records


def test_without_a_threshold_there_is_no_watch(make_green, serving, connect, receive):
    server = make_green(blocking_threshold=None)
    with serving(server):
        with connect(server, b"line\n") as client:
            assert receive(client, 5) == b"line\n"
        assert not [t for t in threading.enumerate() if "watch" in t.name]
    with pytest.raises(ValueError, match="blocking_threshold"):
        make_green(blocking_threshold=0).serve_forever()


def test_program_with_replaced_sockets_is_refused(make_green, monkeypatch, run_script):
    class Replaced(socket.socket):
        __module__ = "gevent._socket3"

    server = make_green()
    monkeypatch.setattr(socket, "socket", Replaced)
    with pytest.raises(RuntimeError, match="gevent has replaced"):
        server.serve_forever()
    monkeypatch.undo()
    output = run_script("""
        import socket
        class Replaced(socket.socket):
            __module__ = "gevent._socket3"
        socket.socket = Replaced
        try:
            import socketserver_fast.green
        except RuntimeError as error:
            print(error)
    """)
    assert "ThreadingTCPServer" in output


def test_waiting_for_requests_and_closing_them_from_another_thread(make_green, connect, receive,
                                                                   background):
    server = make_green()
    served = background(server.serve_forever)
    client = connect(server, b"line\n")
    assert receive(client, 5) == b"line\n"
    server.shutdown()
    assert server.requests_in_progress == 1
    assert not server._wait_for_requests(time.monotonic() + 0.02)
    server._close_requests()
    assert server._wait_for_requests(time.monotonic() + 10)
    assert server.requests_in_progress == 0
    assert client.recv(1) == b""
    served.result(10)


@pytest.mark.untraced(reason="what a signal's handler raises would be lost in the tracer")
def test_signals_while_waiting(make_green, background, eventually):
    """A handler of a signal runs soon, and what it raises leaves serve_forever."""
    server = make_green()
    seen = []

    def on_signal(number, frame):
        seen.append(number)
        if len(seen) == 3:
            raise LookupError

    def send():  # one after the other: two that wait would be one
        for count in (1, 2, 3):
            time.sleep(0.03)
            os.kill(os.getpid(), signal.SIGUSR1)
            eventually(lambda count=count: len(seen) == count)

    old = signal.signal(signal.SIGUSR1, on_signal)
    try:
        sent = background(send)
        with pytest.raises(LookupError):
            server.serve_forever(None)
        sent.result(10)
    finally:
        signal.signal(signal.SIGUSR1, old)
    gc.collect()


@pytest.mark.untraced(reason="what a signal's handler raises would be lost in the tracer")
def test_data_that_comes_with_a_signal_is_not_lost(make_green, background):
    """The poller reports both at once, and what the signal's handler raises leaves serve_forever():
    server_close() still answers."""
    server = make_green()
    send = ctypes.PyDLL(None).send  # keeps the GIL, so that the hub sees both

    def fail(number, frame):
        raise LookupError

    def drive():
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"one\n")
            assert client.recv(9) == b"one\n"
            time.sleep(0.3)  # until the hub waits, and its watch, too
            assert send(client.fileno(), b"two\n", 4, 0) == 4
            signal.raise_signal(signal.SIGUSR1)
            return client.recv(9)

    old = signal.signal(signal.SIGUSR1, fail)
    try:
        driven = background(drive)
        with pytest.raises(LookupError):
            server.serve_forever(None)
    finally:
        signal.signal(signal.SIGUSR1, old)
    server.server_close()
    assert driven.result(10) == b"two\n"


@pytest.mark.untraced(reason="what a signal's handler raises would be lost in the tracer")
@pytest.mark.parametrize("block_on_close", [True, False])
def test_interrupted_while_it_drains(make_green, connect, receive, background, block_on_close):
    """Its requests go on in server_close() or, without block_on_close, end at once."""
    ended = []

    def handle(handler):
        try:
            for line in handler.rfile:
                handler.wfile.write(line)
        finally:
            ended.append(sys.exc_info()[0])

    def drive():
        client = connect(server, b"one\n")
        assert receive(client, 4) == b"one\n"
        drained = background(server.drain, 10)
        time.sleep(0.05)  # until serve_forever() waits for the request
        signal.raise_signal(signal.SIGUSR1)
        client.sendall(b"two\n")
        answer = client.recv(9)
        client.close()
        assert drained.result(10) is True
        return answer

    def interrupt(number, frame):
        raise KeyboardInterrupt

    server = make_green(handle, block_on_close=block_on_close)
    old = signal.signal(signal.SIGUSR1, interrupt)
    try:
        driven = background(drive)
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever(None)
    finally:
        signal.signal(signal.SIGUSR1, old)
    server.server_close()
    if block_on_close:
        assert driven.result(10) == b"two\n"
        assert ended == [None]
    else:
        driven.exception(10)  # its connection was closed, perhaps with unread data
        assert [kind.__name__ for kind in ended] == ["GreenletExit"]
    assert server.requests_in_progress == 0


def test_serving_again_and_again_keeps_no_descriptors(make_green, serving, connect, receive):
    def serve_once():
        server = make_green()
        with serving(server), connect(server, b"line\n") as client:
            assert receive(client, 5) == b"line\n"

    serve_once()
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        serve_once()
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) <= before + 1


# A clean end; what is the same for every server is in test_ending.py and its like.

def test_drain_finishes_what_is_in_progress_and_in_the_queue(make_green, connect, receive,
                                                              background, eventually):
    server = make_green(max_connections=1)
    served = background(server.serve_forever)
    first = connect(server, b"line\n")
    assert receive(first, 5) == b"line\n"
    queued = connect(server, b"queued\n")
    drained = background(server.drain, 10)
    assert receive(queued, 7) == b"queued\n"
    first.sendall(b"more\n")
    assert receive(first, 5) == b"more\n"
    first.close()
    queued.close()
    assert drained.result(10) is True
    served.result(10)
    assert server.requests_in_progress == 0


def test_drain_closes_what_is_left_at_the_deadline(make_green, connect, receive, background,
                                                   caplog):
    ended = []

    def handle(handler):
        handler.wfile.write(b"x")
        try:
            green.sleep(60)  # not woken by the end of its connection
        finally:
            ended.append(1)

    server = make_green(handle)
    served = background(server.serve_forever)
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        assert receive(client, 1) == b"x"
    assert server.drain(0.05) is False
    served.result(10)
    assert ended == [1, 1, 1]
    assert server.requests_in_progress == 0


def test_drain_in_a_handler_says_what_to_do(make_green, serving, connect):
    seen = []

    def handle(handler):
        with pytest.raises(RuntimeError, match="another thread"):
            handler.server.drain()
        seen.append(1)

    server = make_green(handle)
    with serving(server):
        assert connect(server).recv(1) == b""
    assert seen


def test_serve_until_signal(run_script):
    output = run_script("""
        import os, signal, socket, threading
        import socketserver_fast

        class Handler(socketserver_fast.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())
                os.kill(os.getpid(), signal.SIGTERM)
                self.wfile.write(self.rfile.readline())

        server = socketserver_fast.GreenletTCPServer(("127.0.0.1", 0), Handler)
        client = socket.create_connection(server.server_address)
        client.sendall(b"one\\n")
        threading.Timer(0.2, client.sendall, (b"two\\n",)).start()
        assert server.serve_until_signal() == signal.SIGTERM
        print(client.recv(100))
        client.close()
    """)
    assert output == "b'one\\ntwo\\n'\n"
