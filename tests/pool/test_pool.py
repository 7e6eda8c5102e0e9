"""ThreadPoolMixIn, as a class and put into the stdlib's ThreadingMixIn by patch(threads="pool")."""

import contextlib
import contextvars
import functools
import os
import socket
import socketserver as stdlib
import struct
import sys
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait


@pytest.fixture(params=["class", "patched"])
def socketserver(request):
    """The module under test, where `mixin` has the workers."""
    if request.param == "class":
        yield socketserver_fast
    else:
        socketserver_fast.patch(threads="pool", max_workers=8)
        yield stdlib
        socketserver_fast.unpatch()


@pytest.fixture
def pooled(make_server, socketserver):
    """`pooled(handler=handle, max_workers=2)`: a TCP server with a pool."""
    mixin = "ThreadingMixIn" if socketserver is stdlib else "ThreadPoolMixIn"
    return functools.partial(make_server, mixin, "TCPServer", daemon_threads=True)


class Gate:
    """A handler that says that it runs, and stays until told to leave."""

    def __init__(self):
        self.inside, self.leave = threading.Semaphore(0), threading.Event()
        self.names, self.threads = [], set()

    def handle(self, handler):
        self.names.append(threading.current_thread().name)
        self.threads.add(threading.current_thread())
        self.inside.release()
        assert self.leave.wait(20)
        handler.wfile.write(b"left")

    def entered(self, count=1):
        return all(self.inside.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.leave.set()


WAYS = {
    "workers accept": {},
    "serving thread accepts": {"verify_request": lambda self, request, client_address: True},
}


@pytest.fixture(params=WAYS)
def way(request):
    """Attributes of a server whose pool goes either of its two ways."""
    return WAYS[request.param]


def echo(handler):
    for line in handler.rfile:
        handler.wfile.write(line)


def ask(connect, server, text=b"line\n"):
    """Return what a client gets that sends this and then nothing more."""
    with connect(server, text) as client:
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()


def visit(connect, server):
    """Return what a client gets that sends nothing."""
    with connect(server) as client:
        return client.makefile("rb").read()


def workers(server):
    return [t for t in threading.enumerate() if getattr(t, "_server", None) is server]


# Requests.


def test_answers_one_after_the_other(pooled, connect, serving, way):
    with serving(server := pooled(handler=echo, **way)):
        for number in range(100):
            assert ask(connect, server, b"%d\n" % number) == b"%d\n" % number


def test_at_most_max_workers_at_once(pooled, connect, serving, gate, way):
    with serving(server := pooled(handler=lambda h: gate.handle(h), max_workers=3, **way)):
        clients = [connect(server) for _ in range(5)]
        assert gate.entered(3)
        assert not gate.inside.acquire(timeout=0.05)
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5
    assert len(gate.threads) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the length of the queue")
def test_nothing_accepted_that_is_not_served(pooled, connect, serving, gate, way):
    """tcpi_unacked of a listener is the number of connections that wait for accept()."""
    with serving(server := pooled(handler=lambda h: gate.handle(h), max_workers=2, **way)):
        clients = [connect(server) for _ in range(2)]
        assert gate.entered(2)
        clients += [connect(server) for _ in range(3)]
        assert not gate.inside.acquire(timeout=0.05)
        info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[24:28], sys.byteorder) == 3
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5


def test_max_workers_raised_while_serving(pooled, connect, serving, gate, way):
    with serving(server := pooled(handler=lambda h: gate.handle(h), max_workers=1, **way)):
        first, second = connect(server), connect(server)
        assert gate.entered()
        server.max_workers = 2
        gate.leave.set()
        assert first.recv(9) == second.recv(9) == b"left"


