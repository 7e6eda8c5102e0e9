"""PreforkMixIn: who serves what, hooks, exits, recycling, shutdown from everywhere."""

import gc
import os
import signal
import socket
import time

import pytest

import socketserver_fast

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

try:
    import socketserver_fast.green
except ImportError:
    GREEN = []
else:
    GREEN = ["socketserver_fast.GreenletTCPServer", "socketserver_fast.GreenletUDPServer",
             "socketserver_fast.GreenletUnixStreamServer"]

IN_THREAD = """
thread = threading.Thread(target=server.serve_forever)
thread.start()
{}
thread.join()
"""


def test_defaults():
    mixin = socketserver_fast.PreforkMixIn
    assert mixin.workers is mixin.worker_timeout is mixin.max_requests is mixin.worker_index is None
    assert mixin.reuse_port is False
    assert mixin.drain_timeout == 30
    assert "__init__" not in vars(mixin)
    for name in ["TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"]:
        bases = getattr(socketserver_fast, f"Prefork{name}").__bases__
        assert bases == (mixin, getattr(socketserver_fast, name))


def test_late_shutdown_does_not_stop_the_next_serve_forever(program):
    """As when serve_forever() has returned before shutdown() goes on to wait for it."""
    server = program(main=IN_THREAD.format("""
from socketserver_fast._serving import serving
request_stop = serving.request_stop

def slowly(server):
    request_stop(server)
    if server.worker_index is None:
        serving.wait_until_stopped(server)

serving.request_stop = slowly
while server._supervisor is None:
    time.sleep(0.001)
say("stopped", server.shutdown(), serving.stop_requested(server))
"""))
    server.wait()
    assert server.said("stopped") == ["True False"]


def test_every_worker_serves(program):
    server = program(setup="Server.workers = 3")
    indexes = {line.split()[0]: int(line.split()[1]) for line in server.expect("started", 3)}
    assert set(indexes) == {"0", "1", "2"}
    held = []
    seen = {}
    while len(seen) < 3:  # a synchronous worker that is held leaves the next one to the others
        held.append(server.connect())
        held[-1].send(b"(self.server.worker_index, os.getpid())\n")
        index, pid = eval(held[-1].recv(99))
        seen[str(index)] = pid
    assert seen == indexes
    assert server.pid not in seen.values()
    for client in held:
        client.close()
    assert server.end() == 0
    assert sorted(server.said("stopping")) == sorted(server.said("started"))
    assert server.lines[-1] == "returned"
    assert server.errors() == ""


def test_default_is_all_usable_cpus(program):
    limited = hasattr(os, "sched_setaffinity")
    limit = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n" if limited else ""
    server = program(setup=limit + "del Server.workers")
    count = 1 if limited else os.cpu_count()
    server.started(count)
    assert server.ask("1") == 1
    assert server.end() == 0
    assert len(server.said("started")) == count


@pytest.mark.parametrize("base", [
    "TCPServer", "ThreadingTCPServer", "ForkingTCPServer", "UDPServer", "ThreadingUDPServer",
    "UnixStreamServer", "UnixDatagramServer", "ThreadingUnixStreamServer", "ThreadPoolTCPServer",
    "ThreadPoolUDPServer", "ThreadPoolUnixStreamServer", *GREEN])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_every_kind(program, base, reuse_port):
    if reuse_port and ("Unix" in base or not hasattr(socket, "SO_REUSEPORT")):
        pytest.skip("reuse_port is for IP sockets")
    server = program(base, f"Server.reuse_port = {reuse_port}")
    server.started()
    seen = {server.ask("os.getpid()") for _ in range(20)}
    assert server.pid not in seen
    if "Forking" not in base:
        assert seen <= set(server.started())
    assert server.end() == 0
    assert server.errors() == ""


@pytest.mark.parametrize("setup", [
    "", "from socketserver_fast._prefork import slots\nslots.STREAM_TIMEOUT = 0.001\n"])
def test_connections_are_blocking(program, setup):
    """Also as it is where they inherit the mode of their listener."""
    server = program(setup=setup)
    assert server.ask("(self.request.gettimeout(), self.request.getblocking(), os.get_blocking("
                      "self.request.fileno()))") == (None, True, True)


