"""serve_until_signal(), and signals while a server runs."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from socketserver_fast._serving.serving import serving_thread

pytestmark = [
    pytest.mark.parametrize("implementation", ["fast"], indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals to a process are POSIX")


def test_serve_until_signal_outside_of_the_main_thread(make_server, background):
    server = make_server("TCPServer")
    with pytest.raises(RuntimeError, match="main thread"):
        background(server.serve_until_signal).result(10)
    assert server.fileno() != -1


@posix
def test_serve_until_signal_restores_the_handlers(make_server, background, eventually):
    def own_handler(number, frame):
        raise AssertionError("not while the server has it")

    server = make_server("TCPServer")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, own_handler)
    try:
        def send():
            eventually(lambda: serving_thread(server) is not None)
            os.kill(os.getpid(), signal.SIGUSR1)

        sending = background(send)
        assert server.serve_until_signal(signal.SIGUSR1) == signal.SIGUSR1
        sending.result(10)
        assert signal.getsignal(signal.SIGUSR1) is own_handler
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert server.fileno() == -1
    finally:
        signal.signal(signal.SIGUSR1, before[signal.SIGUSR1])


def test_serve_until_signal_ended_by_another_thread(make_server, background, eventually):
    server = make_server("TCPServer")

    def stop():
        eventually(lambda: serving_thread(server) is not None)
        return server.shutdown()

    before = signal.getsignal(signal.SIGINT)
    stopping = background(stop)
    assert server.serve_until_signal() is None
    assert stopping.result(10) is True
    assert signal.getsignal(signal.SIGINT) is before
    assert server.fileno() == -1


@posix
def test_serve_until_signal_refuses_a_signal_that_cannot_be_handled(make_server):
    server = make_server("TCPServer")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="Invalid argument"):
        server.serve_until_signal(signal.SIGTERM, signal.SIGKILL)
    assert signal.getsignal(signal.SIGTERM) is before


def wakeup_fd():
    """Return what signal.set_wakeup_fd() was last called with."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


@pytest.fixture
def seen_while_serving(make_server, connect):
    """`seen_while_serving()`: the wake-up descriptor while serve_forever() runs in this thread."""

    def serve():
        seen = []
        server = make_server("TCPServer", handler=lambda self: seen.append(wakeup_fd()))
        connect(server)
        server.service_actions = lambda: vars(server).update(_BaseServer__shutdown_request=True)
        server.serve_forever()
        return seen[0]

    return serve


def test_signals_are_written_to_the_loop(seen_while_serving):
    """One that comes just before the loop waits would be noticed at the next wake-up only."""
    assert wakeup_fd() == -1
    assert seen_while_serving() != -1
    assert wakeup_fd() == -1


def test_wakeup_descriptor_of_the_program_stays(seen_while_serving):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        signal.set_wakeup_fd(near.fileno())
        try:
            assert seen_while_serving() == near.fileno()
            assert wakeup_fd() == near.fileno()
        finally:
            signal.set_wakeup_fd(-1)


UNTIL_SIGNAL = """
    import json, socketserver, sys, time

    kind, options = sys.argv[1], json.loads(sys.argv[2])

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            for line in self.rfile:
                self.wfile.write(line)

    class Server(getattr(socketserver, kind)):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        print(json.dumps(server.server_address), flush=True)
        print(repr(server.serve_until_signal(**options)), server.fileno(), flush=True)
"""
STREAM_CLASSES = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"]
if hasattr(os, "fork"):
    STREAM_CLASSES.append("ForkingTCPServer")
every_class = pytest.mark.parametrize("name", STREAM_CLASSES)


@pytest.fixture
def until_signal(python):
    """`until_signal("TCPServer", drain_timeout=1)`: a process in serve_until_signal(), and
    `connected()`, a client of it whose handler is running."""

    with contextlib.ExitStack() as stack:

        def start(name, **options):
            process = python(UNTIL_SIGNAL, name, json.dumps(options))
            address = tuple(json.loads(process.stdout.readline()))

            def connected():
                client = stack.enter_context(socket.create_connection(address, 10))
                assert client.recv(9) == b"hello\n"
                return client

            return process, connected

        yield start


FORKED = """
    import os, signal, socketserver, sys, warnings

    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            if self.server.forks:
                self.tell()
            elif os.fork() == 0:
                self.tell()
                os._exit(0)
            else:
                assert os.wait()[1] == signal.SIGTERM

        def tell(self):
            words = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
            self.wfile.write(f"{(*words, signal.set_wakeup_fd(-1))}\\n".encode())
            self.rfile.readline()
            os.kill(os.getpid(), signal.SIGTERM)

    class Server(getattr(socketserver, sys.argv[1])):
        forks = sys.argv[1].startswith("Forking")
        workers = 1

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_until_signal()
"""