@pytest.mark.parametrize("kind", ["UDPServer", "UnixStreamServer", "UnixDatagramServer"])
def test_other_kinds_of_sockets(pooled, make_server, socketserver, connect, serving, kind, way):
    if not hasattr(socketserver, kind):
        pytest.skip("no Unix sockets")
    mixin = pooled.args[0]
    handler = {"handle": lambda self: self.wfile.write(self.rfile.readline())}
    with serving(server := make_server(mixin, kind, handler=handler, **way)):
        for text in [b"one\n", b"two\n", b"three\n"]:
            assert connect(server, text).recv(99) == text
        assert len(workers(server)) >= 1


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no such sockets")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has the name only")
def test_sequenced_packets(make_server, socketserver, connect, background, pooled, way):
    """They come by connections, as streams do."""
    server = make_server(pooled.args[0], "UnixStreamServer", handler=echo,
                         socket_type=socket.SOCK_SEQPACKET, **way)
    serving = background(server.serve_forever)
    for text in [b"one\n", b"two\n"]:
        with connect(server, text) as client:
            assert client.recv(99) == text
    server.shutdown()
    serving.result(10)
    assert os.get_blocking(server.fileno())


@pytest.mark.parametrize("size", [100, 8192, 20000])
def test_sizes_of_packets(make_server, connect, serving, pooled, size):
    def handle(self):
        self.wfile.write(b"%d" % len(self.packet))

    server = make_server(pooled.args[0], "UDPServer", handler=handle, max_packet_size=size)
    with serving(server):
        for sent in [0, size - 1, size, size + 1]:
            client = connect(server)
            client.send(b"x" * sent)
            assert client.recv(9) == b"%d" % min(sent, size)


def test_packets_in_parallel(make_server, connect, serving, pooled):
    """Each of the handlers waits for the other."""
    barrier = threading.Barrier(2)

    def handle(self):
        barrier.wait(10)
        self.wfile.write(self.rfile.read())

    with serving(server := make_server(pooled.args[0], "UDPServer", handler=handle)):
        clients = [connect(server, b"packet") for _ in range(2)]
        assert [client.recv(9) for client in clients] == [b"packet"] * 2


def test_handle_request_without_serve_forever(pooled, connect, eventually):
    server = pooled(handler=echo)
    client = connect(server, b"by hand\n")
    server.handle_request()
    assert client.recv(99) == b"by hand\n"
    client.close()
    eventually(lambda: not workers(server))


def test_process_request_by_hand_wakes_the_only_worker(pooled, connect, serving):
    server = pooled(handler=lambda self: self.wfile.write(b"handed over"), max_workers=1)
    with serving(server):
        assert visit(connect, server) == b"handed over"
        assert len(workers(server)) == 1
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(10)
            server.process_request(far, "nobody")
            assert near.makefile("rb").read() == b"handed over"


def test_interrupted_when_a_worker_has_started(pooled, monkeypatch, eventually):
    """A signal that comes then leaves by an exception; the worker goes on, and is waited for."""

    def start(self):
        original(self)
        if "-worker-" in self.name:
            raise KeyboardInterrupt

    original = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    server = pooled(handler=lambda self: self.wfile.write(b"served"))
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(10)
        with pytest.raises(KeyboardInterrupt):
            server.process_request(far, "nobody")
        assert near.makefile("rb").read() == b"served"
    server.server_close()
    eventually(lambda: workers(server) == [])


def test_exception_goes_to_handle_error(pooled, connect, serving, capfd, way):
    def handle(self):
        raise MemoryError("full")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            assert visit(connect, server) == b""
    assert capfd.readouterr().err.count("MemoryError: full") == 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_worker_that_dies_is_replaced(
        pooled, connect, serving, eventually, monkeypatch, error, way):
    def handle(self):
        if self.rfile.readline() == b"die\n":
            raise error
        self.wfile.write(b"alive")

    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args))
    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            assert ask(connect, server, b"die\n") == b""
            assert ask(connect, server, b"live\n") == b"alive"
    eventually(lambda: len(seen) == 3)
    assert [args.exc_type for args in seen] == [error] * 3
    assert all("serving" in args.thread.name for args in seen)


