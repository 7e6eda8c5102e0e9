"""ThreadingMixIn: names and flags of threads, who is joined, and what happens when one fails."""

import functools
import sys
import threading
from unittest import mock

import pytest

improved = pytest.mark.parametrize("implementation", ["fast", "patched"], indirect=True)


@pytest.fixture
def threaded(make_server):
    """`threaded(handle, daemon_threads=True)`: a threading TCP server."""
    return functools.partial(make_server, "ThreadingMixIn", "TCPServer")


@pytest.fixture
def held(threaded):
    """`held(**attributes)`: a server whose handlers stay until `leave` is set; `threads` fills."""
    leave = threading.Event()

    def make(**attributes):
        def handle(self):
            server.threads.append(threading.current_thread())
            leave.wait(10)

        server = threaded(handler=handle, **attributes)
        server.threads, server.leave = [], leave
        return server

    yield make
    leave.set()


def serve(server, connect, eventually, count=1):
    """Accepts `count` connections and waits until a thread has begun with each."""
    before = len(server.threads)
    for _ in range(count):
        connect(server)
        server.handle_request()
    eventually(lambda: len(server.threads) == before + count)


def test_thread_name_and_flags(held, connect, eventually):
    server = held()
    serve(server, connect, eventually)
    [thread] = server.threads
    assert thread.name.startswith("Thread-")
    assert thread.name.endswith("(process_request_thread)")
    assert thread in threading.enumerate()
    assert thread is not threading.main_thread()


@pytest.mark.parametrize("daemon", [False, True])
def test_daemon_threads(held, connect, eventually, daemon):
    server = held(daemon_threads=daemon)
    serve(server, connect, eventually)
    assert server.threads[0].daemon is daemon


def test_daemon_threads_set_on_the_instance(held, connect, eventually):
    server = held()
    server.daemon_threads = True
    serve(server, connect, eventually)
    assert server.threads[0].daemon is True


def test_requests_are_handled_at_once(threaded, connect, serving):
    """Both handlers must be inside for either to get out."""
    barrier = threading.Barrier(2)

    def handle(self):
        barrier.wait(10)
        self.wfile.write(b"both")

    with serving(server := threaded(handler=handle)):
        clients = [connect(server), connect(server)]
        assert [client.recv(9) for client in clients] == [b"both", b"both"]


def test_threads_kept_only_if_they_will_be_joined(held, connect, eventually, socketserver):
    server = held()
    assert "_threads" not in vars(server)
    serve(server, connect, eventually)
    assert type(vars(server)["_threads"]) is socketserver._Threads
    assert list(server._threads) == server.threads


def test_threads_of_daemons_not_kept(held, connect, eventually):
    server = held(daemon_threads=True)
    serve(server, connect, eventually)
    assert len(server._threads) == 0


def test_threads_not_kept_without_block_on_close(held, connect, eventually, socketserver):
    server = held(block_on_close=False)
    serve(server, connect, eventually)
    assert "_threads" not in vars(server)
    assert isinstance(server._threads, socketserver._NoThreads)


def test_server_close_joins_threads(held, connect, eventually, background):
    server = held()
    serve(server, connect, eventually, 2)
    closing = background(server.server_close)
    with pytest.raises(TimeoutError):
        closing.result(0.05)
    assert server.fileno() == -1
    server.leave.set()
    closing.result(10)
    assert not any(thread.is_alive() for thread in server.threads)
    assert len(server._threads) == 0


@pytest.mark.parametrize("attributes", [{"daemon_threads": True}, {"block_on_close": False}])
def test_server_close_does_not_wait(held, connect, eventually, attributes):
    server = held(**attributes)
    serve(server, connect, eventually)
    server.server_close()
    assert server.threads[0].is_alive()


def test_threads_reaped_by_the_next_request(held, connect, eventually):
    server = held()
    serve(server, connect, eventually, 3)
    assert len(server._threads) == 3
    server.leave.set()
    eventually(lambda: not any(thread.is_alive() for thread in server.threads))
    serve(server, connect, eventually)
    assert len(server._threads) == 1


