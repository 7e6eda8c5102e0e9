"""A pool of threads and its process: signals, forks, limits, the end of the interpreter."""

import os
import subprocess
import sys
import textwrap

import pytest

from socketserver_fast._sockets import wait


@pytest.fixture
def python_script(tmp_path):
    """Runs a script after patch(threads="pool"); its output and errors."""

    def run(script):
        path = tmp_path / "script.py"
        path.write_text("import socketserver_fast\nsocketserver_fast.patch(threads='pool')\n"
                        + textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout, done.stderr

    return run


def test_server_close_in_a_signal_handler(python_script):
    """The handler runs in the serving thread, and waits for workers that wait for connections."""
    out, err = python_script("""
        import os, signal, socketserver, threading, time

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), None)
        signal.signal(signal.SIGTERM, lambda *_: server.server_close())
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        server.serve_forever(None)
        print(threading.active_count())
    """)
    assert (out, err) == ("1\n", "")


@pytest.mark.parametrize("hook", ["", "server.verify_request = lambda *_: True"])
def test_keyboard_interrupt_leaves_serve_forever(python_script, hook):
    out, err = python_script(f"""
        import os, signal, socketserver, threading

        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), None)
        {hook}
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            server.serve_forever(None)
        except KeyboardInterrupt:
            print("interrupted", os.get_blocking(server.fileno()))
        server.server_close()
        timer.join()
        print(threading.active_count())
    """)
    assert (out, err) == ("interrupted True\n1\n", "")


@pytest.mark.skipif(not wait.native, reason="where waits do not show")
def test_signal_while_500_handlers_wait_for_kept_connections(python_script):
    """They are closed at once; no thread, descriptor or connection is left."""
    out, err = python_script("""
        import http.server, os, resource, signal, socket, threading

        class Page(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass

        def visit():
            clients = [socket.create_connection(server.server_address, 20) for _ in range(500)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                while not client.recv(999).endswith(b"\\r\\n\\r\\n"):
                    pass
            print(threading.active_count() > 500)
            os.kill(os.getpid(), signal.SIGTERM)
            received = {client.recv(9) for client in clients}
            for client in clients:
                client.close()
            ended.append(received)

        ended = []
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
        before = len(os.listdir("/dev/fd"))
        http.server.ThreadingHTTPServer.request_queue_size = 1024
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        server.daemon_threads = False
        visiting = threading.Thread(target=visit)
        visiting.start()
        print(socketserver_fast.serve_until_signal(server, drain_timeout=50) == signal.SIGTERM)
        visiting.join()
        print(ended, threading.active_count(), len(os.listdir("/dev/fd")) - before)
    """)
    assert (out, err) == ("True\nTrue\n[{b''}] 1 0\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to set")
def test_out_of_descriptors(python_script):
    """Clients that came meanwhile are answered when there are descriptors; nothing spins."""
    out, err = python_script("""
        import logging, os, resource, socket, socketserver, threading, time

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"ok")

        logging.basicConfig(format="%(name)s")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(None,))
        thread.start()
        with socket.create_connection(server.server_address, 10) as client:
            client.recv(9)
        while any("process_request" in thread.name for thread in threading.enumerate()):
            time.sleep(0.001)  # its descriptor would serve all the others
        clients, taken = [socket.socket() for _ in range(4)], []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for client in clients:
            client.settimeout(20)
            client.connect(server.server_address)
        used = time.process_time()
        time.sleep(0.3)
        print(time.process_time() - used < 0.1)
        for fd in taken:
            os.close(fd)
        print([client.recv(9) for client in clients])
        server.shutdown()
        server.server_close()
        thread.join()
    """)
    assert out == f"True\n{[b'ok'] * 4}\n"
    assert err == "socketserver_fast\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
def test_server_goes_on_in_a_forked_child(python_script):
    out, err = python_script("""
        import os, socket, socketserver, threading, warnings

        warnings.simplefilter("ignore")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"%d" % os.getpid())

        def ask():
            with socket.create_connection(server.server_address, 10) as client:
                return int(client.recv(99))

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        assert ask() == os.getpid()
        pid = os.fork()
        if pid == 0:
            assert threading.active_count() == 1
            threading.Thread(target=server.serve_forever, daemon=True).start()
            while ask() != os.getpid():
                pass
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert ask() == os.getpid()
        server.shutdown()
        server.server_close()
        serving.join()
        print(threading.active_count())
    """)
    assert (out, err) == ("1\n", "")


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("hook", ["", "server.verify_request = lambda *_: True"])
def test_interpreter_ends_with_idle_workers(python_script, daemon, hook):
    out, err = python_script(f"""
        import socket, socketserver, threading

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = {daemon}
        {hook}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(9):
            with socket.create_connection(server.server_address, 10) as client:
                client.recv(1)
        print("end")
    """)
    assert (out, err) == ("end\n", "")


@pytest.mark.parametrize(("daemon", "last"), [(False, "finished\n"), (True, "")])
def test_interpreter_waits_for_busy_workers_unless_daemons(python_script, daemon, last):
    out, err = python_script(f"""
        import os, socket, socketserver, threading, time

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                inside.set()
                time.sleep(0.2)
                os.write(1, b"finished\\n")

        inside = threading.Event()
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = {daemon}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = socket.create_connection(server.server_address, 10)
        inside.wait(10)
        client.detach()
    """)
    assert (out, err) == (last, "")


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="3.12 may finalize under such threads: its own ThreadingTCPServer starts no thread then",
)
def test_server_of_a_thread_that_is_no_daemon_outlives_the_main_thread(python_script):
    out, err = python_script("""
        import socket, socketserver, threading

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"served")

        def ask():
            threading.main_thread().join()
            for _ in range(3):
                with socket.create_connection(server.server_address, 10) as client:
                    print(client.recv(9))
            server.shutdown()

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        threading.Thread(target=ask).start()
    """)
    assert (out, err) == ("b'served'\n" * 3, "")


def test_thousand_starts_and_stops_leave_nothing(python_script):
    out, err = python_script("""
        import gc, os, socketserver, sys, threading

        def cycle():
            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), None) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                server.shutdown()
                thread.join()

        def state():
            gc.collect()
            return len(os.listdir("/dev/fd")), threading.active_count(), sys.getallocatedblocks()

        # Without the GIL the start of a thread may take 0.1 s on a busy machine.
        often = 1000 if getattr(sys, "_is_gil_enabled", lambda: True)() else 100
        for _ in range(often // 10):
            cycle()
        before = state()
        for _ in range(often):
            cycle()
        fds, threads, blocks = (b - a for a, b in zip(before, state()))
        print(fds, threads, blocks < 500)
    """)
    assert (out, err) == ("0 0 True\n", "")
