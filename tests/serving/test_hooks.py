"""Hooks are called in the stdlib's order, with its arguments, and replaced ones are respected, by
every kind of server and every mix-in."""

import abc
import contextlib
import functools
import os
import select
import selectors
import socket
import sys
import threading
from unittest import mock

import pytest

KINDS = ["TCPServer", "UDPServer"]
if sys.platform != "win32":
    KINDS += ["UnixStreamServer", "UnixDatagramServer"]
SERVER_HOOKS = ["get_request", "verify_request", "process_request", "process_request_thread"]
SERVER_HOOKS += ["finish_request", "handle_error", "shutdown_request", "close_request"]
SERVER_HOOKS += ["service_actions", "handle_timeout"]
HANDLER_HOOKS = ["setup", "handle", "finish"]

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


class Stop(BaseException):
    """Raised by service_actions(): the only way out of serve_forever() without a second thread."""


class Broken(Exception):
    pass


class Log:
    """The hooks called by the main thread, by workers, and by children (their names only)."""

    def __init__(self):
        self.pid, self.thread = os.getpid(), threading.get_ident()
        self.main, self.workers, self.arguments = [], [], {}
        self.child_reads, self.child_writes = os.pipe()

    def note(self, name, args):
        if os.getpid() != self.pid:
            os.write(self.child_writes, f"{name} ".encode())
            return
        names = self.main if threading.get_ident() == self.thread else self.workers
        names.append(name)
        self.arguments[name] = args

    def close(self):
        os.close(self.child_writes)
        with os.fdopen(self.child_reads, encoding="ascii") as pipe:
            self.children = pipe.read().split()
        for request in [args[0] for args in self.arguments.values() if args]:
            if isinstance(request, socket.socket):
                request.close()


def noting(log, base, names, spoil):
    """A subclass of `base` that notes these hooks and raises or returns what `spoil` says."""

    def hook(name):
        def noted(self, *args):
            log.note(name, args)
            result = spoil.get(name)
            if name not in spoil or name in HANDLER_HOOKS:
                result = getattr(super(noting_class, self), name)(*args)
            if isinstance(spoil.get(name), BaseException):
                raise spoil[name]
            return result

        return noted

    hooks = {name: hook(name) for name in names if hasattr(base, name)}
    noting_class = type("Noting", (base,), hooks)
    return noting_class


@pytest.fixture
def noted(socketserver, make_server, capfd):
    """`noted(mixin, kind, spoil)`: a server that notes its hooks, its Log, and what closes both."""
    with contextlib.ExitStack() as stack:

        def make(mixin, kind, spoil, **attributes):
            log = Log()
            bases = tuple(getattr(socketserver, name) for name in [mixin, kind] if name)
            handler = "StreamRequestHandler" if kind in STREAMS else "DatagramRequestHandler"
            handler = noting(log, getattr(socketserver, handler), HANDLER_HOOKS, spoil)
            server_class = noting(log, type("Server", bases, attributes), SERVER_HOOKS, spoil)
            server = make_server(server_class, handler=handler)
            for value in spoil.values():  # whose traceback would keep the server until the exit
                if isinstance(value, BaseException):
                    stack.callback(value.with_traceback, None)
            stack.callback(log.close)
            stack.callback(server.server_close)
            if mixin == "ThreadingMixIn":  # a datagram server's workers need its socket
                stack.callback(lambda: server._threads.join())
            return server, log, stack.close

        yield make


STREAMS = ["TCPServer", "UnixStreamServer"]
GOT = "get_request verify_request process_request"
REFUSED = "get_request verify_request shutdown_request close_request"
WORKED = "finish_request setup handle finish"
CLOSED = "shutdown_request close_request"


def case(*hooks, escapes=None, **spoil):
    """The hooks expected when those in `spoil` raise or return that, and what leaves the loop."""
    return spoil, [" ".join(part.split()) for part in hooks], escapes