def test_threads_list_by_hand(socketserver):
    """Copies of process_request() make one themselves."""
    leave, threads = threading.Event(), socketserver._Threads()
    finished = threading.Thread(target=int)
    alive = threading.Thread(target=leave.wait, args=(10,))
    daemon = threading.Thread(target=int, daemon=True)
    for thread in [finished, alive, daemon]:
        thread.start()
        threads.append(thread)
    finished.join()
    threads.reap()
    assert isinstance(threads, list)
    assert threads == [alive]
    leave.set()
    threads.join()
    assert threads == []
    assert not alive.is_alive()


@improved
def test_threads_list_emptied_while_one_is_added(socketserver):
    """server_close() empties it in another thread, here between any two steps of append()."""

    class Finished:
        def is_alive(self):
            threads.pop_all()
            return False

    threads, thread = socketserver._Threads(), threading.Thread()
    list.extend(threads, [Finished(), Finished()])
    threads.append(thread)
    assert threads == [thread]


@pytest.mark.parametrize("implementation", ["fast"], indirect=True)
def test_threads_list_reaped_while_one_is_added(socketserver):
    class Finished:
        def is_alive(self):
            list.append(threads, late)
            return False

    threads, late = socketserver._Threads(), threading.Thread()
    list.append(threads, Finished())
    threads.reap()
    assert threads == [late]


def test_no_threads_by_hand(socketserver):
    threads = socketserver._NoThreads()
    assert threads.append(None) is None
    assert threads.join() is None


def test_start_failing_is_an_error_of_the_request(threaded, connect, serving, monkeypatch):
    def handle_error(self, request, client_address):
        errors.append((threading.current_thread(), client_address))

    def start(self):
        if self.name.endswith("(process_request_thread)") and not errors:
            raise RuntimeError("can't start new thread")
        original(self)

    errors, original = [], threading.Thread.start
    server = threaded(
        handler=lambda self: self.wfile.write(b"ok"), handle_error=handle_error, daemon_threads=True
    )
    with serving(server):
        monkeypatch.setattr(threading.Thread, "start", start)
        client = connect(server)
        assert client.recv(9) == b""
        assert connect(server).makefile("rb").read() == b"ok"
    assert errors[0][1] == client.getsockname()
    assert len(errors) == 1


def test_start_failing_leaves_a_closable_server(threaded, connect, capfd):
    server = threaded(handler=lambda self: self.wfile.write(b"ok"))
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
        connect(server)
        server.handle_request()
    client = connect(server)
    server.handle_request()
    assert client.makefile("rb").read() == b"ok"
    server.server_close()


def test_threads_are_started_through_threading(threaded, connect, eventually, monkeypatch):
    """Programs replace threading.Thread or its start() to see the handlers' threads."""
    started, original = [], threading.Thread.start

    def start(self):
        started.append(self.name)
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    server = threaded()
    connect(server)
    server.handle_request()
    assert [name.endswith("(process_request_thread)") for name in started] == [True]


def test_thread_class_replaced(socketserver, threaded, connect, monkeypatch):
    class Marked(threading.Thread):
        pass

    seen = []
    monkeypatch.setattr(socketserver.threading, "Thread", Marked)
    server = threaded(handler=lambda self: seen.append(type(threading.current_thread())))
    connect(server)
    server.handle_request()
    server.server_close()
    assert seen == [Marked]


def test_process_request_thread_called_by_hand(threaded, connect):
    """Thread pools do: they override process_request() and call this from their own threads."""

    def process_request(self, request, client_address):
        threading.Thread(target=self.process_request_thread, args=(request, client_address)).start()

    server = threaded(
        handler=lambda self: self.wfile.write(b"pooled"), process_request=process_request
    )
    client = connect(server)
    server.handle_request()
    assert client.makefile("rb").read() == b"pooled"
    assert "_threads" not in vars(server)


