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
LINE = b"x" * 63 + b"\n"
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


def connected(address):
    """A client that has sent a line and got it back."""
    client = socket.create_connection(address)
    ask(client)
    return client


def ask(client):
    """Send a line and wait for it."""
    client.sendall(LINE)
    client.recv(len(LINE), socket.MSG_WAITALL)


def memory(process):
    """Its private bytes."""
    return process.memory_full_info().uss


def memory_of_idle(address, process):
    """Bytes for each idle connection."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(connected(address))
        first = memory(process)
        for _ in range(IDLE):
            stack.enter_context(connected(address))
        time.sleep(0.2)
        return (memory(process) - first) / IDLE


def cpu_us(process, count, operation):
    """Microseconds of CPU time for each operation."""
    before = sum(process.cpu_times()[:2])
    for _ in range(count):
        operation()
    return (sum(process.cpu_times()[:2]) - before) / count * 1e6


def measure(name):
    """A line of the table."""
    with subprocess.Popen([sys.executable, "-c", SERVER, name], stdout=subprocess.PIPE) as child:
        try:
            address = "127.0.0.1", int(child.stdout.readline())
            process = psutil.Process(child.pid)
            base = memory(process)
            short = cpu_us(process, SHORT, lambda: connected(address).close())
            with connected(address) as client:
                kept = cpu_us(process, LINES, lambda: ask(client))
            held = ("" if name == "TCPServer"
                    else f"{memory_of_idle(address, process) / 1024:.1f} KiB")
        finally:
            child.kill()
    return f"| {name} | {base / 2**20:.1f} MiB | {held} | {short:.0f} µs | {kept:.0f} µs |"


if __name__ == "__main__":
    print("| class | the process | an idle connection | a short connection | a kept line |")
    print("| --- | --- | --- | --- | --- |")
    for model in MODELS:
        print(measure(model), flush=True)