def test_listener_is_blocking_again_afterwards(program):
    server = program(main=IN_THREAD.format("sys.stdin.readline()\nserver.shutdown()") +
                     "say('mode', server.socket.gettimeout(), os.get_blocking(server.fileno()))")
    server.started()
    server.go_on()
    server.wait()
    assert server.said("mode") == ["None True"]


def test_server_that_has_no_hash(program):
    server = program(setup="Server.__eq__ = lambda self, other: True\nServer.__hash__ = None")
    assert server.ask("os.getpid()") in server.started()
    assert server.end() == 0


def test_worker_closes_the_listeners_of_other_servers(program):
    """Also those of servers that count as equal."""
    server = program(setup="""
        Server.__eq__ = lambda self, other: True
        Server.__hash__ = None
        other = Server(("127.0.0.1", 0), None)
    """)
    assert server.ask("(other.fileno(), self.server.fileno() >= 0)") == (-1, True)
    assert server.end() == 0


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_reuse_port_gives_each_worker_a_socket(program):
    inode = "(self.server.worker_index, os.fstat(self.server.fileno()).st_ino)"
    shared = program()
    assert len({shared.ask(inode)[1] for _ in range(20)}) == 1
    own = program(setup="Server.reuse_port = True")
    own.started()
    answers = {own.ask(inode) for _ in range(60)}
    assert len({inode for _, inode in answers}) == len({index for index, _ in answers})


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
@pytest.mark.parametrize(("setup", "base", "main", "message"), [
    ("Server.reuse_port = True", "UnixStreamServer", "", "reuse_port works with IP sockets only"),
    ("", "TCPServer", "server.reuse_port = True; server.serve_forever()",
     "reuse_port must be true before"),
    ("", "TCPServer", "server.workers = 0; server.serve_forever()", "workers must be a number"),
    ("", "TCPServer", "server.workers = 'two'; server.serve_forever()", "workers must be a number"),
])
def test_nonsense_is_refused(program, setup, base, main, message):
    if "Unix" in base:
        with pytest.raises(ValueError, match=message):
            type("S", (socketserver_fast.PreforkMixIn, getattr(socketserver_fast, base)),
                 {"reuse_port": True})("/nowhere", None)
        return
    server = program(base, setup, main=main)
    assert server.wait() == 1
    assert f"ValueError: {message}" in server.errors()


def test_worker_started_that_fails_ends_the_server(program, is_running):
    server = program(setup="""
        class Server(Server):
            def worker_started(self):
                super().worker_started()
                if self.worker_index == 1:
                    raise LookupError("no database")
    """, main="""
        try:
            server.serve_forever()
        except RuntimeError as error:
            say("raised", "LookupError: no database" in str(error), "worker 1" in str(error))
    """)
    assert server.wait() == 0
    assert server.said("raised") == ["True True"]
    assert not any(is_running(pid) for pid in server.started())


def test_max_requests_replaces_workers(program):
    server = program(setup="Server.workers = 1\nServer.max_requests = 5")
    first, = server.started(1)
    answers = [server.ask("os.getpid()") for _ in range(12)]
    assert None not in answers
    assert answers[:5] == [first] * 5
    assert len(set(answers)) == 3
    assert server.end() == 0
    assert len(server.said("stopping")) == 3
    assert server.errors() == ""


def test_max_requests_is_spread(program):
    server = program(setup="Server.workers = 3\nServer.max_requests = 100_000")
    limits = {server.ask("self.server._worker.left") for _ in range(30)}
    assert all(99_900 <= limit <= 110_000 for limit in limits)


def test_hung_worker_is_replaced(program):
    server = program(setup="Server.worker_timeout = 0.5\nServer.workers = 1")
    pid, = server.started(1)
    assert server.ask("time.sleep(60)") is None
    assert server.ask("os.getpid()") == server.started(2)[1] != pid
    assert f"kills worker 0 (process {pid})" in server.errors()