# The serving thread and its hooks.

HOOKS = ["get_request", "verify_request", "process_request", "service_actions", "fileno",
         "_handle_request_noblock"]


def watch(server, hook, where):
    """Replace a hook on the class or the instance by itself; gets the names of its callers."""
    original = getattr(type(server), hook)
    callers = set()

    def called(*args):
        callers.add(threading.current_thread().name)
        return original(*args)

    if where == "class":
        setattr(type(server), hook, called)
    else:
        setattr(server, hook, functools.partial(called, server))
    return callers


def only_serving_thread(callers):
    return {name.partition(" ")[2] for name in callers - {"MainThread"}} == {"(serve_forever)"}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("where", ["class", "instance"])
def test_replaced_hook_is_called_by_the_serving_thread(pooled, connect, serving, hook, where):
    server = pooled(handler=echo)
    callers = watch(server, hook, where)
    with serving(server):
        assert ask(connect, server) == b"line\n"
    assert only_serving_thread(callers)


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_replaced_while_serving(pooled, connect, serving, hook):
    with serving(server := pooled(handler=echo)):
        assert ask(connect, server) == b"line\n"
        callers = watch(server, hook, "instance")
        for _ in range(3):
            assert ask(connect, server) == b"line\n"
    assert only_serving_thread(callers)


def test_replaced_socket_is_accepted_from_by_the_serving_thread(pooled, connect, serving):
    class Listener(socket.socket):
        def accept(self):
            callers.add(threading.current_thread().name)
            return super().accept()

    callers, server = set(), pooled(handler=echo)
    server.socket = Listener(fileno=server.socket.detach())
    with serving(server):
        assert ask(connect, server) == b"line\n"
    assert only_serving_thread(callers)


def test_service_actions_once_for_each_request(pooled, connect, eventually, background, gate):
    def service_actions(self):
        calls.append(threading.current_thread())

    calls = []
    server = pooled(handler=echo, service_actions=service_actions)
    serving = background(server.serve_forever, None)
    for count in range(1, 4):
        assert ask(connect, server) == b"line\n"
        eventually(lambda count=count: len(calls) == count)
    server.shutdown()
    serving.result(10)


def test_service_actions_while_all_workers_are_busy(pooled, connect, serving, gate, eventually):
    calls = []
    server = pooled(handler=lambda h: gate.handle(h), max_workers=1,
                    service_actions=lambda self: calls.append(1))
    with serving(server):
        clients = [connect(server), connect(server)]
        assert gate.entered()
        before = len(calls)
        eventually(lambda: len(calls) > before + 2)
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 2


def test_overridden_process_request_may_serve_by_itself(pooled, connect, serving):
    def process_request(self, request, client_address):
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    with serving(server := pooled(handler=echo, process_request=process_request)):
        assert ask(connect, server) == b"line\n"
        assert workers(server) == []


# What a request's thread looks like.


def test_context_is_fresh_for_each_request(pooled, connect, serving, way):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def handle(self):
        seen.append(variable.get())
        variable.set("left by another request")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            visit(connect, server)
    assert seen == ["default"] * 3


def test_context_of_the_serving_thread_as_a_new_thread_has_it(pooled, connect, background, way):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def serve():
        variable.set("inherited")
        server.serve_forever()

    server = pooled(handler=lambda self: seen.append(variable.get()), **way)
    serving = background(serve)
    visit(connect, server)
    server.shutdown()
    serving.result(10)
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    assert seen == ["inherited" if inherits else "default"]


def test_names_of_workers(pooled, connect, serving, gate, eventually, way):
    with serving(server := pooled(handler=lambda h: gate.handle(h), **way)):
        client = connect(server)
        assert gate.entered()
        assert "Server-worker-" in gate.names[0]
        assert repr(client.getsockname()) in gate.names[0]
        assert "process_request_thread" in gate.names[0]
        gate.leave.set()
        assert client.recv(9) == b"left"
        eventually(lambda: not any("process_request" in t.name for t in threading.enumerate()))
        [worker] = [t for t in workers(server) if t in gate.threads]
        worker.name = "renamed"
        assert worker.name == "renamed"


