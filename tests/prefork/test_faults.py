"""Servers with worker processes survive ends of every kind, on each side, and leave nothing."""

import contextlib
import errno
import itertools
import os
import pathlib
import random
import signal
import socket
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

linux = pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="reads /proc")
PORTABLE = "from socketserver_fast._prefork import worker\nworker.libc = None\n"


@pytest.mark.parametrize("setup", ["", PORTABLE])
@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer"])
def test_parent_killed(program, eventually, is_running, base, setup):
    """Also those that are in the middle of a request."""
    server = program(base, setup + "Server.allow_reuse_address = True")
    pids = server.started()
    with server.connect() as busy:
        busy.send(b"say('here') or time.sleep(60)\n")
        server.expect("here")
        server.process.kill()
        killed = time.monotonic()
        eventually(lambda: not any(is_running(pid) for pid in pids))
        eventually(lambda: is_free(server.address))  # a thread may outlive the main one a little
        assert time.monotonic() - killed < 3  # it is a second, on a machine that is not busy
    server.wait()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer"])
def test_parent_killed_whose_workers_have_dropped_privileges(program, eventually, is_running, base):
    """The kernel forgets the signal that a process asked for when that changes its user."""
    server = program(base, """
        class Server(Server):
            def worker_started(self):
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                super().worker_started()
    """)
    pids = server.started()
    assert server.ask("os.getuid()") == 65534
    server.process.kill()
    eventually(lambda: not any(is_running(pid) for pid in pids))
    server.wait()


def is_free(address):
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            again.bind(address)
            again.listen()
            return True
    return False


def test_parent_killed_while_workers_start(program, eventually, is_running):
    server = program(setup="""
        class Server(Server):
            def worker_started(self):
                super().worker_started()
                time.sleep(60)
    """)
    pids = server.started()
    server.process.kill()
    eventually(lambda: not any(is_running(pid) for pid in pids))
    server.wait()


@pytest.mark.parametrize(("deed", "how"), [
    ("os._exit(0)", "with exit status 0"),
    ("os._exit(1)", "with exit status 1"),
    ("os._exit(77)", "with exit status 77"),
    ("sys.exit(0)", "with exit status 0"),
    ("sys.exit('text')", "with exit status 1"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "by SIGKILL"),
    ("os.abort()", "by SIGABRT"),
])
def test_worker_that_ends_is_replaced(program, deed, how):
    server = program(setup="import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
                     "Server.workers = 1")
    first, = server.started(1)
    assert server.ask(deed) is None
    second = server.started(2)[1]
    assert server.ask("os.getpid()") == second != first
    assert server.end() == 0
    assert f"worker 0 (process {first}) ended {how}" in server.errors()


def test_worker_that_always_dies_young_is_started_ever_more_slowly(program):
    server = program(setup="""
        Server.workers = 1
        class Server(Server):
            def worker_started(self):
                say("died", self.worker_index)
                os._exit(3)
    """)
    times = []
    for count in range(1, 6):
        server.expect("died", count)
        times.append(time.monotonic())
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[-1] > 0.35
    assert sum(pauses) > 0.7
    assert server.end() == 0


def test_stopped_worker_is_killed_at_the_end(program, is_running):
    server = program(setup="Server.drain_timeout = 0.5")
    pids = server.started()
    os.kill(pids[0], signal.SIGSTOP)
    assert server.end() == 0
    assert not is_running(pids[0])


def test_fork_refused(program):
    server = program(setup="""
        fork, refusals = os.fork, iter(range(3))
        def refuse():
            if next(refusals, None) is not None:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return fork()
        os.fork = refuse
    """)
    server.started()
    assert server.ask("1") == 1
    assert server.end() == 0
    assert "Server cannot start worker 0: [Errno 11] Resource temp" in server.errors()