SYNCHRONOUS = {
    "ok": case(f"{GOT} {WORKED} {CLOSED}"),
    "refused": case(REFUSED, verify_request=False),
    "process_request_keeps_it": case(GOT, process_request=None),
    "process_request_raises": case(f"{GOT} handle_error {CLOSED}", process_request=Broken()),
    "finish_request_raises": case(
        f"{GOT} finish_request handle_error {CLOSED}", finish_request=Broken()
    ),
    "setup_raises": case(f"{GOT} finish_request setup handle_error {CLOSED}", setup=Broken()),
    "handle_raises": case(f"{GOT} {WORKED} handle_error {CLOSED}", handle=Broken()),
    "finish_raises": case(f"{GOT} {WORKED} handle_error {CLOSED}", finish=Broken()),
    "setup_exits": case(
        f"{GOT} finish_request setup {CLOSED}", setup=SystemExit(), escapes=SystemExit
    ),
    "handle_exits": case(f"{GOT} {WORKED} {CLOSED}", handle=SystemExit(), escapes=SystemExit),
    "handle_interrupted": case(
        f"{GOT} {WORKED} {CLOSED}", handle=KeyboardInterrupt(), escapes=KeyboardInterrupt
    ),
    "get_request_fails": case("get_request", get_request=OSError()),
    "get_request_raises": case("get_request", get_request=Broken(), escapes=Broken),
    "verify_request_raises": case(
        "get_request verify_request", verify_request=Broken(), escapes=Broken
    ),
    "handle_error_raises": case(
        f"{GOT} {WORKED} handle_error", handle=OSError(), handle_error=Broken(), escapes=Broken
    ),
    "shutdown_request_raises": case(
        f"{GOT} {WORKED} shutdown_request handle_error shutdown_request",
        shutdown_request=Broken(),
        escapes=Broken,
    ),
}


@pytest.mark.parametrize("name", SYNCHRONOUS)
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_synchronous(noted, connect, kind, name):
    spoil, [expected], escapes = SYNCHRONOUS[name]
    server, log, _ = noted(None, kind, {**spoil, "service_actions": Stop()})
    connect(server, b"hello")
    with pytest.raises(escapes or Stop):
        server.serve_forever(0.01)
    assert " ".join(log.main) == expected + ("" if escapes else " service_actions")


@pytest.mark.parametrize("name", SYNCHRONOUS)
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_hooks_of_handle_request(noted, connect, kind, name):
    spoil, [expected], escapes = SYNCHRONOUS[name]
    server, log, _ = noted(None, kind, spoil)
    connect(server, b"hello")
    with pytest.raises(escapes) if escapes else contextlib.nullcontext():
        assert server.handle_request() is None
    assert " ".join(log.main) == expected


THREAD = f"process_request_thread {WORKED}"
THREADING = {  # the hooks of the accepting thread, those of the worker; what escapes the worker
    "ok": case(GOT, f"{THREAD} {CLOSED}"),
    "refused": case(REFUSED, "", verify_request=False),
    "setup_raises": case(
        GOT,
        f"process_request_thread finish_request setup handle_error {CLOSED}",
        setup=Broken(),
    ),
    "handle_raises": case(GOT, f"{THREAD} handle_error {CLOSED}", handle=Broken()),
    "finish_raises": case(GOT, f"{THREAD} handle_error {CLOSED}", finish=Broken()),
    "handle_exits": case(GOT, f"{THREAD} {CLOSED}", handle=SystemExit(), escapes=SystemExit),
    "handle_interrupted": case(
        GOT, f"{THREAD} {CLOSED}", handle=KeyboardInterrupt(), escapes=KeyboardInterrupt
    ),
    "handle_error_raises": case(
        GOT,
        f"{THREAD} handle_error {CLOSED}",
        handle=OSError(),
        handle_error=Broken(),
        escapes=Broken,
    ),
    "shutdown_request_raises": case(
        GOT, f"{THREAD} shutdown_request", shutdown_request=Broken(), escapes=Broken
    ),
    "process_request_thread_raises": case(
        GOT, "process_request_thread", process_request_thread=Broken(), escapes=Broken
    ),
}


@pytest.mark.parametrize("name", THREADING)
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_in_threads(noted, connect, monkeypatch, kind, name):
    spoil, [main, worker], escapes = THREADING[name]
    escaped = []
    monkeypatch.setattr(threading, "excepthook", lambda args: escaped.append(args.exc_type))
    server, log, close = noted("ThreadingMixIn", kind, {**spoil, "service_actions": Stop()})
    connect(server, b"hello")
    with pytest.raises(Stop):
        server.serve_forever(0.01)
    close()
    assert " ".join(log.main) == f"{main} service_actions"
    assert " ".join(log.workers) == worker
    assert escaped == ([escapes] if escapes else [])