@posix
@pytest.mark.parametrize("name", [*STREAM_CLASSES, "PreforkTCPServer", "GreenletTCPServer"])
def test_forked_child_has_the_signals_of_the_program(python, name):
    """Its parent's handlers would make it ignore the first SIGTERM."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    process = python(FORKED, name)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client, client.makefile("rb") as file:
        # Ctrl-C reaches the child as well, and is its parent's business.
        requests = name.startswith(("Forking", "Prefork"))
        interrupt = "Handlers.SIG_IGN" if requests else "built-in function default_int_handler"
        told = file.readline().decode()
        assert told.startswith("(<Handlers.SIG_DFL: 0>, ")
        assert interrupt in told
        assert told.endswith(", -1)\n")
        client.sendall(b"end\n")
        assert file.read() == b""
    process.terminate()
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


@posix
@every_class
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signal_finishes_requests(until_signal, name, number):
    process, connected = until_signal(name, drain_timeout=60)
    client = connected()
    process.send_signal(number)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    client.sendall(b"last\n")
    client.shutdown(socket.SHUT_WR)
    assert client.makefile("rb").read() == b"last\n"
    out, err = process.communicate(timeout=30)
    assert out == f"{int(number)} -1\n"
    assert process.returncode == 0
    assert err == ""


@posix
@every_class
def test_signal_and_a_request_that_does_not_end(until_signal, name):
    """A plain server's is in the main thread, where the signal's handler runs in between."""
    process, connected = until_signal(name, drain_timeout=0.1)
    client = connected()
    process.send_signal(signal.SIGTERM)
    assert client.recv(9) == b""
    out, err = process.communicate(timeout=30)
    assert out == f"{int(signal.SIGTERM)} -1\n"
    assert err.count("not finished in time") == 1
    assert process.returncode == 0


@posix
@every_class
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_second_signal_ends_at_once(until_signal, name, number):
    process, connected = until_signal(name, drain_timeout=None)
    client = connected()
    for _ in range(100):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            break
    client.close()  # a child goes on to its end, and has the pipes
    _, err = process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == -signal.SIGTERM
    else:
        assert process.returncode in (-signal.SIGINT, 1)
        assert "KeyboardInterrupt" in err


@posix
@every_class
def test_sigterm_under_load_answers_what_was_accepted(until_signal, name):
    """Each of eight clients connects anew until it is refused; each connection is answered.

    But for one that was made after the last look at the queue, before the listener was closed: it
    is reset. See _serving/loop.pyx for how many those are.
    """
    for _ in range(3):  # for a machine that lets the server wait just then
        failed = drained_under_load(*until_signal(name, drain_timeout=60))
        if len(failed) <= 2:
            return
    pytest.fail(f"{len(failed)} connections were reset")


def drained_under_load(process, connected):
    """Return the errors of the eight clients."""
    answered, failed, counter = [], [], itertools.count(1)

    def load():
        while True:
            try:
                client = connected()
            except ConnectionRefusedError:
                return
            except BaseException as error:
                failed.append(error)
                return
            with client:
                client.sendall(b"line\n")
                client.shutdown(socket.SHUT_WR)
                answered.append(client.makefile("rb").read())
            if next(counter) == 100:
                process.send_signal(signal.SIGTERM)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    out, err = process.communicate(timeout=30)
    assert [error for error in failed if not isinstance(error, ConnectionResetError)] == []
    assert len(answered) >= 100
    assert set(answered) == {b"line\n"}
    assert (out, err) == (f"{int(signal.SIGTERM)} -1\n", "")
    return failed


ENDED_BY_HANDLER = """
    import signal, socketserver, sys, threading

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"hello\\n")
            self.wfile.write(self.rfile.readline())

    def end(number, frame):
        try:
            getattr(server, sys.argv[2])()
        except RuntimeError as error:
            assert "another thread" in str(error)
            threading.Thread(target=getattr(server, sys.argv[2])).start()

    server = getattr(socketserver, sys.argv[1])(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, end)
    print(server.server_address[1], flush=True)
    server.serve_forever(None)
    server.server_close()
    print("closed", flush=True)
"""


@posix
@pytest.mark.parametrize("method", ["shutdown", "drain", "server_close"])
@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_ended_by_a_signals_handler_twice(python, name, method):
    """It runs in the serving thread, where shutdown() and drain() are refused."""
    process = python(ENDED_BY_HANDLER, name, method)
    address = "127.0.0.1", int(process.stdout.readline())
    with socket.create_connection(address, 10) as client:
        assert client.recv(9) == b"hello\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        client.sendall(b"last\n")
        assert client.makefile("rb").read() == b"last\n"
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("closed\n", "", 0)