def test_out_of_descriptors(program, eventually):
    """The replacement waits until there are some again."""
    server = program(setup="""
        Server.workers = 1
        class Server(Server):
            taken = []
            def service_actions(self):
                super().service_actions()
                if self.worker_index is not None:
                    return
                if os.path.exists(sys.argv[0] + ".free"):
                    while self.taken:
                        os.close(self.taken.pop())
                    return
                try:
                    while True:
                        self.taken.append(os.dup(0))
                except OSError:
                    say("full")
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    """, main="server.serve_forever(0.05)")
    first, = server.started(1)
    server.expect("full")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "cannot start worker 0" in server.errors())
    server.script.with_name(server.script.name + ".free").touch()
    assert server.ask("os.getpid()") == server.started(2)[1]
    assert server.end() == 0


def test_address_taken_between_restarts(program):
    first = program(setup="Server.allow_reuse_address = True")
    assert first.ask("1") == 1
    first.end()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(first.address)
        other.listen()
        second = program(setup="""
            class Server(Server):
                allow_reuse_address = True
                def __init__(self, *args):
                    say("port", repr(args[0]))
                    super().__init__(*args)
        """, address=first.address)
        assert second.wait() == 1
        assert f"[Errno {errno.EADDRINUSE}]" in second.errors()
        assert second.said("started") == []
    third = program(setup="Server.allow_reuse_address = True", address=first.address)
    assert third.ask("1") == 1


@linux
def test_no_descriptor_leaks(program):
    """Two hundred replacements, and then the worker of the last one has what the first had."""
    server = program(setup="Server.workers = 1\nServer.max_requests = 1", main="""
        before = len(os.listdir("/proc/self/fd"))
        server.serve_forever()
        say("left", len(os.listdir("/proc/self/fd")) - before)
    """)
    descriptors = "len(os.listdir('/proc/self/fd'))"
    first = server.ask(descriptors)
    for _ in range(200):
        last = server.ask(descriptors)
    assert last == first
    assert server.end() == 0
    assert server.said("left") == ["-1"]  # the listener
    assert len(server.said("started")) > 200


@linux
@pytest.mark.parametrize("reuse_port", [False, True])
def test_restarts_of_the_server_leak_nothing(program, reuse_port):
    server = program(main=f"""
        Server.reuse_port = {reuse_port}
        ready, started = os.pipe()
        Server.worker_started = lambda self: os.write(started, b"1")
        def restart():
            with Server(server.server_address[:1] + (0,), Handler) as another:
                thread = threading.Thread(target=another.serve_forever)
                thread.start()
                os.read(ready, 1), os.read(ready, 1)  # or they inherit the client
                with socket.create_connection(another.server_address) as client:
                    client.sendall(b"1\\n")
                    assert client.recv(9) == b"1\\n"
                another.shutdown()
                thread.join()
        restart()
        before = os.listdir("/proc/self/fd")
        for _ in range(30):
            restart()
        say("left", os.listdir("/proc/self/fd") == before)
    """)
    assert server.wait() == 0
    assert server.said("left") == ["True"]


@linux
def test_descriptors_of_a_worker(program):
    """Its channel, the listener, the request and what the program had: nothing of its siblings."""
    server = program(setup="Server.workers = 4\nbefore = len(os.listdir('/proc/self/fd'))")
    server.started(4)
    counts = {server.ask("(self.server.worker_index, len(os.listdir('/proc/self/fd')) - before)")
              for _ in range(40)}
    assert {count for _, count in counts} == {5}  # with the loop's socket pair


TWO = """
    second = Server(("127.0.0.1", 0), Handler)
    say("second", repr(second.server_address))
    thread = threading.Thread(target=second.serve_forever)
    thread.start()
    server.serve_forever()
    say("one")
    second.shutdown()
    thread.join()
    second.server_close()
"""


@pytest.mark.parametrize("setup", ["", PORTABLE])
def test_two_servers_in_one_program(program, setup):
    server = program(setup=setup, main=TWO)
    server.started(4)
    first, server.address = server.address, eval(server.expect("second")[0])
    seen = {server.ask("os.getpid()") for _ in range(20)}
    server.address = first
    assert not seen & {server.ask("os.getpid()") for _ in range(20)}
    assert server.end() == 0
    assert len(server.said("stopping")) == 4


