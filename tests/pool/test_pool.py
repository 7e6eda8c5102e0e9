"""ThreadPoolMixIn: requests, hooks and what a thread looks like, as a class and patched."""

import contextvars
import functools
import os
import socket
import sys
import threading

import pytest

# Requests.


def test_answers_one_after_the_other(pooled, serving, way, echo, ask):
    with serving(server := pooled(handler=echo, **way)):
        for number in range(100):
            assert ask(server, b"%d\n" % number) == b"%d\n" % number


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
def test_other_kinds_of_sockets(
        pooled, make_server, socketserver, connect, serving, kind, way, workers):
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
def test_sequenced_packets(make_server, socketserver, connect, background, pooled, way, echo):
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


def test_handle_request_without_serve_forever(pooled, connect, eventually, echo, workers):
    server = pooled(handler=echo)
    client = connect(server, b"by hand\n")
    server.handle_request()
    assert client.recv(99) == b"by hand\n"
    client.close()
    eventually(lambda: not workers(server))


def test_process_request_by_hand_wakes_the_only_worker(pooled, serving, visit, workers):
    server = pooled(handler=lambda self: self.wfile.write(b"handed over"), max_workers=1)
    with serving(server):
        assert visit(server) == b"handed over"
        assert len(workers(server)) == 1
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(10)
            server.process_request(far, "nobody")
            assert near.makefile("rb").read() == b"handed over"


def test_interrupted_when_a_worker_has_started(pooled, monkeypatch, eventually, workers):
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


def test_exception_goes_to_handle_error(pooled, serving, capfd, way, visit):
    def handle(self):
        raise MemoryError("full")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            assert visit(server) == b""
    assert capfd.readouterr().err.count("MemoryError: full") == 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_worker_that_dies_is_replaced(pooled, serving, eventually, monkeypatch, error, way, ask):
    def handle(self):
        if self.rfile.readline() == b"die\n":
            raise error
        self.wfile.write(b"alive")

    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args))
    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            assert ask(server, b"die\n") == b""
            assert ask(server, b"live\n") == b"alive"
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
def test_replaced_hook_is_called_by_the_serving_thread(pooled, serving, hook, where, echo, ask):
    server = pooled(handler=echo)
    callers = watch(server, hook, where)
    with serving(server):
        assert ask(server) == b"line\n"
    assert only_serving_thread(callers)


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_replaced_while_serving(pooled, serving, hook, echo, ask):
    with serving(server := pooled(handler=echo)):
        assert ask(server) == b"line\n"
        callers = watch(server, hook, "instance")
        for _ in range(3):
            assert ask(server) == b"line\n"
    assert only_serving_thread(callers)


def test_replaced_socket_is_accepted_from_by_the_serving_thread(pooled, serving, echo, ask):
    class Listener(socket.socket):
        def accept(self):
            callers.add(threading.current_thread().name)
            return super().accept()

    callers, server = set(), pooled(handler=echo)
    server.socket = Listener(fileno=server.socket.detach())
    with serving(server):
        assert ask(server) == b"line\n"
    assert only_serving_thread(callers)


def test_service_actions_once_for_each_request(pooled, eventually, background, gate, echo, ask):
    def service_actions(self):
        calls.append(threading.current_thread())

    calls = []
    server = pooled(handler=echo, service_actions=service_actions)
    serving = background(server.serve_forever, None)
    for count in range(1, 4):
        assert ask(server) == b"line\n"
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


def test_overridden_process_request_may_serve_by_itself(pooled, serving, echo, ask, workers):
    def process_request(self, request, client_address):
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    with serving(server := pooled(handler=echo, process_request=process_request)):
        assert ask(server) == b"line\n"
        assert workers(server) == []


# What a request's thread looks like.


def test_context_is_fresh_for_each_request(pooled, serving, way, visit):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def handle(self):
        seen.append(variable.get())
        variable.set("left by another request")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        for _ in range(3):
            visit(server)
    assert seen == ["default"] * 3


def test_context_of_the_serving_thread_as_a_new_thread_has_it(pooled, background, way, visit):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def serve():
        variable.set("inherited")
        server.serve_forever()

    server = pooled(handler=lambda self: seen.append(variable.get()), **way)
    serving = background(serve)
    visit(server)
    server.shutdown()
    serving.result(10)
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    assert seen == ["inherited" if inherits else "default"]


def test_names_of_workers(pooled, connect, serving, gate, eventually, way, workers):
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


def test_name_given_by_a_handler_is_that_of_its_request(pooled, serving, way, visit):
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
            assert visit(server) == b"done"
    assert names == [(names[0][0], f"request {number}") for number in range(4)]


@pytest.mark.untraced(reason="sets a tracer")
@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_tracer_set_while_serving_sees_later_requests(pooled, serving, way, kind, visit):
    """As it does where each request has a new thread."""
    seen = []

    def handle(self):
        self.wfile.write(b"done")

    def note(frame, event, arg):
        if frame.f_code is handle.__code__ and event == "call":
            seen.append(event)

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        assert visit(server) == b"done"
        getattr(threading, f"set{kind}")(note)
        try:
            for _ in range(2):
                assert visit(server) == b"done"
        finally:
            getattr(threading, f"set{kind}")(None)
        assert visit(server) == b"done"
    assert seen == ["call"] * 2


@pytest.mark.parametrize("daemon", [False, True])
def test_daemon_threads(pooled, serving, daemon, way, visit):
    seen = []
    server = pooled(handler=lambda self: seen.append(threading.current_thread().daemon), **way)
    server.daemon_threads = daemon
    with serving(server):
        visit(server)
    assert seen == [daemon]
