"""Signals to a server with workers: the end, the replacement, more and fewer workers."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

SLOW = b"say('here') or time.sleep(0.3) or 'done'\n"
AFTERWARDS = """
names = "SIGTERM SIGINT SIGHUP SIGTTIN SIGTTOU".split()
before = [signal.getsignal(getattr(signal, name)) for name in names]
try:
    server.serve_forever()
except KeyboardInterrupt:
    say("interrupted")
say("restored", before == [signal.getsignal(getattr(signal, name)) for name in names])
say("wakeup", signal.set_wakeup_fd(-1))
"""


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_finishes_requests(program, base, number):
    server = program(base, main=AFTERWARDS)
    with server.connect() as client:
        client.send(SLOW)
        server.expect("here")
        server.send_signal(number)
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert len(server.said("stopping")) == 2
    assert server.said("interrupted") == ([""] if number == signal.SIGINT else [])
    assert server.said("restored") == ["True"]
    assert server.said("wakeup") == ["-1"]
    assert server.errors() == ""


def test_late_requests_are_killed(program, is_running):
    server = program(setup="Server.drain_timeout = 0.5")
    pids = server.started()
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(60)\n")
        server.expect("here")
        assert server.end() == 0
        assert client.recv(99) == b""
    assert not any(is_running(pid) for pid in pids)
    assert "its requests were not finished in time" in server.errors()


def test_second_interrupt_does_not_wait(program, is_running):
    server = program(setup="Server.drain_timeout = 60")
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(60)\n")
        server.expect("here")
        server.send_signal(signal.SIGINT)
        server.expect("stopping")  # the other worker
        server.send_signal(signal.SIGTERM)  # changes nothing
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(99)
        assert server.end(signal.SIGINT) == -signal.SIGINT
    assert "KeyboardInterrupt" in server.errors()
    assert not any(is_running(pid) for pid in server.started())


def test_interrupt_of_the_whole_group(program):
    """Ctrl-C reaches the workers as well; they leave it to the parent."""
    server = program("ThreadingTCPServer", "os.setpgid(0, 0)", main=AFTERWARDS)
    with server.connect() as client:
        client.send(SLOW)
        server.expect("here")
        os.killpg(server.pid, signal.SIGINT)
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert server.errors() == ""


def test_handler_of_the_program_is_called(program):
    server = program(setup="signal.signal(signal.SIGTERM, lambda *args: say('own', *args))")
    server.started()
    assert server.end() == 0
    assert server.said("own") == [f"{signal.SIGTERM.value} None"]


def test_ignored_signals_stay_ignored(program):
    main = "server.serve_forever()\nsay('hup', signal.getsignal(signal.SIGHUP).name)"
    server = program(setup="signal.signal(signal.SIGHUP, signal.SIG_IGN)", main=main)
    pids = server.started()
    server.send_signal(signal.SIGHUP)
    assert server.ask("os.getpid()") in pids
    server.end()
    assert len(server.said("started")) == 2
    assert server.said("hup") == ["SIG_IGN"]


def test_worker_ends_on_sigterm_and_is_replaced(program):
    server = program(setup="Server.workers = 1")
    first, = server.started(1)
    os.kill(first, signal.SIGTERM)
    second = server.started(2)[1]
    assert server.said("stopping") == [f"0 {first}"]
    for number in [signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU]:
        os.kill(second, number)
    assert server.ask("os.getpid()") == second


def test_without_the_main_thread_signals_are_the_program_s(program):
    server = program(setup="signal.signal(signal.SIGTERM, lambda *_: server.shutdown())", main="""
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        thread.join()
    """)
    server.started()
    assert server.end() == 0
    assert len(server.said("stopping")) == 2


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_replacement_under_load(program, load, base, reuse_port):
    server = program(base, f"Server.reuse_port = {reuse_port}")
    server.started()
    with load(server) as count:
        for rounds in range(2, 6):
            server.send_signal(signal.SIGHUP)
            server.started(2 * rounds)
            server.expect("stopping", 2 * rounds - 2)
        assert count() > 0
    assert server.end() == 0
    assert server.errors() == ""
    indexes = [line.split()[0] for line in server.said("started")]
    assert sorted(indexes) == ["0"] * 5 + ["1"] * 5


def test_replacement_starts_before_it_ends(program):
    server = program(setup="Server.workers = 1")
    server.started(1)
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.5) or 'done'\n")
        server.expect("here")
        server.send_signal(signal.SIGHUP)
        assert server.ask("os.getpid()") == server.started(2)[1]
        assert client.recv(99) == b"'done'\n"


def test_many_replacements_at_once(program, load):
    server = program()
    server.started()
    with load(server):
        for _ in range(50):
            server.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        server.started(6)
    assert server.end() == 0
    assert server.errors() == ""


def test_one_more_and_one_less(program, load):
    server = program("ThreadingTCPServer")
    server.started()
    with load(server):
        server.send_signal(signal.SIGTTIN)
        assert server.expect("started", 3)[2].startswith("2 ")
        server.send_signal(signal.SIGTTOU)
        assert server.expect("stopping")[0].startswith("2 ")
        server.send_signal(signal.SIGTTOU)
        assert server.expect("stopping", 2)[1].startswith("1 ")
        server.send_signal(signal.SIGTTIN)
        assert server.expect("started", 4)[3].startswith("1 ")
    assert server.end() == 0
    assert server.errors() == ""


def test_last_worker_stays(program):
    server = program(setup="""
        class Server(Server):
            workers = 1
            def service_actions(self):
                super().service_actions()
                if self.worker_index is None:
                    say("turn", len(self._supervisor.slots))
    """, main="server.serve_forever(0.05)")
    first, = server.started(1)
    server.send_signal(signal.SIGTTOU)
    turns = server.expect("turn", len(server.said("turn")) + 3)
    assert set(turns) == {"1"}
    assert server.ask("os.getpid()") == first


def test_number_of_workers_changed_by_assignment(program):
    server = program(setup="""
        class Server(Server):
            def service_actions(self):
                super().service_actions()
                if self.worker_index is None:
                    self.workers = 1
    """, main="server.serve_forever(0.05)")
    assert server.expect("stopping")[0].startswith("1 ")


@pytest.mark.parametrize(("number", "word", "count"), [
    (signal.SIGTERM, "returned", 1), (signal.SIGINT, "stopping", 2), (signal.SIGHUP, "started", 4),
    (signal.SIGTTIN, "started", 3), (signal.SIGTTOU, "stopping", 1)])
def test_signal_between_the_look_for_it_and_the_wait(program, number, word, count):
    """It must not wait for the next turn, which never comes here."""
    server = program(setup=f"""
        class Selector(socketserver_fast._ServerSelector):
            def select(self, timeout=None):
                if len(started) == 2 and os.getpid() == parent:
                    started.clear()
                    signal.raise_signal({number.value})
                return super().select(timeout)
        socketserver_fast._ServerSelector = Selector
        started, parent = [], os.getpid()
        class Server(Server):
            def service_actions(self):
                super().service_actions()
                if self.worker_index is None:
                    ready = [slot for slot in self._supervisor.slots
                             if slot.worker and slot.worker.ready_since]
                    if len(ready) == 2 and not done:
                        done.append(started.extend([1, 2]))
        done = []
    """, main="server.serve_forever(None)")
    server.expect(word, count)


@pytest.mark.parametrize("delay", [0, 0.001, 0.003, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_during_the_start(program, eventually, delay, number):
    server = program(setup="""
        class Server(Server):
            def worker_started(self):
                time.sleep(0.01)
                super().worker_started()
        def early(number, frame):
            if frame:  # not called by serve_forever() at its end
                say("early")
        signal.signal(signal.SIGTERM, early)
        signal.signal(signal.SIGHUP, early)
    """)
    time.sleep(delay)
    server.send_signal(number)
    if number == signal.SIGTERM:
        eventually(lambda: server.said("early") or server.process.poll() is not None, 30)
    if number == signal.SIGHUP or server.said("early"):
        assert server.ask("1") == 1
        server.end()
    assert server.wait() == 0
    assert len(server.said("started")) == len(server.said("stopping"))


def test_signals_during_the_shutdown(program, is_running):
    server = program("ThreadingTCPServer", "Server.workers = 3")
    with server.connect() as client:
        client.send(b"say('here') or time.sleep(0.6) or 'done'\n")
        server.expect("here")
        for number in [signal.SIGTERM, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU] * 4:
            server.send_signal(number)
            time.sleep(0.01)
        assert client.recv(99) == b"'done'\n"
    assert server.wait() == 0
    assert server.errors() == ""
    assert not any(is_running(pid) for pid in server.started(3))
