"""Measure what docs/sizing.md has: memory for each connection, CPU time for each request.

    python -m bench.sizing

Each server runs in a process of its own. Memory is what its private pages grow by from one idle
connection, which has sent a line and got it back, to IDLE of them, kernel memory not included. CPU
time is what the process has used, its kernel part included, for short connections one after the
other and for lines on one that is kept. Linux only; needs psutil.
"""

import contextlib
import socket
import subprocess
import sys
import time

import psutil

IDLE = 500
SHORT, LINES = 3000, 20_000
MODELS = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]
SERVER = """
import sys, socketserver_fast as library

class Echo(library.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

class Server(getattr(library, sys.argv[1])):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    max_connections = 10_000

with Server(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


def ask(client, line=b"x" * 63 + b"\n"):
    """Send a line and wait for it."""
    client.sendall(line)
    left = len(line)
    while left:
        left -= len(client.recv(left))


def memory(process):
    """Its private bytes."""
    return process.memory_full_info().uss


def seconds(process):
    """The CPU time that it has used."""
    times = process.cpu_times()
    return times.user + times.system


def idle(address, process):
    """Bytes for each idle connection."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(IDLE + 1):
            clients.append(stack.enter_context(socket.create_connection(address)))
            ask(clients[-1])
            if number == 0:
                first = memory(process)
        time.sleep(0.2)
        return (memory(process) - first) / IDLE


def short(address, process):
    """CPU seconds for each connection."""
    before = seconds(process)
    for _ in range(SHORT):
        with socket.create_connection(address) as client:
            ask(client)
    return (seconds(process) - before) / SHORT


def kept(address, process):
    """CPU seconds for each line."""
    with socket.create_connection(address) as client:
        ask(client)
        before = seconds(process)
        for _ in range(LINES):
            ask(client)
        return (seconds(process) - before) / LINES


def measure(name):
    """A line of the table."""
    with subprocess.Popen([sys.executable, "-c", SERVER, name], stdout=subprocess.PIPE) as child:
        try:
            address = "127.0.0.1", int(child.stdout.readline())
            process = psutil.Process(child.pid)
            base = memory(process)
            closed, line = short(address, process), kept(address, process)
            each = None if name == "TCPServer" else idle(address, process)
        finally:
            child.kill()
    held = "" if each is None else f"{each / 1024:.1f} KiB"
    return (f"| {name} | {base / 2**20:.1f} MiB | {held} | {closed * 1e6:.0f} µs "
            f"| {line * 1e6:.0f} µs |")


if __name__ == "__main__":
    print("| class | the process | an idle connection | a short connection | a kept line |")
    print("| --- | --- | --- | --- | --- |")
    for model in MODELS:
        print(measure(model), flush=True)
