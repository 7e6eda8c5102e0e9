"""A server out of descriptors for argv[1] seconds. Prints as JSON the CPU it used meanwhile, the
records of its logger, who was answered when the descriptors came back, and how long it took to stop
in the same plight."""

import json
import logging
import os
import resource
import socket
import socketserver
import sys
import threading
import time


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"ok")


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append([record.name, record.levelname, record.getMessage()])


def take_all():
    """Take every descriptor that the process may still have."""
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken


def main(seconds):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    logging.getLogger().addHandler(log := Records())
    server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    with socket.create_connection(server.server_address, 10) as client:
        before = client.recv(9).decode()
    clients = [socket.socket() for _ in range(4)]
    taken = take_all()
    for client in clients:
        client.settimeout(10)
        client.connect(server.server_address)
    used = time.process_time()
    time.sleep(seconds)
    used = time.process_time() - used
    for fd in taken:
        os.close(fd)
    answers = [client.recv(9).decode() for client in clients]
    late = socket.socket()
    take_all()
    late.connect(server.server_address)
    time.sleep(0.1)
    start = time.monotonic()
    server.shutdown()
    stopped = time.monotonic() - start
    thread.join()
    print(json.dumps([before, used / seconds, log.records, answers, stopped]))


main(float(sys.argv[1]))