def test_name_given_by_a_handler_is_that_of_its_request(pooled, connect, serving, way):
    """Programs save the name, set one for the request, and restore it."""
    names = []

    def handle(self):
        thread = threading.current_thread()
        saved = thread.name
        thread.name = f"request {len(names)}"
        names.append((saved.partition(" ")[0], thread.name))
        if len(names) % 2:
            thread.name = saved
            assert thread.name == saved
        self.wfile.write(b"done")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(4):
            assert visit(connect, server) == b"done"
    assert names == [(names[0][0], f"request {number}") for number in range(4)]


@pytest.mark.untraced(reason="sets a tracer")
@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_tracer_set_while_serving_sees_later_requests(pooled, connect, serving, way, kind):
    """As it does where each request has a new thread."""
    seen = []

    def handle(self):
        self.wfile.write(b"done")

    def note(frame, event, arg):
        if frame.f_code is handle.__code__ and event == "call":
            seen.append(event)

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        assert visit(connect, server) == b"done"
        getattr(threading, f"set{kind}")(note)
        try:
            for _ in range(2):
                assert visit(connect, server) == b"done"
        finally:
            getattr(threading, f"set{kind}")(None)
        assert visit(connect, server) == b"done"
    assert seen == ["call"] * 2


@pytest.mark.parametrize("daemon", [False, True])
def test_daemon_threads(pooled, connect, serving, daemon, way):
    seen = []
    server = pooled(handler=lambda self: seen.append(threading.current_thread().daemon), **way)
    server.daemon_threads = daemon
    with serving(server):
        visit(connect, server)
    assert seen == [daemon]


# Workers come and go.


@pytest.mark.skipif(not wait.native, reason="where they do not accept they start when needed")
def test_min_workers_start_with_the_server(pooled, serving, eventually):
    with serving(server := pooled(handler=echo, min_workers=3)):
        eventually(lambda: len(workers(server)) == 3)


def test_idle_workers_end_down_to_min_workers(pooled, connect, serving, gate, eventually, way):
    server = pooled(handler=lambda h: gate.handle(h), request_queue_size=16, min_workers=2,
                    max_workers=8, worker_idle_timeout=0.01, **way)
    with serving(server):
        clients = [connect(server) for _ in range(8)]
        assert gate.entered(8)
        assert len(workers(server)) == 8
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 8
        eventually(lambda: len(workers(server)) == 2)
        assert connect(server).recv(9) == b"left"


def test_idle_workers_stay_without_a_timeout(pooled, connect, serving, gate):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=4, worker_idle_timeout=None)
    with serving(server):
        clients = [connect(server) for _ in range(4)]
        assert gate.entered(4)
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 4
        assert len(workers(server)) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_workers", 0), ("max_workers", "8"), ("min_workers", -1), ("min_workers", None),
     ("worker_idle_timeout", -1), ("stall_seconds", -1), ("max_connections", 1),
     ("max_connections", "8")],
)
def test_settings_that_make_no_sense(pooled, name, value):
    server = pooled(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be .* not {value!r}"):
        server.serve_forever()


def test_shutdown_ends_idle_workers(pooled, connect, background, eventually, way):
    server = pooled(handler=echo, **way)
    serving = background(server.serve_forever, None)
    assert ask(connect, server) == b"line\n"
    started = time.monotonic()
    server.shutdown()
    assert time.monotonic() - started < 5
    serving.result(10)
    eventually(lambda: workers(server) == [])
    assert os.get_blocking(server.fileno())


def test_shutdown_leaves_busy_workers_alone(pooled, connect, background, gate, eventually, way):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=2, **way)
    serving = background(server.serve_forever)
    clients = [connect(server), connect(server)]
    assert gate.entered(2)
    late = connect(server)
    server.shutdown()
    serving.result(10)
    gate.leave.set()
    assert [client.recv(9) for client in clients] == [b"left"] * 2
    eventually(lambda: workers(server) == [])
    assert not gate.inside.acquire(timeout=0)
    again = background(server.serve_forever)
    assert late.recv(9) == b"left"
    server.shutdown()
    again.result(10)