def test_exception_in_a_thread_leaves_the_others(threaded, connect, serving, capfd):
    def handle(self):
        line = self.rfile.readline()
        if line == b"bad\n":
            raise ValueError(line)
        self.wfile.write(line)

    with serving(server := threaded(handler=handle)):
        good = connect(server)
        assert connect(server, b"bad\n").recv(9) == b""
        good.sendall(b"good\n")
        assert good.makefile("rb").read() == b"good\n"
    assert "ValueError: b'bad" in capfd.readouterr().err


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_goes_to_the_threads_hook(
        threaded, connect, serving, monkeypatch, eventually, error):
    def handle(self):
        if self.rfile.readline() == b"die\n":
            raise error
        self.wfile.write(b"alive")

    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args))
    with serving(server := threaded(handler=handle)):
        for _ in range(3):
            assert connect(server, b"die\n").recv(9) == b""
            assert connect(server, b"live\n").recv(9) == b"alive"
        eventually(lambda: len(seen) == 3)
    assert [args.exc_type for args in seen] == [error] * 3
    assert all(args.thread.name.endswith("(process_request_thread)") for args in seen)


def test_memory_error_goes_to_handle_error(threaded, connect, serving, capfd):
    def handle(self):
        raise MemoryError("full")

    with serving(server := threaded(handler=handle)):
        for _ in range(3):
            assert connect(server).recv(9) == b""
    assert capfd.readouterr().err.count("MemoryError: full") == 3


REFUSED = """
    import socket, socketserver, sys, threading

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"served")

    def ask():
        with socket.create_connection(server.server_address, 10) as client:
            return client.makefile("rb").read()

    def handle_error(request, client_address):
        print(repr(sys.exc_info()[1]))

    def serve():
        threading.stack_size(1 << 46)  # more than there is: no thread can start
        server.serve_forever()

    server = getattr(socketserver, sys.argv[1])(("127.0.0.1", 0), Handler)
    server.handle_error = handle_error
    threading.Thread(target=serve, daemon=True).start()
    print(ask(), ask())
    threading.stack_size(0)
    print(ask())
    server.shutdown()
    server.server_close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how large a stack is too large")
@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_thread_refused_by_the_system(implementation, python, name):
    if name == "ThreadPoolTCPServer" and implementation != "fast":
        pytest.skip("the package's own class")
    out, err = python(REFUSED, name).communicate(timeout=30)
    error = 'RuntimeError("can\'t start new thread")'
    if name == "ThreadPoolTCPServer":
        error = 'RuntimeError("can\'t start a worker thread")'
    assert (out, err) == (f"{error}\n{error}\nb'' b''\nb'served'\n", "")


def test_udp_packets_in_threads(make_server, connect, serving):
    names = []

    def handle(self):
        names.append(threading.current_thread().name)
        self.wfile.write(self.rfile.read())

    with serving(server := make_server("ThreadingUDPServer", handler=handle)):
        for text in [b"one", b"two"]:
            assert connect(server, text).recv(9) == text
    assert all(name.endswith("(process_request_thread)") for name in names)


@improved
def test_reaping_costs_in_proportion_to_the_finished(threaded, connect, eventually, socketserver):
    """The stdlib asks each live thread on each request: with n of them, n calls of is_alive()."""
    asked, threads = [], socketserver._Threads()

    class Living(threading.Thread):
        def is_alive(self):
            asked.append(self)
            return True

    server = threaded()
    server._threads = threads
    list.extend(threads, [Living() for _ in range(1000)])
    for _ in range(20):
        connect(server)
        server.handle_request()
    list.clear(threads)
    assert len(asked) < 20 * 100


def test_many_connections_one_after_the_other(threaded, connect, serving):
    with serving(server := threaded(handler=lambda self: self.wfile.write(self.rfile.readline()))):
        for number in range(200):
            with connect(server, b"%d\n" % number) as client:
                assert client.recv(9) == b"%d\n" % number
    assert len(server._threads) == 0
