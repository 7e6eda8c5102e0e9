"""A pool's handlers that wait for their clients do not count, and nobody can stop the others."""

import contextlib
import logging
import os
import pathlib
import socket
import socketserver as stdlib
import statistics
import threading
import time

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not wait.native, reason="where waits do not show")


@pytest.fixture
def pooled(make_server):
    """`pooled(handler=handle, max_workers=2)`: a TCP server with a pool."""

    def make(**attributes):
        attributes = {"daemon_threads": True, "request_queue_size": 1024, **attributes}
        return make_server(socketserver_fast.ThreadPoolMixIn, "TCPServer", **attributes)

    return make


@pytest.fixture
def socketserver():
    return socketserver_fast


def get_path(client, path):
    get(client, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)


def get(client, request=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
    """GET / on a connection that is kept."""
    client.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        part = client.recv(9999)
        assert part, answer
        answer += part


def echo(handler):
    for line in handler.rfile:
        handler.wfile.write(line)


def ask(client, line=b"line\n"):
    client.sendall(line)
    return client.recv(99)


def workers(server):
    return [t for t in threading.enumerate() if getattr(t, "_server", None) is server]


def count_descriptors():
    return len(list(pathlib.Path("/dev/fd").iterdir()))


def timed(function, *args):
    started = time.monotonic()
    function(*args)
    return time.monotonic() - started


def test_500_silent_connections_and_a_visitor(many_descriptors, pages, connect, serving):
    def visit():
        with connect(server) as client:
            get(client)

    with serving(server := pages(max_workers=8)):
        silent = [connect(server) for _ in range(500)]
        visit()
        seconds = [timed(visit) for _ in range(100)]
        assert statistics.median(seconds) < 0.05
        assert max(seconds) < 2  # of a machine that does other things, too
        assert len(workers(server)) <= 500 + 8
        get(silent[0])
        get(silent[-1])
        for client in silent:
            client.close()


def test_500_handlers_whose_clients_speak_at_once(many_descriptors, pooled, connect, serving,
                                                  eventually):
    """They wait for turns that are lent a few at a time, which must not take a moment for each."""
    with serving(server := pooled(handler=echo, max_workers=2)):
        clients = [connect(server) for _ in range(500)]
        eventually(lambda: server.requests_in_progress == 500)
        started = time.monotonic()
        for client in clients:
            client.sendall(b"line\n")
        for client in clients:
            assert client.recv(9) == b"line\n"
        assert time.monotonic() - started < 4


def test_100_kept_connections_and_visitors_that_come_and_go(pages, connect, serving, background):
    def visit_often():
        seconds = []
        for _ in range(50):
            with connect(server) as client:
                seconds.append(timed(get, client))
        return seconds

    def visit_by_four():
        visitors = [background(visit_often) for _ in range(4)]
        return statistics.median(s for visitor in visitors for s in visitor.result(60))

    with serving(server := pages(max_workers=2)):
        alone = visit_by_four()
        kept = [connect(server) for _ in range(100)]
        for client in kept:
            get(client)
        assert visit_by_four() < 3 * alone + 0.01
        for client in kept:
            get(client)


def test_clients_that_send_a_byte_now_and_then(pooled, connect, serving, background, way):
    def say_slowly():
        clients = [connect(server) for _ in range(50)]
        for byte in b"slow\n":
            for client in clients:
                client.sendall(bytes([byte]))
                done.wait(0.002)
        return [client.recv(9) for client in clients]

    done = threading.Event()
    with serving(server := pooled(handler=echo, max_workers=2, **way)):
        slow = background(say_slowly)
        fast = connect(server)
        for _ in range(500):
            assert ask(fast) == b"line\n"
        done.set()
        assert slow.result(60) == [b"slow\n"] * 50


class Watched:
    """A worker's lock, which counts how often the worker asked for a turn or for work."""

    def __init__(self, lock):
        self.release, self.acquire_lock, self.asked = lock.release, lock.acquire, 0

    def acquire(self, *args, **kwargs):
        self.asked += 1
        return self.acquire_lock(*args, **kwargs)


@pytest.mark.parametrize("read", [
    lambda rfile: rfile.readline(),
    lambda rfile: rfile.read(5),
    lambda rfile: bytearray(5)[:rfile.readinto(bytearray(5))],
], ids=["readline", "read", "readinto"])
def test_parts_of_what_is_read_take_no_turn(pooled, connect, serving, way, eventually, read):
    """Otherwise 200 clients that send a byte a second have all the turns."""
    watched = []

    def handle(self):
        worker = threading.current_thread()
        if not watched:
            worker.awake = Watched(worker.awake)
            watched.append(worker.awake)
        for _ in range(2):
            if read(self.rfile):
                self.wfile.write(b"line\n")

    server = pooled(handler=handle, max_workers=1, stall_seconds=None, **way)
    with serving(server):
        slow = connect(server)
        eventually(lambda: server.requests_in_progress == 1)
        for byte in b"line\n":
            with connect(server) as visitor:  # served when the turn of the slow one is lent
                assert ask(visitor) == b"line\n"
            assert watched[0].asked == 0
            slow.sendall(bytes([byte]))
        assert slow.recv(9) == b"line\n"
        assert watched[0].asked >= 1


def get_slowly(client, between):
    """GET / a byte at a time, with `between` before each."""
    for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r":
        between()
        client.sendall(bytes([byte]))
    get(client, b"\n")


def test_heads_that_come_a_byte_at_a_time(pages, connect, serving):
    """Visitors are answered after each byte, and the slow ones at the end."""
    def visit():
        with connect(server) as visitor:
            get(visitor)

    with serving(server := pages(max_workers=1)):
        slow = [connect(server) for _ in range(20)]
        for client in slow[:-1]:
            client.sendall(b"G")
        get_slowly(slow[-1], visit)
        for client in slow[:-1]:
            get(client, b"ET / HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize("max_workers", [1, 3])
def test_handlers_that_call_their_own_server(pooled, connect, serving, way, max_workers):
    """All workers wait for the one that none of them can be."""

    def handle(self):
        line = self.rfile.readline()
        if line == b"nested\n":
            with socket.create_connection(server.server_address, 20) as client:
                line = ask(client, b"plain\n")
        self.wfile.write(line)

    server = pooled(handler=handle, max_workers=max_workers, stall_seconds=0.05, **way)
    with serving(server):
        clients = [connect(server, b"nested\n") for _ in range(2 * max_workers)]
        assert [client.recv(9) for client in clients] == [b"plain\n"] * 2 * max_workers


@pytest.mark.parametrize("max_workers", [1, 3])
def test_pages_that_call_their_own_server(pages, connect, serving, background, max_workers):
    with serving(server := pages(max_workers=max_workers, stall_seconds=0.05)):
        clients = [connect(server) for _ in range(2 * max_workers)]
        for visit in [background(get_path, client, b"/nested") for client in clients]:
            visit.result(20)


def test_stall_is_said_once_with_its_place(pooled, connect, serving, held, way, caplog):
    server = pooled(handler=lambda h: held.handle(h), max_workers=1, stall_seconds=0.05, **way)
    with serving(server):
        clients = [connect(server, b"line\n") for _ in range(4)]
        assert held.entered(4)
        held.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 4
    [record] = caplog.records
    assert (record.name, record.levelname) == ("socketserver_fast", "WARNING")
    assert "all 1 workers are busy" in caplog.text
    assert "self.leave.wait(20)" in caplog.text


def test_stall_without_stall_seconds(pooled, connect, serving, held, way, caplog, eventually):
    server = pooled(handler=lambda h: held.handle(h), max_workers=1, stall_seconds=None, **way)
    with serving(server):
        clients = [connect(server, b"line\n") for _ in range(3)]
        assert held.entered()
        eventually(lambda: caplog.records)
        assert not held.inside.acquire(timeout=0)
        held.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 3
    assert held.most == 1


@pytest.mark.parametrize("stall_seconds", [None, 0.02])
def test_who_has_waited_may_run_only_when_there_is_a_turn(
        pooled, connect, serving, held, way, stall_seconds, eventually):
    """All clients speak at once, after all handlers have waited for them."""
    server = pooled(handler=lambda h: held.handle(h), max_workers=2, stall_seconds=stall_seconds,
                    **way)
    with serving(server):
        clients = [connect(server) for _ in range(10)]
        eventually(lambda: server.requests_in_progress == 10)
        for client in clients:
            client.sendall(b"line\n")
        assert held.entered(2 if stall_seconds is None else 10)
        if stall_seconds is None:
            assert not held.inside.acquire(timeout=0.05)
        held.leave.set()
        assert [client.recv(9) for client in clients] == [b"left"] * 10
    assert held.most == (2 if stall_seconds is None else 10)


def test_who_has_waited_goes_before_new_connections(
        pooled, connect, serving, held, way, eventually):
    order = []

    def handle(self):
        line = self.rfile.readline()
        order.append(line)
        if line == b"holds the turn\n":
            held.handle(self)
        self.wfile.write(line)

    server = pooled(handler=handle, max_workers=1, stall_seconds=None, **way)
    with serving(server):
        waited = connect(server)
        eventually(lambda: server.requests_in_progress == 1)
        holder = connect(server, b"holds the turn\nline\n")
        assert held.entered()
        late = [connect(server, b"late\n") for _ in range(3)]
        waited.sendall(b"waited\n")
        held.leave.wait(0.1)  # it comes back meanwhile
        held.leave.set()
        assert [client.recv(9) for client in [waited, *late]] == [b"waited\n"] + [b"late\n"] * 3
        assert holder.recv(9)
    assert order == [b"holds the turn\n", b"waited\n"] + [b"late\n"] * 3


def test_max_connections_reached_and_half_of_them_leave(pooled, connect, serving, way, caplog,
                                                        eventually):
    server = pooled(handler=echo, max_workers=2, max_connections=10, stall_seconds=0.05, **way)
    with serving(server):
        clients = [connect(server) for _ in range(10)]
        eventually(lambda: server.requests_in_progress == 10)
        queued = [connect(server, b"line\n") for _ in range(10)]
        eventually(lambda: "max_connections (10) are open" in caplog.text)
        assert server.requests_in_progress == 10
        for client in clients[:5]:
            client.close()
        assert [client.recv(9) for client in queued[:5]] == [b"line\n"] * 5
        for client in clients[5:]:
            assert ask(client) == b"line\n"
            client.close()
        assert [client.recv(9) for client in queued[5:]] == [b"line\n"] * 5
        for client in queued:
            client.close()


def test_max_connections_of_pages_reached_and_half_of_them_leave(pages, connect, serving, caplog,
                                                                 background, eventually):
    server = pages(max_workers=2, max_connections=10, stall_seconds=0.05)
    with serving(server):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            get(client)
        queued = [connect(server) for _ in range(10)]
        visits = [background(get, client) for client in queued]
        eventually(lambda: "max_connections (10) are open" in caplog.text)
        assert not any(visit.done() for visit in visits)
        for client in clients[:5]:
            client.close()
        for at in range(5):
            visits[at].result(10)
        for client in clients[5:]:
            get(client)
            client.close()
        for visit in visits[5:]:
            visit.result(10)
        for client in queued:
            get(client)
            client.close()


def test_threads_of_who_has_waited_end_when_idle(pooled, connect, serving, way, eventually):
    server = pooled(handler=echo, max_workers=2, worker_idle_timeout=0.01, **way)
    with serving(server):
        clients = [connect(server) for _ in range(50)]
        eventually(lambda: server.requests_in_progress == 50)
        assert 50 <= len(workers(server)) <= 52
        for client in clients:
            client.close()
        eventually(lambda: len(workers(server)) == 1)
        assert ask(connect(server)) == b"line\n"


def test_threads_of_who_has_waited_are_used_again(pooled, connect, serving, way, eventually):
    """Kept connections that speak now and then, and visitors, start no threads."""
    server = pooled(handler=echo, max_workers=2, **way)
    with serving(server):
        kept = [connect(server) for _ in range(20)]
        eventually(lambda: server.requests_in_progress == 20)
        for client in kept:
            assert ask(client) == b"line\n"
        for _ in range(40):
            for client in kept[:3]:
                assert ask(client) == b"line\n"
            with connect(server) as visitor:
                assert ask(visitor) == b"line\n"
        connect(server)  # its worker has the highest number, if threads were started
        numbers = [int(worker.name.split("-worker-")[1].split()[0]) for worker in workers(server)]
        assert max(numbers) <= 25


@pytest.mark.parametrize("end", ["drain", "shutdown"])
def test_ended_with_500_waiting_handlers(many_descriptors, pooled, connect, background, way, end,
                                         eventually):
    server = pooled(handler=echo, max_workers=2, **way)
    server.daemon_threads = False
    before = count_descriptors()
    serving = background(server.serve_forever)
    clients = [connect(server) for _ in range(500)]
    eventually(lambda: server.requests_in_progress == 500)
    if end == "drain":
        assert server.drain(0.1) is False
    else:
        server.shutdown(10)
        assert ask(clients[7]) == b"line\n"
        for client in clients:
            client.close()
        server.server_close()
    serving.result(10)
    eventually(lambda: workers(server) == [])
    for client in clients:
        client.close()
    eventually(lambda: count_descriptors() <= before - 1)


def test_pages_shut_down_with_500_waiting_handlers(
        many_descriptors, pages, connect, background, eventually):
    """Handlers that wait go on until their clients leave; nothing is left."""
    server = pages(max_workers=2)
    server.daemon_threads = False
    before = count_descriptors()
    serving = background(server.serve_forever)
    clients = [connect(server) for _ in range(500)]
    get(clients[499])
    server.shutdown()
    serving.result(10)
    assert len(workers(server)) >= 500
    get(clients[7])
    for client in clients:
        client.close()
    server.server_close()
    assert workers(server) == []
    eventually(lambda: count_descriptors() <= before - 1)


def test_pages_drained_with_500_waiting_handlers(
        many_descriptors, pages, connect, background, eventually):
    """Kept connections are closed at once, and nothing is left."""
    server = pages(max_workers=2)
    server.daemon_threads = False
    before = count_descriptors()
    serving = background(server.serve_forever)
    clients = [connect(server) for _ in range(500)]
    for client in clients:
        get(client)
    assert socketserver_fast.drain(server, 20) is True
    serving.result(10)
    assert workers(server) == []
    for client in clients:
        assert client.recv(9) == b""
        client.close()
    eventually(lambda: count_descriptors() <= before - 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_pages_wait(pages, connect, serving):
    with serving(server := pages(max_workers=2)):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            get(client)
        for client in clients:
            get_path(client, b"/fork")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_handlers_wait(pooled, connect, serving, way, eventually):
    def handle(self):
        if self.rfile.readline() == b"fork\n":
            pid = os.fork()
            if pid == 0:
                self.rfile.readline()
                os._exit(7)
            self.wfile.write(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with serving(server := pooled(handler=handle, max_workers=2, **way)):
        silent = [connect(server) for _ in range(10)]
        eventually(lambda: server.requests_in_progress == 10)
        assert ask(connect(server), b"fork\n\n") == b"7"
        assert ask(silent[3], b"fork\n\n") == b"7"


def test_no_thread_for_one_more(pooled, connect, serving, way, monkeypatch):
    """It is tried again, and who has waited can go on."""
    refusing, start = [], threading.Thread.start

    def start_or_not(self):
        if refusing and "-worker-" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    server = pooled(handler=echo, max_workers=2, handle_error=lambda *_: None, **way)
    with serving(server):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            assert ask(client) == b"line\n"
        refusing.append(True)
        for client in clients:
            assert ask(client) == b"line\n"
        refused = connect(server, b"line\n")
        refused.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            assert refused.recv(9) in (b"", b"line\n")
        refusing.clear()
        assert ask(connect(server)) == b"line\n"


def test_no_descriptor_for_one_more(pooled, connect, serving, way, eventually, caplog):
    """Clients that are there go on; one that was not accepted is served when one has left."""
    server = pooled(handler=echo, max_workers=2, **way)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(server):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            assert ask(client) == b"line\n"
        late = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, limits[1]))
        try:
            late.connect(server.server_address)
            eventually(lambda: "cannot accept connections" in caplog.text)
            for client in clients:
                assert ask(client) == b"line\n"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with late:
            late.settimeout(10)
            assert ask(late) == b"line\n"


def test_no_thread_for_one_more_page(pages, connect, serving, monkeypatch):
    def start_or_not(self):
        if "-worker-" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    start = threading.Thread.start
    with serving(server := pages(max_workers=2)):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            get(client)
        monkeypatch.setattr(threading.Thread, "start", start_or_not)
        for client in clients:
            get(client)
        monkeypatch.undo()
        for client in [*clients, connect(server)]:
            get(client)


def test_no_descriptor_for_one_more_page(pages, connect, serving, eventually, caplog):
    """The kept connections go on, and who came meanwhile is answered afterwards."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(server := pages(max_workers=2)):
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            get(client)
        late = socket.socket()
        late.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, limits[1]))
        try:
            late.connect(server.server_address)
            eventually(lambda: "cannot accept connections" in caplog.text)
            for client in clients:
                get(client)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with late:
            get(late)


def test_reader_with_a_timeout_waits_too(pooled, connect, serving, way, eventually):
    handler = {"handle": echo, "timeout": 20}
    with serving(server := pooled(handler=handler, max_workers=1, **way)):
        clients = [connect(server) for _ in range(10)]
        eventually(lambda: server.requests_in_progress == 10)
        for client in clients:
            assert ask(client) == b"line\n"


def test_writer_that_waits_for_its_client(pooled, connect, serving, way, receive):
    def handle(self):
        if self.rfile.readline() == b"much\n":
            self.wfile.write(bytes(64 << 20))
        self.wfile.write(b"done")

    with serving(server := pooled(handler=handle, max_workers=1, **way)):
        deaf = connect(server, b"much\n")
        for _ in range(3):
            assert ask(connect(server)) == b"done"
        assert receive(deaf, 64 << 20) == bytes(64 << 20)


def test_stdlib_mixin_patched(connect, serving):
    """patch() gives the stdlib's ThreadingMixIn the settings."""
    socketserver_fast.patch(threads="pool", max_workers=3, max_connections=7, stall_seconds=1)
    try:
        mixin = stdlib.ThreadingMixIn
        assert (mixin.max_workers, mixin.max_connections, mixin.stall_seconds) == (3, 7, 1)
    finally:
        socketserver_fast.unpatch()


def test_nothing_is_logged_while_all_is_well(pooled, connect, serving, way, caplog, eventually):
    caplog.set_level(logging.DEBUG, "socketserver_fast")
    server = pooled(handler=echo, max_workers=1, stall_seconds=1, **way)
    with serving(server):
        clients = [connect(server) for _ in range(20)]
        eventually(lambda: server.requests_in_progress == 20)
        for _ in range(5):
            for client in clients:
                assert ask(client) == b"line\n"
    assert caplog.records == []


def ask_until(done, client, answers):
    """Ask without a pause, and count the answers."""
    while not done.is_set():
        assert ask(client) == b"line\n"
        answers[client] += 1


def test_busy_connections_take_turns(pooled, connect, serving, background, way, eventually):
    """More of them than max_workers, of which none ever makes its handler wait for long."""

    def handle(self):
        for line in self.rfile:
            running.append(line)
            most.append(len(running))
            self.wfile.write(line)
            running.pop()

    done, running, most = threading.Event(), [], []
    with serving(server := pooled(handler=handle, max_workers=2, stall_seconds=None, **way)):
        answers = dict.fromkeys([connect(server) for _ in range(6)], 0)
        asking = [background(ask_until, done, client, answers) for client in answers]
        eventually(lambda: min(answers.values()) >= 20)
        for _ in range(5):
            with connect(server) as visitor:
                assert ask(visitor) == b"line\n"
        done.set()
        for one in asking:
            one.result(10)
        assert len(workers(server)) <= 9
    assert max(most) <= 2


def test_visitors_beside_those_who_have_waited(pooled, connect, serving, background, way):
    """So many handlers come back from waits for their clients that some always wait for a turn."""

    def handle(self):
        for line in self.rfile:
            time.sleep(0.002)
            self.wfile.write(line)

    done = threading.Event()
    with serving(server := pooled(handler=handle, max_workers=1, stall_seconds=None, **way)):
        answers = dict.fromkeys([connect(server) for _ in range(20)], 0)
        asking = [background(ask_until, done, client, answers) for client in answers]
        for _ in range(10):
            with connect(server) as visitor:
                assert ask(visitor) == b"line\n"
        done.set()
        for one in asking:
            one.result(10)
        assert min(answers.values()) > 0


@pytest.mark.parametrize("sizes", [{"wbufsize": -1}, {"rbufsize": 0}, {"rbufsize": 100}], ids=str)
def test_waits_in_files_that_are_not_compiled(pooled, connect, serving, way, sizes):
    text = b"x" * (1 << 23)

    def handle(self):
        for line in self.rfile:
            self.wfile.write(text if line == b"much\n" else line)
            self.wfile.flush()

    server = pooled(handler={"handle": handle, **sizes}, max_workers=2, stall_seconds=None, **way)
    with serving(server):
        busy = [connect(server, b"much\n" if "wbufsize" in sizes else b"") for _ in range(6)]
        for _ in range(3):
            assert ask(connect(server)) == b"line\n"
        for client in busy:
            client.close()


def test_turn_is_not_kept_for_a_request_that_was_served_meanwhile(
        pooled, connect, serving, eventually):
    """The worker that ran has taken it itself, so somebody who has waited may go on."""

    def handle(self):
        if self.client_address == visitor.getsockname():
            self.wfile.write(b"welcome\n")  # without a wait for its client
            return
        for line in self.rfile:
            if line == b"hold\n":
                inside.set()
                assert leave.wait(20)
                return
            self.wfile.write(line)

    inside, leave, visitor = threading.Event(), threading.Event(), socket.socket()
    visitor.bind(("127.0.0.1", 0))
    visitor.settimeout(20)
    with visitor, serving(server := pooled(handler=handle, max_workers=1, stall_seconds=None)):
        kept = connect(server)
        assert ask(kept) == b"line\n"
        holder = connect(server, b"hold\n")
        assert inside.wait(10)
        visitor.connect(server.server_address)
        time.sleep(0.1)  # until the pool has noted that the visitor waits for a turn
        leave.set()
        assert holder.recv(9) == b""
        assert visitor.recv(9) == b"welcome\n"
        eventually(lambda: server.requests_in_progress == 1)
        assert ask(kept) == b"line\n"
