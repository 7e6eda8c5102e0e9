"""How servers end: `python -m bench.ending shutdown|drain CONTENDER CLASS SIZE` prints JSON.

The times are milliseconds. The stdlib notices a shutdown at the end of its poll interval of 0.5 s,
so it is asked at moments spread evenly over the interval. A drain begins with SIZE requests in
progress, and its time counts from the end of the last of them; the stdlib's is shutdown() and
server_close(), which joins the threads.
"""

import json
import socket
import sys
import threading
import time

from bench.contenders import Unavailable, why_unavailable
from bench.contenders.classes import lines, server_class
from bench.libraries import library_of
from bench.serve import Task

MOMENTS = [0.05 + 0.5 * i / 8 for i in range(8)]  # seconds after the start of serve_forever
DRAINS = 3
BEGIN_WITHIN = 20  # seconds
IN_DRAIN = 0.7  # seconds until the requests may end: by then the stdlib's shutdown() is over


def shutdowns(library, task):
    """The time of each shutdown()."""
    cls = server_class(library, task)
    for moment in MOMENTS:
        with cls(task.address, lines(library, task)) as server:
            yield shutdown_ms(server, moment)


def shutdown_ms(server, moment):
    """Serve, wait for the moment, shut down."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    time.sleep(moment)
    begin = time.perf_counter()
    server.shutdown()
    took = time.perf_counter() - begin
    thread.join()
    return took * 1e3


class Progress:
    """The requests that have begun, and when each ended."""

    def __init__(self):
        self.begun, self.ended = [], []

    def wait_for(self, count):
        """Return when so many have begun."""
        until = time.monotonic() + BEGIN_WITHIN
        while len(self.begun) < count:
            if time.monotonic() > until:
                raise SystemExit(f"only {len(self.begun)} of {count} requests began")
            time.sleep(0.01)


def one_line(library, progress):
    """A handler that echoes one line, whose first part begins the request."""

    class OneLine(library.StreamRequestHandler):
        def handle(self):
            begin = self.rfile.read(1)
            progress.begun.append(begin)
            self.wfile.write(begin + self.rfile.readline())
            progress.ended.append(time.perf_counter())

    return OneLine


def drains(library, task):
    """The time of each drain."""
    cls = server_class(library, task)
    for _ in range(DRAINS):
        progress = Progress()
        with cls(task.address, one_line(library, progress)) as server:
            yield drain_ms(server, progress, task.workers)


def drain_ms(server, progress, count):
    """Drain a server with so many requests in progress, each of which must be answered."""
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    clients = [socket.create_connection(server.server_address) for _ in range(count)]
    for client in clients:
        client.sendall(b"a")
    progress.wait_for(count)
    finishing = threading.Timer(IN_DRAIN, finish, [clients])
    finishing.start()
    drain(server)
    done = time.perf_counter()
    finishing.join()
    serving.join()
    answered = sum(client.recv(3) == b"ab\n" for client in clients)
    for client in clients:
        client.close()
    if answered != count or len(progress.ended) != count:
        raise SystemExit(f"{count - answered} of {count} requests were lost")
    return (done - max(progress.ended)) * 1e3


def finish(clients):
    """Send the rest of every line."""
    for client in clients:
        client.sendall(b"b\n")


def drain(server):
    """As well as the server can."""
    if hasattr(server, "drain"):
        server.drain(BEGIN_WITHIN)
        return
    server.shutdown()
    server.server_close()


def main(what, contender, name, size):
    """Print the times, or why there are none."""
    task = Task(name, "tcp", "lines", 0, int(size))
    try:
        measure = {"shutdown": shutdowns, "drain": drains}[what]
        print(json.dumps(list(measure(library_of(contender), task))))
    except (ImportError, Unavailable) as missing:
        print(json.dumps({"unavailable": why_unavailable(missing)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