FORKED = f"{GOT} close_request"
FORKING = {  # the hooks of the parent, those of the child
    "ok": case(FORKED, f"{WORKED} {CLOSED}"),
    "refused": case(REFUSED, "", verify_request=False),
    "setup_raises": case(FORKED, f"finish_request setup handle_error {CLOSED}", setup=Broken()),
    "handle_raises": case(FORKED, f"{WORKED} handle_error {CLOSED}", handle=Broken()),
    "finish_raises": case(FORKED, f"{WORKED} handle_error {CLOSED}", finish=Broken()),
    "handle_exits": case(FORKED, f"{WORKED} {CLOSED}", handle=SystemExit()),
    "handle_interrupted": case(FORKED, f"{WORKED} {CLOSED}", handle=KeyboardInterrupt()),
    "handle_error_raises": case(
        FORKED, f"{WORKED} handle_error {CLOSED}", handle=OSError(), handle_error=Broken()
    ),
}


@forking
@pytest.mark.parametrize("name", FORKING)
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_in_children(noted, connect, kind, name):
    spoil, [main, child], _ = FORKING[name]
    server, log, close = noted("ForkingMixIn", kind, {**spoil, "service_actions": Stop()})
    connect(server, b"hello")
    with pytest.raises(Stop):
        server.serve_forever(0.01)
    close()
    assert " ".join(log.main) == f"{main} service_actions"
    assert " ".join(log.children) == child


@pytest.mark.parametrize("mixin", [None, "ThreadingMixIn"])
@pytest.mark.parametrize("kind", KINDS)
def test_hook_arguments(noted, connect, kind, mixin):
    server, log, close = noted(mixin, kind, {"handle": Broken(), "service_actions": Stop()})
    client = connect(server, b"hello")
    with pytest.raises(Stop):
        server.serve_forever(0.01)
    close()
    request, address = log.arguments["verify_request"]
    assert address == client.getsockname()
    for name in ["process_request", "finish_request", "handle_error"]:
        assert log.arguments[name] == (request, address)
        assert log.arguments[name][0] is request
    for name in CLOSED.split():
        assert log.arguments[name] == (request,)
    for name in ["get_request", "service_actions", *HANDLER_HOOKS]:
        assert log.arguments[name] == ()