def test_server_close_waits_for_workers(pooled, connect, background, gate, eventually, way):
    server = pooled(handler=lambda h: gate.handle(h), **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    eventually(lambda: len(server._threads) >= 1)
    server.shutdown()
    closing = background(server.server_close)
    with pytest.raises(TimeoutError):
        closing.result(0.05)
    gate.leave.set()
    closing.result(10)
    serving.result(10)
    assert client.recv(9) == b"left"
    assert workers(server) == []
    assert len(server._threads) == 0


@pytest.mark.parametrize("attributes", [{"daemon_threads": True}, {"block_on_close": False}])
def test_server_close_does_not_wait(pooled, connect, background, gate, attributes, eventually):
    server = pooled(handler=lambda h: gate.handle(h))
    server.daemon_threads = False
    vars(server).update(attributes)
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    server.shutdown()
    server.server_close()
    serving.result(10)
    eventually(lambda: len(workers(server)) == 1)
    gate.leave.set()
    assert client.recv(9) == b"left"
    eventually(lambda: workers(server) == [])


def test_server_close_waits_for_threads_of_the_programs_own(pooled):
    leave = threading.Event()
    server = pooled()
    thread = threading.Thread(target=leave.wait, args=(10,))
    thread.start()
    vars(server).setdefault("_threads", socketserver_fast._Threads()).append(thread)
    threading.Timer(0.05, leave.set).start()
    server.server_close()
    assert not thread.is_alive()


def test_server_close_while_serving(pooled, connect, background, eventually, way):
    server = pooled(handler=echo, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    assert ask(connect, server) == b"line\n"
    server.server_close()
    serving.result(10)
    eventually(lambda: workers(server) == [])


def test_everything_ends_it_at_once_and_twice(pooled, connect, background, eventually, way):
    def handle(self):
        server.shutdown()
        server.server_close()
        server.server_close()
        self.wfile.write(b"closed")

    server = pooled(handler=handle, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    client = connect(server)
    others = [background(end) for end in [server.shutdown, server.server_close] * 2]
    for other in [serving, *others]:
        other.result(10)
    eventually(lambda: workers(server) == [])
    with contextlib.suppress(ConnectionError):
        assert client.recv(9) in (b"closed", b"")


@pytest.mark.parametrize("_", range(5))
def test_server_close_in_two_handlers(pooled, connect, background, eventually, way, _):
    """Neither may wait for the other one, also not when that is just being started."""

    def handle(self):
        barrier.wait(10)
        server.server_close()

    barrier = threading.Barrier(2)
    server = pooled(handler=handle, max_workers=2, **way)
    server.daemon_threads = False
    serving = background(server.serve_forever)
    clients = [connect(server), connect(server)]
    assert [client.recv(9) for client in clients] == [b"", b""]
    serving.result(10)
    eventually(lambda: workers(server) == [])


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
@pytest.mark.parametrize("daemon", [False, True])
def test_drain_finishes_what_workers_have(pooled, connect, background, gate, way, daemon):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=2, request_queue_size=16, **way)
    server.daemon_threads = daemon
    serving = background(server.serve_forever)
    clients = [connect(server) for _ in range(6)]
    assert gate.entered(2)
    assert server.requests_in_progress == 2
    draining = background(server.drain, 20)
    with pytest.raises(TimeoutError):
        draining.result(0.05)
    gate.leave.set()
    assert draining.result(20) is True
    serving.result(10)
    assert [client.recv(9) for client in clients] == [b"left"] * 6
    assert server.requests_in_progress == 0
    assert server.fileno() == -1


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no such sockets")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has the name only")
@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_closes_a_listener_of_sequenced_packets(
        make_server, connect, background, gate, eventually, way):
    """As it does that of streams: before it waits for the handlers."""
    server = make_server("ThreadPoolMixIn", "UnixStreamServer", handler=lambda h: gate.handle(h),
                         socket_type=socket.SOCK_SEQPACKET, **way)
    serving = background(server.serve_forever)
    client = connect(server)
    assert gate.entered()
    draining = background(server.drain, 20)
    eventually(lambda: server.fileno() == -1)
    gate.leave.set()
    assert client.recv(9) == b"left"
    assert draining.result(20) is True
    serving.result(10)


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_closes_what_is_left_at_the_deadline(make_server, connect, background, way):
    """A worker that reads finds the end of the stream."""
    ended = threading.Event()

    def handle(self):
        self.rfile.read()
        ended.set()

    server = make_server("ThreadPoolMixIn", "TCPServer", handler=handle, **way)
    serving = background(server.serve_forever)
    client = connect(server, b"line\n")
    assert client.getpeername()
    while not server.requests_in_progress:
        time.sleep(0.001)
    assert server.drain(0.05) is False
    assert ended.wait(10)
    serving.result(10)


@pytest.mark.parametrize("socketserver", ["class"], indirect=True)
def test_drain_from_a_worker_is_refused(make_server, connect, serving, way):
    def handle(self):
        try:
            server.drain()
        except RuntimeError as error:
            self.wfile.write(str(error).encode())

    with serving(server := make_server("ThreadPoolMixIn", "TCPServer", handler=handle, **way)):
        assert b"would wait for that to finish" in visit(connect, server)


# Faults.


@pytest.fixture
def refuse_workers(monkeypatch):
    """`refuse_workers(1)`: the system starts one worker more, then none, until `None`."""
    left = [None]
    start = threading.Thread.start

    def refusing(self):
        if "-worker-" in self.name and left[0] is not None:
            if left[0] == 0:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return functools.partial(left.__setitem__, 0)


def test_no_worker_can_be_started(pooled, connect, serving, refuse_workers, way):
    errors = []
    server = pooled(
        handler=echo, handle_error=lambda self, *_: errors.append(sys.exc_info()[0]), **way)
    refuse_workers(0)
    with serving(server):
        for _ in range(3):
            assert visit(connect, server) == b""
        assert errors == [RuntimeError] * 3
        refuse_workers(None)
        assert ask(connect, server) == b"line\n"
    assert len(errors) == 3


def test_requests_wait_when_only_one_worker_can_be_started(
        pooled, connect, serving, refuse_workers, gate, way):
    server = pooled(handler=lambda h: gate.handle(h), max_workers=4, **way)
    refuse_workers(1)
    with serving(server):
        clients = [connect(server) for _ in range(5)]
        assert gate.entered()
        gate.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 5


@pytest.mark.skipif(not wait.native, reason="where the workers do not accept")
def test_closed_while_it_begins(pooled, monkeypatch):
    def pipe():
        server.socket.close()
        pipes.extend(original())
        return pipes[-2:]

    pipes, original, server = [], os.pipe, pooled()
    monkeypatch.setattr(os, "pipe", pipe)
    server.serve_forever()
    assert len(pipes) == 2
    for fd in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.skipif(not wait.native, reason="where the workers do not accept")
def test_closed_while_it_ends(pooled, background, monkeypatch, eventually):
    """serve_forever() gives the listener back: it must be blocking again, if it is still there."""
    def set_blocking(fd, blocking):
        if blocking:
            server.socket.close()
        original(fd, blocking)

    original, server = os.set_blocking, pooled()
    monkeypatch.setattr(os, "set_blocking", set_blocking)
    serving = background(server.serve_forever)
    eventually(lambda: workers(server))
    server.shutdown()
    assert serving.result(10) is None


def test_two_servers_share_a_listener(pooled, connect, serving):
    """As processes do: the one that comes too late must not wait in accept()."""
    first, second = pooled(handler=echo), pooled(handler=echo, activate=False)
    second.socket.close()
    second.socket = first.socket.dup()
    second.server_address = first.server_address
    with serving(first), serving(second):
        for number in range(100):
            assert ask(connect, first, b"%d\n" % number) == b"%d\n" % number


def behave_badly(address, number):
    """A client that says nothing, leaves half a line, resets, or stops sending, and then leaves."""
    with contextlib.suppress(ConnectionError), socket.create_connection(address, 10) as client:
        if number % 4:
            client.sendall(b"half a line")
        if number % 4 == 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 4 == 3:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(99) == b"half a line"


def test_ten_thousand_connections_of_all_kinds(pooled, background, serving):
    """Four clients at a time, of which every other connection behaves well, for four workers, of
    which silent and slow clients would keep six."""

    def visit_often(server):
        answered = 0
        for number in range(1250):
            behave_badly(server.server_address, number)
            with socket.create_connection(server.server_address, 60) as client:
                client.sendall(b"%d\n" % number)
                answered += client.recv(99) == b"%d\n" % number
        return answered

    def say_slowly(server):
        lines = 0
        with socket.create_connection(server.server_address, 60) as client:
            while not done.is_set():
                for byte in b"slow\n":
                    client.sendall(bytes([byte]))
                    done.wait(0.005)
                assert client.recv(9) == b"slow\n"
                lines += 1
        return lines

    done = threading.Event()
    server = pooled(handler=echo, max_workers=4, request_queue_size=128,
                    handle_error=lambda *_: None)
    with serving(server):
        silent = [socket.create_connection(server.server_address, 10) for _ in range(4)]
        slow = [background(say_slowly, server) for _ in range(2)]
        clients = [background(visit_often, server) for _ in range(4)]
        assert [client.result(100) for client in clients] == [1250] * 4
        # A visitor whose wait was found to be long while all four waited has a thread more.
        assert 0 < len(workers(server)) <= 4 + len(silent) + len(slow) + len(clients)
        done.set()
        assert all(client.result(60) > 0 for client in slow)
        for client in silent:
            client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_in_a_handler(pooled, connect, serving, way):
    """The child that comes back from the handler must not go on as a worker."""

    def handle(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        else:
            self.wfile.write(b"%d" % os.getppid())

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(2):
            assert visit(connect, server) == b"%d" % os.getpid()


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="only without the GIL")
def test_workers_run_in_parallel_without_the_gil(pooled, connect, serving):
    """Each counts by itself until it sees the other one count: with one at a time neither would."""
    counters = [0, 0]
    numbers = iter([0, 1])

    def handle(self):
        mine = next(numbers)
        deadline = time.monotonic() + 20
        before = counters[1 - mine]
        while counters[1 - mine] < before + 3 and time.monotonic() < deadline:
            counters[mine] += 1
        counters[mine] += 1000
        self.wfile.write(b"seen" if time.monotonic() < deadline else b"not seen")

    with serving(server := pooled(handler=handle)):
        clients = [connect(server), connect(server)]
        assert [client.recv(9) for client in clients] == [b"seen"] * 2
    assert not sys._is_gil_enabled()


def test_every_serve_forever_after_another_accepts():
    """A worker that is about to end at the end of one may find that the next has begun."""

    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    server = socketserver_fast.ThreadPoolTCPServer(("127.0.0.1", 0), Handler)
    for _ in range(300):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            client.sendall(b"line\n")
            assert client.recv(9) == b"line\n"
        assert server.shutdown(10)
        thread.join()
    server.server_close()