@pytest.mark.parametrize("poll_interval", [0.01, None])
def test_idle_worker_is_not_hung(program, poll_interval):
    main = f"server.serve_forever({poll_interval})"
    server = program(setup="Server.worker_timeout = 0.8", main=main)
    server.started()
    time.sleep(1.5)
    assert server.ask("os.getpid()") in server.started()
    assert server.end() == 0
    assert server.errors() == ""


@pytest.mark.parametrize("poll_interval", [0.5, 20, None])
@pytest.mark.parametrize("base", ["TCPServer", "ThreadingUDPServer"])
def test_shutdown_from_another_thread(program, base, poll_interval):
    server = program(base, main=f"""
        thread = threading.Thread(target=server.serve_forever, args=({poll_interval},))
        thread.start()
        sys.stdin.readline()
        server.shutdown()
        say("alive", thread.is_alive(), server._supervisor)
        thread.join()
    """)
    server.started()
    server.go_on()
    assert server.wait() == 0
    assert server.said("alive")[0].endswith("None")
    assert len(server.said("stopping")) == 2


def test_shutdown_finishes_requests(program):
    main = IN_THREAD.format("sys.stdin.readline()\nserver.shutdown()")
    server = program("ThreadingTCPServer", main=main)
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.5) or 'done'\n")
        server.expect("here")
        server.go_on()
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_end_waits_for_requests_without_limit_too(program, base, timeout):
    server = program(base, f"Server.drain_timeout = {timeout}")
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.3) or 'done'\n")
        server.expect("here")
        server.send_signal(signal.SIGTERM)
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert server.errors() == ""


@pytest.mark.parametrize(
    "base", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "ForkingTCPServer", *GREEN])
def test_requests_in_progress_are_those_of_all_workers(program, base, eventually):
    """The requests of a killed worker are over."""
    server = program(base, """
        class Handler(Handler):
            def handle(self):
                say("here", os.getpid())
                self.rfile.read(1)
    """, main="""
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        while word := sys.stdin.readline():
            say("in_progress", server.requests_in_progress)
        server.drain(0)
        thread.join()
    """)
    if server.kind == socket.SOCK_DGRAM:
        return

    def in_progress():
        count = len(server.said("in_progress"))
        server.go_on()
        return int(server.expect("in_progress", count + 1)[-1])

    server.started()
    clients = [server.connect() for _ in range(2)]
    server.expect("here", 2)
    eventually(lambda: in_progress() == 2)  # a child may be faster than what its parent tells
    for client in clients:
        client.close()
    eventually(lambda: in_progress() == 0)
    with server.connect():
        pid = int(server.expect("here", 3)[-1])
        eventually(lambda: in_progress() == 1)
        if "Forking" not in base:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: in_progress() == 0)
    server.process.stdin.close()
    assert server.wait() == 0


def test_shutdown_in_a_worker_ends_the_server(program):
    server = program("ThreadingTCPServer")
    server.ask("self.server.shutdown()")
    assert server.wait() == 0
    assert server.lines[-1] == "returned"


def test_server_close_from_another_thread_ends_the_workers(program):
    server = program(main=IN_THREAD.format("sys.stdin.readline()\nserver.server_close()"))
    server.started()
    server.go_on()
    assert server.wait() == 0
    assert len(server.said("stopping")) == 2


def test_serve_forever_again(program):
    stop = IN_THREAD.format("sys.stdin.readline()\nserver.shutdown()")
    server = program(main=3 * stop)
    for rounds in range(1, 4):
        server.started(2 * rounds)
        assert server.ask("1") == 1
        server.go_on()
    assert server.wait() == 0
    assert len(server.said("stopping")) == 6


def test_service_actions_everywhere(program):
    server = program(setup="""
        class Server(Server):
            actions = 0
            def service_actions(self):
                super().service_actions()
                self.actions += 1
                if self.actions == 3:
                    say("actions", "parent" if self.worker_index is None else "worker")
    """, main="server.serve_forever(0.01)")
    server.expect("actions", 3)
    assert sorted(server.said("actions")) == ["parent", "worker", "worker"]


