"""Measures what thousands of requests leave behind.

argv[1] names one of the functions leak_…, which yield once after each round. It runs twice. Printed
as JSON is how much more there is after the second time: descriptors, threads, children, blocks of
Python's memory per round, KiB.
"""

import contextlib
import gc
import json
import os
import pathlib
import resource
import socket
import socketserver
import struct
import sys
import threading
import time

RESET = struct.pack("ii", 1, 0)


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline(1 << 20)
        if line == b"raise\n":
            raise ValueError(line)
        self.wfile.write(line)


class EchoPacket(socketserver.DatagramRequestHandler):
    def handle(self):
        if self.packet == b"raise":
            raise ValueError(self.packet)
        self.wfile.write(self.rfile.readline())


class Raising:
    def setup(self):
        super().setup()
        raise ValueError

    finish = handle = setup


@contextlib.contextmanager
def serving(name, handler, **attributes):
    """Run a server with attributes of its instance: a free-threaded Python keeps classes."""
    attributes["handle_error"] = lambda request, client_address: None
    with getattr(socketserver, name)(("127.0.0.1", 0), handler) as server:
        vars(server).update(attributes)
        thread = threading.Thread(target=server.serve_forever, args=(0.002,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, data=b"line\n", end=None):
    """Open a connection and end it: `end` is answered, vanished, or reset."""
    with socket.create_connection(server.server_address, 10) as client:
        client.sendall(data)
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if end is None:
            while client.recv(1 << 18):
                pass


def leak_streams():
    with serving("TCPServer", Echo) as server:
        for _ in range(2000):
            yield ask(server)


def leak_bad_clients():
    with serving("TCPServer", Echo) as server:
        for _ in range(500):
            ask(server, b"half a line", "vanish")
            ask(server, b"half a line", "reset")
            ask(server, b"", "reset")
            yield ask(server, b"line\nunread")


def leak_errors():
    with serving("TCPServer", type("Handler", (Raising, Echo), {})) as server:
        for _ in range(500):
            yield ask(server, b"")
        server.RequestHandlerClass = Echo
        for _ in range(500):
            yield ask(server, b"raise\n")
        server.verify_request = lambda request, address: False
        for _ in range(500):
            yield ask(server, b"")


def leak_large_lines():
    line = b"x" * 200_000 + b"\n"
    with serving("TCPServer", Echo) as server:
        for _ in range(300):
            yield ask(server, line)


def leak_buffer_sizes():
    handlers = [type("H", (Echo,), {"rbufsize": r, "wbufsize": w}) for r in (0, 9) for w in (0, 9)]
    with serving("TCPServer", Echo) as server:
        for number in range(1500):
            server.RequestHandlerClass = handlers[number % 4]
            yield ask(server)


def leak_threads():
    with serving("ThreadingTCPServer", Echo, daemon_threads=True) as server:
        for _ in range(300):
            ask(server, b"half a line", "vanish")
            yield ask(server)
        wait_for_threads(2)


def leak_joined_threads():
    with serving("ThreadingTCPServer", Echo) as server:
        for _ in range(500):
            yield ask(server)
        wait_for_threads(2)


def wait_for_threads(count):
    deadline = time.monotonic() + 5
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)


def leak_children():
    with serving("ForkingTCPServer", Echo) as server:
        for _ in range(60):
            yield ask(server)
        server.collect_children(blocking=True)


def leak_datagrams():
    with (
        serving("UDPServer", EchoPacket) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.connect(server.server_address)
        client.settimeout(10)
        for number in range(3000):
            client.send(b"x" * (number % 9000))
            client.send(b"raise")
            client.send(b"")
            yield client.recv(9999), client.recv(9999), client.recv(9999)


def leak_loops():
    with socketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        for _ in range(300):
            thread = threading.Thread(target=server.serve_forever, args=(0.001,))
            thread.start()
            server.shutdown()
            thread.join()
            yield


def leak_servers():
    for _ in range(100):
        with serving("UDPServer", EchoPacket), serving("TCPServer", Echo) as server:
            ask(server)
        yield


def leak_unclosed_handlers():
    """Leave handlers that never close their files in cycles, for the garbage collector."""

    class Cyclic(Echo):
        def handle(self):
            self.itself, self.rfile_too = self, self.rfile

        def finish(self):
            pass

    for _ in range(1000):
        near, far = socket.socketpair()
        Cyclic(near, None, None)
        near.close()
        far.close()
        yield


def state():
    gc.collect()
    return (
        len(list(pathlib.Path("/dev/fd").iterdir())),
        threading.active_count(),
        count_children(),
        sys.getallocatedblocks(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // UNIT,
    )


UNIT = 1024 if sys.platform == "darwin" else 1  # bytes there, KiB elsewhere


def count_children():
    """Return 1 if there is any child, running or not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 1


def main(rounds):
    rounds = globals()[rounds]
    total = sum(1 for _ in rounds())  # warms up, and counts
    before = state()
    for _ in rounds():
        pass
    fds, threads, children, blocks, kib = [b - a for a, b in zip(before, state(), strict=True)]
    print(json.dumps([fds, threads, children, blocks / total, kib]))


main(sys.argv[1])