@pytest.mark.parametrize("timeout", [0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_handle_timeout_without_a_request(noted, kind, timeout):
    server, log, _ = noted(None, kind, {"handle_timeout": "its value"}, timeout=timeout)
    assert server.handle_request() == "its value"
    assert log.main == ["handle_timeout"]


def test_handle_timeout_raising_propagates(noted):
    server, *_ = noted(None, "TCPServer", {"handle_timeout": Broken()}, timeout=0.01)
    with pytest.raises(Broken):
        server.handle_request()


@pytest.fixture
def counted(make_server):
    """`counted(kind, handle, last)`: a server that counts service_actions() and then stops."""

    def make(kind, handle, last):
        def service_actions(self):
            self.calls += 1
            if self.calls == last:
                raise Stop

        attributes = {"calls": 0, "service_actions": service_actions, "request_queue_size": 64}
        return make_server(kind, handler=handle, **attributes)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_service_actions_once_per_request(counted, connect, kind):
    handled = []
    count = 8 if kind == "UnixDatagramServer" else 50  # its queue holds ten packets by default
    server = counted(kind, lambda self: handled.append(self.server.calls), count)
    for _ in range(count):
        connect(server, b"hello")
    with pytest.raises(Stop):
        server.serve_forever(10)
    assert handled == list(range(count))


def test_service_actions_once_per_idle_tick(counted):
    server = counted("TCPServer", None, 5)
    with pytest.raises(Stop):
        server.serve_forever(0.001)


def test_service_actions_after_a_request_that_asked_for_shutdown(counted, connect):
    def handle(self):
        self.server._BaseServer__shutdown_request = True

    server = counted("TCPServer", handle, last=3)
    connect(server, b"hello")
    connect(server, b"must wait")
    server.serve_forever(10)
    assert server.calls == 1


def test_service_actions_not_after_shutdown_seen_by_select(counted, background, connect):
    server = counted("TCPServer", None, last=3)
    loop = background(server.serve_forever, 10)
    server._BaseServer__shutdown_request = True
    connect(server, b"wakes the loop, is not accepted")
    assert loop.result(10) is None
    assert server.calls == 0


REPLACEABLE = [*SERVER_HOOKS[:3], "finish_request", *CLOSED.split(), "service_actions"]
REPLACEABLE += ["handle_error", "_handle_request_noblock"]


@pytest.mark.parametrize("where", ["class", "ancestor", "instance"])
@pytest.mark.parametrize("name", REPLACEABLE)
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_hook_replaced_while_serving(
    make_server, connect, serving, eventually, capfd, kind, name, where
):
    def handle(self):
        handled.append(1)
        raise Broken

    handled = []
    server = make_server(kind, handler=handle, attribute="a subclass")
    target = server if where == "instance" else type(server)
    if where == "ancestor":
        target = next(cls for cls in target.__mro__ if name in vars(cls))
    original = getattr(target, name)

    def request():
        count = len(handled)
        connect(server, b"hello")
        eventually(lambda: len(handled) > count)

    with serving(server, 0.02):
        request()
        with mock.patch.object(target, name, autospec=True, side_effect=original) as hook:
            request()
            eventually(lambda: hook.called)
        calls = hook.call_count
        request()
        request()
        assert hook.call_count <= calls + 1  # one may have been under way


@pytest.mark.parametrize("name", ["setup", "finish", "__init__"])
def test_handler_method_replaced_while_serving(socketserver, make_server, connect, serving, name):
    server = make_server("TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    target = socketserver.StreamRequestHandler
    if name == "__init__":
        target = socketserver.BaseRequestHandler
    original = getattr(target, name)
    with serving(server):
        assert connect(server).makefile("rb").read() == b"ok"
        with mock.patch.object(target, name, autospec=True, side_effect=original) as hook:
            assert connect(server).makefile("rb").read() == b"ok"
        assert connect(server).makefile("rb").read() == b"ok"
    assert hook.call_count == 1


def test_handle_request_noblock_overridden(make_server, connect, serving, eventually):
    """Odoo's: while its semaphore is taken it returns without accepting, and is asked again."""

    class Limited:
        refusals = 0

        def _handle_request_noblock(self):
            if self.refusals < 3:
                self.refusals += 1
                return None
            return super()._handle_request_noblock()

    server = make_server(Limited, "TCPServer", handler=lambda self: self.wfile.write(b"ok"))
    with serving(server):
        assert connect(server).recv(9) == b"ok"
    assert server.refusals == 3


def test_handle_request_noblock_from_an_own_loop(socketserver, make_server, connect):
    """py-kms's: no socket of its own, only BaseServer.__init__; one is lent for each request."""

    class Multiple(socketserver.TCPServer):
        def __init__(self, handler):
            socketserver.BaseServer.__init__(self, None, handler)

    listeners = [make_server("TCPServer") for _ in range(2)]
    served = []
    server = Multiple(lambda request, address, server: served.append(server.socket))
    clients = [connect(listener) for listener in [*listeners, *listeners]]
    while len(served) < len(clients):
        for ready in select.select([each.socket for each in listeners], [], [], 10)[0]:
            server.socket = ready
            server._handle_request_noblock()
    assert sorted(map(id, served)) == sorted(id(each.socket) for each in listeners * 2)


def test_shutdown_request_flag_stored(make_server, background):
    server = make_server("TCPServer")
    loop = background(server.serve_forever, 0.05)
    server.__dict__["_BaseServer__shutdown_request"] = True
    assert loop.result(5) is None
    assert server._BaseServer__shutdown_request is False


def test_instance_dict_after_init(make_server):
    server = make_server("ThreadingMixIn", "TCPServer")
    assert sorted(vars(server)) == [
        "RequestHandlerClass",
        "_BaseServer__is_shut_down",
        "_BaseServer__shutdown_request",
        "server_address",
        "socket",
    ]
    assert isinstance(server._BaseServer__is_shut_down, threading.Event)
    assert not server._BaseServer__is_shut_down.is_set()
    assert server._BaseServer__shutdown_request is False


def test_is_shut_down_event(make_server, background, eventually):
    server = make_server("TCPServer")
    server._BaseServer__is_shut_down.set()
    loop = background(server.serve_forever, 0.02)
    eventually(lambda: not server._BaseServer__is_shut_down.is_set())
    server.shutdown()
    loop.result(10)
    assert server._BaseServer__is_shut_down.is_set()


def test_is_shut_down_replaced_on_the_class(make_server, connect):
    """patroni's tests: the constructor is mocked out, the event is a class attribute."""
    event = mock.Mock()
    server = make_server("TCPServer", _BaseServer__is_shut_down=event)
    del server._BaseServer__is_shut_down
    server._BaseServer__shutdown_request = True
    server.serve_forever()
    assert event.mock_calls == [mock.call.clear(), mock.call.set()]


def test_server_without_init(socketserver):
    server = object.__new__(socketserver.ThreadingTCPServer)
    assert vars(server) == {}
    request = mock.Mock()
    server.shutdown_request(request)
    assert request.mock_calls == [mock.call.shutdown(socket.SHUT_WR), mock.call.close()]


def test_server_bases_abstract_and_object(socketserver, make_server):
    class Interface(metaclass=abc.ABCMeta):
        @abc.abstractmethod
        def purpose(self): ...

    class Server(socketserver.TCPServer, Interface):
        def purpose(self): ...

    assert make_server(Server).fileno() > 0
    assert type(make_server("ThreadingMixIn", "UDPServer", object)).__mro__[-1] is object
    assert type(socketserver.TCPServer) is type


def test_attributes_set_before_init(socketserver):
    class Server(socketserver.TCPServer):
        def __init__(self, address, handler):
            self.request_queue_size, self.allow_reuse_address = 3, True
            super().__init__(address, handler)

    with Server(("127.0.0.1", 0), None) as server:
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_exit_calls_server_close_virtually(make_server):
    closed = []
    server = make_server("TCPServer", server_close=lambda self: closed.append(self))
    with server as entered:
        assert entered is server
    assert closed == [server]
    server.socket.close()


def test_handler_any_callable(socketserver, connect):
    served = []
    partial = functools.partial(lambda extra, *args: served.append((extra, *args)), "extra")
    with socketserver.TCPServer(("127.0.0.1", 0), partial) as server:
        client = connect(server)
        server.handle_request()
        server.RequestHandlerClass = lambda *args: served.append(args)
        connect(server)
        server.handle_request()
    assert served[0] == ("extra", mock.ANY, client.getsockname(), server)
    assert served[1] == (mock.ANY, mock.ANY, server)


def test_methods_borrowed_as_class_attributes(socketserver, make_server, connect):
    """pynetdicom's: a synchronous server that can hand requests to threads when told to."""

    class Borrower(socketserver.BaseServer):
        fileno = socketserver.TCPServer.fileno
        get_request = socketserver.TCPServer.get_request
        shutdown_request = socketserver.TCPServer.shutdown_request
        close_request = socketserver.TCPServer.close_request
        process_request = socketserver.BaseServer.process_request
        process_request_thread = socketserver.ThreadingMixIn.process_request_thread

    listener = make_server("TCPServer")
    server = Borrower(None, lambda request, *_: request.sendall(b"ok"))
    server.socket = listener.socket
    for process in [server.process_request, server.process_request_thread]:
        server.process_request = process
        client = connect(listener)
        server.handle_request()
        assert client.recv(9) + client.recv(9) == b"ok"


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_server_selector_replaced(socketserver, make_server, connect, monkeypatch, kind):
    class Recording(selectors.DefaultSelector):
        def register(self, fileobj, events, data=None):
            calls.append(("register", fileobj, events))
            return super().register(fileobj, events, data)

        def select(self, timeout=None):
            calls.append(("select", timeout))
            return super().select(timeout)

    calls = []
    monkeypatch.setattr(socketserver, "_ServerSelector", Recording)
    server = make_server(kind, service_actions=mock.Mock(side_effect=Stop))
    connect(server, b"hello")
    with pytest.raises(Stop):
        server.serve_forever(1.25)
    connect(server, b"hello")
    server.handle_request()
    registered = ("register", server, selectors.EVENT_READ)
    assert calls == [registered, ("select", 1.25), registered, ("select", None)]
