"""Processes that are forked while greenlets are served: what is the parent's stays the parent's."""

import os
import signal

import pytest

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

FORK = """
    import os, socket, sys, threading, time
    import {module} as socketserver

    parent = os.getpid()
    told, tell = os.pipe()
    lines = [b"fork\\n", b"one\\n", b"two\\n", b"three\\n"]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            line = self.rfile.readline()
            if line == b"fork\\n":
                time.sleep(0.2)  # the other lines come meanwhile
                child = os.fork()
                if not child:
                    {child}
                _, status = os.waitpid(child, 0)
                os.write(tell, b"%d " % os.waitstatus_to_exitcode(status))
                return
            os.write(tell, b"parent " if os.getpid() == parent else b"child ")
            self.wfile.write(line)

    class Server(socketserver.{server}):
        allow_reuse_address = True
        blocking_threshold = None
        handle_error = print

    def ask():
        clients = [socket.create_connection(server.server_address, 10) for _ in lines]
        for client, line in zip(clients, lines):
            client.sendall(line)
        for client, line in zip(clients[1:], lines[1:]):
            assert client.recv(9) == line
        assert clients[0].recv(9) == b""
        for client in clients:
            client.close()
        server.shutdown()

    server = Server(("127.0.0.1", 0), Handler)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        server.serve_forever()
    except RuntimeError as error:
        if os.getpid() == parent:
            raise
        sys.exit(5)
    server.server_close()
    asking.join()
    os.close(tell)
    print(os.read(told, 1000).decode())
"""


@pytest.mark.parametrize("server", ["ThreadingTCPServer", "GreenletTCPServer"])
@pytest.mark.parametrize(("child", "status"), [
    ("return", 5), ("raise LookupError", 5), ("sys.exit(3)", 3), ("os._exit(4)", 4),
    ("self.server.server_close(); os._exit(6)", 6)])
def test_child_does_not_go_on_with_the_requests_of_its_parent(run_script, server, child, status):
    module = "socketserver" if server == "ThreadingTCPServer" else "socketserver_fast"
    told = run_script(FORK.format(module=module, server=server, child=child)).split()
    assert told.count("parent") == 3
    assert "child" not in told
    if server == "GreenletTCPServer":
        assert str(status) in told


def test_child_of_another_thread_closes_its_copy_of_the_server(
        make_green, serving, connect, receive):
    server = make_green()
    with serving(server):
        client = connect(server, b"line\n")
        assert receive(client, 5) == b"line\n"
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            try:
                server.server_close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.sendall(b"more\n")
        assert receive(client, 5) == b"more\n"
        client.close()