def test_error_in_service_actions_leaves_serve_forever(program, is_running):
    server = program(setup="""
        class Server(Server):
            def service_actions(self):
                if self.worker_index is None and os.path.exists(FILE):
                    raise LookupError("tick")
        FILE = sys.argv[0] + ".stop"
    """, main="server.serve_forever(0.01)")
    pids = server.started()
    server.script.with_name(server.script.name + ".stop").touch()
    assert server.wait() == 1
    assert "LookupError: tick" in server.errors()
    assert not any(is_running(pid) for pid in pids)


def test_handle_request_in_the_calling_process(program):
    server = program(main="server.handle_request()")
    assert server.ask("(os.getpid(), self.server.worker_index)") == (server.pid, None)
    assert server.wait() == 0


@pytest.mark.skipif(gc.get_freeze_count() > 0, reason="who froze objects before keeps them frozen")
def test_objects_are_frozen_in_workers_only(program):
    server = program(main="server.serve_forever()\nsay('frozen', gc.get_freeze_count())")
    assert server.ask("gc.get_freeze_count()") > 1000
    server.end()
    assert server.said("frozen") == ["0"]


def test_worker_flushes_and_skips_exit_handlers(program):
    server = program(setup="""
        import atexit
        atexit.register(say, "at exit")
        print("before")
    """)
    server.ask("print('in worker')")
    server.end()
    assert [len(server.said(word)) for word in ("before", "in", "at")] == [1, 1, 1]


def test_exception_in_a_worker_is_printed(program):
    server = program(setup="""
        class Server(Server):
            def verify_request(self, request, client_address):
                raise LookupError("verify")
        Server.workers = 1
    """)
    first, = server.started(1)
    with server.connect() as client:
        client.send(b"1\n")
        server.started(2)
    assert server.end() == 0
    assert "LookupError: verify" in server.errors()
    assert f"worker 0 (process {first}) ended with exit status 1" in server.errors()


DRAIN = """
thread = threading.Thread(target=server.serve_forever)
thread.start()
sys.stdin.readline()
say("drained", server.drain({}))
thread.join()
"""


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_drain_finishes_requests(program, base):
    server = program(base, main=DRAIN.format("20"))
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.3) or 'done'\n")
        server.expect("here")
        server.go_on()
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert server.said("drained") == ["True"]
    assert len(server.said("stopping")) == 2


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_drain_says_that_a_request_was_not_finished(program, base):
    server = program(base, main=DRAIN.format("0.3"))
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(60)\n")
        server.expect("here")
        server.go_on()
        assert server.wait() == 0
        assert client.recv(99) == b""
    assert server.said("drained") == ["False"]


@pytest.mark.parametrize("reuse_port", [False, True])
def test_drain_serves_what_the_kernel_has_queued(program, reuse_port):
    server = program(setup=f"Server.workers = 1\nServer.request_queue_size = 50\n"
                     f"Server.reuse_port = {reuse_port}", main=DRAIN.format("20"))
    with server.connect() as busy:
        busy.send(b"say('here') or time.sleep(0.5)\n")
        server.expect("here")
        queued = [server.connect() for _ in range(30)]
        server.go_on()
        for number, client in enumerate(queued):
            client.send(b"%d\n" % number)
            client.shutdown(socket.SHUT_WR)
        assert busy.recv(99) == b"None\n"
    for number, client in enumerate(queued):
        assert client.makefile("rb").read() == b"%d\n" % number
        client.close()
    assert server.wait() == 0
    assert server.said("drained") == ["True"]
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_serve_until_signal(program):
    server = program("ThreadingTCPServer", main="""
        say("signal", server.serve_until_signal(signal.SIGTERM, signal.SIGUSR1, drain_timeout=20))
    """)
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.3) or 'done'\n")
        server.expect("here")
        server.send_signal(signal.SIGUSR1)
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert server.said("signal") == [str(signal.SIGUSR1.value)]


@pytest.mark.parametrize("method", ["shutdown", "drain"])
def test_it_does_not_wait_for_itself(program, method):
    server = program(setup=f"""
        class Server(Server):
            def service_actions(self):
                if self.worker_index is None:
                    try:
                        self.{method}()
                    except RuntimeError:
                        say("refused")
    """)
    server.expect("refused")
    assert server.end() == 0
