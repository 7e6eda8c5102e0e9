"""Defines the parts of a request that need no client, each done `loops` times by a function.

    python -m bench.pieces --impl stdlib -o stdlib.json       # --pieces readline,handler
    python -m bench.pieces --impl fast -o fast.json
    python -m pyperf compare_to stdlib.json fast.json

They are timed by pyperf and counted by the gate. `library` is socketserver or socketserver_fast. A
piece itself puts into the socket what is read, so the kernel's part is the same for every library.
"""

import contextlib
import socket
import tempfile
import time

from bench.contenders import library_of

LINE = b"x" * 63 + b"\n"
LINES = 64  # a buffer's worth: 4 KiB
BURST = 16  # packets that wait at once


@contextlib.contextmanager
def stream(library):
    """Yield a stream handler that has been set up, and the other end of its connection."""
    handler = object.__new__(library.StreamRequestHandler)
    with contextlib.ExitStack() as stack:
        handler.request, other = map(stack.enter_context, socket.socketpair())
        handler.setup()
        stack.callback(handler.finish)
        yield handler, other


def readline(library, loops):
    """Read lines of 64 bytes by rfile.readline(), a buffer's worth at a time."""
    with stream(library) as (handler, other):
        read_line, text, each = handler.rfile.readline, LINE * LINES, range(LINES)
        for _ in range(loops):
            other.sendall(text)
            for _ in each:
                read_line()


def write(library, loops):
    """Write a line by wfile.write(); the other end takes it."""
    with stream(library) as (handler, other):
        write_line = handler.wfile.write
        for _ in range(loops):
            write_line(LINE)
            other.recv(len(LINE))


def handler(library, loops):
    """Make a stream handler without a request: setup(), handle(), finish()."""
    here, there = socket.socketpair()
    with here, there:
        for _ in range(loops):
            library.StreamRequestHandler(here, None, None)


def loop(library, loops):
    """Run serve_forever() on a descriptor that is always ready, with empty requests."""

    class Server(library.BaseServer):
        left = 0

        def fileno(self):
            return self.ready.fileno()

        def get_request(self):
            self.left -= 1
            if self.left <= 0:
                self._BaseServer__shutdown_request = True
            return None, None

    server = Server(None, lambda *arguments: None)
    server.left = loops
    server.ready, other = socket.socketpair()
    with server.ready, other:
        other.sendall(b"!")
        server.serve_forever()


def accept(library, loops):
    """Accept and close a connection; the client's connect() is in the figure, too."""
    with library.TCPServer(("127.0.0.1", 0), lambda *arguments: None) as server:
        for _ in range(loops):
            with socket.socket() as client:
                client.connect(server.server_address)
                server._handle_request_noblock()


def packets(library, loops):
    """Take, handle and answer packets that wait in bursts; sending the next is in it, too."""

    class Echo(library.DatagramRequestHandler):
        left = loops * BURST

        def handle(self):
            self.wfile.write(self.rfile.read())
            client.sendto(LINE, self.server.server_address)
            Echo.left -= 1
            if not Echo.left:
                self.server._BaseServer__shutdown_request = True

    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, library.UDPServer(("127.0.0.1", 0), Echo) as server:
        for _ in range(BURST):
            client.sendto(LINE, server.server_address)
        server.serve_forever()


def green_close(library, loops):
    """Open a connection from one greenlet to another, echo a line, close it."""

    def talk(connect):
        for _ in range(loops):
            with connect() as client:
                client.sendall(LINE)
                client.recv(len(LINE))

    on_greenlets(library, talk)


def green_keep(library, loops):
    """Echo a line between two greenlets that park and are woken."""

    def talk(connect):
        with connect() as client:
            for _ in range(loops):
                client.sendall(LINE)
                client.recv(len(LINE))

    on_greenlets(library, talk)


def on_greenlets(library, talk):
    """Call talk() in the handler of a first connection; it is the client of the others."""
    from socketserver_fast.green import cooperative

    class Handler(library.StreamRequestHandler):
        def handle(self):
            if not self.rfile.readline().startswith(b"begin"):
                self.wfile.write(LINE)
                for line in self.rfile:
                    self.wfile.write(line)
                return
            talk(connect)
            self.server.shutdown()

    def connect():
        client = cooperative(socket.socket(socket.AF_UNIX))
        client.connect(path)
        return client

    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as first:
        path = f"{folder}/s"
        with library.GreenletUnixStreamServer(path, Handler) as server:
            first.connect(path)
            first.sendall(b"begin\n")
            server.serve_forever()


PIECES = {piece.__name__: piece for piece in (
    readline, write, handler, loop, accept, packets, green_close, green_keep)}
FAST_ONLY = {"green_close", "green_keep"}
INNER = {"readline": LINES, "packets": BURST}  # operations of one loop


def timed(loops, piece, library):
    """Return the seconds of so many loops."""
    begin = time.perf_counter()
    piece(library, loops)
    return time.perf_counter() - begin


def pass_on(command, arguments):
    """Tell pyperf's worker processes what is timed."""
    command += ["--impl", arguments.impl, "--pieces", arguments.pieces]


def main():
    """Time the pieces that were asked for, or all that the library has."""
    import pyperf

    runner = pyperf.Runner(program_args=("-m", "bench.pieces"), add_cmdline_args=pass_on)
    runner.argparser.add_argument("--impl", choices=["stdlib", "fast", "patched"], default="fast")
    runner.argparser.add_argument("--pieces", default="", help="names with commas between")
    arguments = runner.parse_args()
    has = [name for name in PIECES if arguments.impl == "fast" or name not in FAST_ONLY]
    library = library_of(arguments.impl)
    for name in arguments.pieces.split(",") if arguments.pieces else has:
        runner.bench_time_func(name, timed, PIECES[name], library, inner_loops=INNER.get(name, 1))


if __name__ == "__main__":
    main()