def test_a_closed_server_is_closed_although_another_has_workers(program):
    server = program(main="""
        second = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        say("second", repr(second.server_address))
        sys.stdin.readline()
        second.server_close()
        say("closed")
        thread.join()
    """)
    server.started()
    second = eval(server.expect("second")[0])
    server.go_on()
    server.expect("closed")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(second, 10)


OWN_CHILDREN = """
import subprocess
{handler}
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(7)"],
                         stdin=subprocess.PIPE)
short = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "raise SystemExit(5)"])
"""
THEIR_STATUS = """
    server.serve_forever()
    child.communicate()
    say("statuses", child.returncode, os.waitstatus_to_exitcode(os.waitpid(short, 0)[1]))
"""


def test_children_of_the_program_are_left_alone(program):
    server = program(setup=OWN_CHILDREN.format(handler=""), main=THEIR_STATUS)
    pids = server.started()
    os.kill(pids[0], signal.SIGKILL)
    server.started(3)
    assert server.end() == 0
    assert server.said("statuses") == ["7 5"]


@pytest.mark.parametrize("handler", [
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
"""])
def test_program_that_reaps_all_children(program, handler):
    server = program(setup=handler)
    pids = server.started()
    os.kill(pids[0], signal.SIGKILL)
    server.started(3)
    assert server.ask("1") == 1
    assert server.end() == 0
    assert len(server.said("stopping")) == 2


def test_killed_workers_lose_only_their_own_requests(program, load, is_running, eventually):
    server = program(setup="Server.workers = 3")
    server.started(3)
    with load(server, clients=3, tolerant=True) as count:
        for kills in range(1, 13):
            enough = count() + 20
            victim = random.choice([pid for pid in server.started(3) if is_running(pid)])
            os.kill(victim, signal.SIGKILL)
            server.started(3 + kills)
            eventually(lambda enough=enough: count() >= enough)
    assert count.lost() <= 12
    assert server.end() == 0
    assert server.errors().count("SIGKILL") == 12


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has to end them")
def test_children_of_a_killed_forking_worker_end(program, is_running, eventually):
    server = program("ForkingTCPServer")
    with server.connect() as client:
        client.send(b"say('child', os.getpid(), os.getppid()) or time.sleep(60)\n")
        child, worker = map(int, server.expect("child")[0].split())
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not is_running(child))
        assert client.recv(9) == b""
    assert server.end() == 0


INLINE = """
    def process_request(self, request, client_address):
        TCPServer.process_request(self, request, client_address)
    Server.process_request = process_request
"""
DOUBLE_FORK = """
    def process_request(self, request, client_address):
        if os.fork() == 0:
            if os.fork() == 0:
                self.finish_request(request, client_address)
                self.shutdown_request(request)
            os._exit(0)
        os.wait()
        self.close_request(request)
    Server.process_request = process_request
"""


@pytest.mark.parametrize("setup", [INLINE, DOUBLE_FORK])
def test_forking_worker_with_a_way_of_its_own(program, setup):
    server = program("ForkingTCPServer", setup)
    assert server.ask("6 * 7") == 42
    assert server.end() == 0


@pytest.mark.parametrize("setup", ["", "vars(os).pop('pidfd_open', None)\n"])
def test_a_grandchild_keeps_nobody_waiting(program, setup):
    """It holds the worker's end of the channel: the end of the worker is seen all the same."""
    server = program(setup=setup + "Server.workers = 1")
    child = server.ask("os.fork() or (os.close(1), time.sleep(60))")
    try:
        assert server.ask("os._exit(1)") is None
        assert server.ask("os.getpid()") == server.started(2)[1]
        assert server.end() == 0
    finally:
        os.kill(child, signal.SIGKILL)
