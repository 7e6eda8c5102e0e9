"""The parts of a request that need no client, each as a function that does it `loops` times.

    python -m bench.pieces --impl stdlib -o stdlib.json       # --pieces readline,handler
    python -m bench.pieces --impl fast -o fast.json
    python -m pyperf compare_to stdlib.json fast.json

They are timed by pyperf and counted by the gate. A piece is made by `PIECES[name](library)` with
socketserver or socketserver_fast; what it reads is put into the socket by the piece itself, so the
kernel's part is the same for every library.
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
    """A stream handler that has been set up, and the other end of its connection."""
    handler = object.__new__(library.StreamRequestHandler)
    with contextlib.ExitStack() as stack:
        handler.request, other = map(stack.enter_context, socket.socketpair())
        handler.setup()
        stack.callback(handler.finish)
        yield handler, other


def readline(library):
    """rfile.readline() of lines of 64 bytes, a buffer's worth at a time."""

    def run(loops):
        with stream(library) as (handler, other):
            read_line, text, each = handler.rfile.readline, LINE * LINES, range(LINES)
            for _ in range(loops):
                other.sendall(text)
                for _ in each:
                    read_line()

    return run


def write(library):
    """wfile.write() of a line; the other end takes it."""

    def run(loops):
        with stream(library) as (handler, other):
            write_line = handler.wfile.write
            for _ in range(loops):
                write_line(LINE)
                other.recv(len(LINE))

    return run


def handler(library):
    """A stream handler's life without a request: setup(), handle(), finish()."""

    def run(loops):
        here, there = socket.socketpair()
        with here, there:
            for _ in range(loops):
                library.StreamRequestHandler(here, None, None)

    return run


def loop(library):
    """serve_forever() over a descriptor that is always ready and requests that are nothing."""

    class Server(library.BaseServer):
        left = 0

        def fileno(self):
            return self.ready.fileno()

        def get_request(self):
            self.left -= 1
            if self.left <= 0:
                self._BaseServer__shutdown_request = True
            return None, None

    def run(loops):
        server = Server(None, lambda *arguments: None)
        server.left = loops
        server.ready, other = socket.socketpair()
        with server.ready, other:
            other.sendall(b"!")
            server.serve_forever()

    return run


def accept(library):
    """Accept and close a connection; the client's connect() is in the figure, too."""

    def run(loops):
        with library.TCPServer(("127.0.0.1", 0), lambda *arguments: None) as server:
            for _ in range(loops):
                with socket.socket() as client:
                    client.connect(server.server_address)
                    server._handle_request_noblock()

    return run


def packets(library):
    """Packets that wait in bursts: taken, handled, answered; sending the next is in it, too."""

    def run(loops):
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

    return run


def green_close(library):
    """A connection from one greenlet to another: opened, a line and its echo, closed."""

    def talk(connect, loops):
        for _ in range(loops):
            with connect() as client:
                client.sendall(LINE)
                client.recv(len(LINE))

    return lambda loops: on_greenlets(library, talk, loops)


def green_keep(library):
    """A line and its echo between two greenlets that park and are woken."""

    def talk(connect, loops):
        with connect() as client:
            for _ in range(loops):
                client.sendall(LINE)
                client.recv(len(LINE))

    return lambda loops: on_greenlets(library, talk, loops)


def on_greenlets(library, talk, loops):
    """The handler of the first connection, which no greenlet holds, is the client of the others."""
    from socketserver_fast.green import cooperative

    class Handler(library.StreamRequestHandler):
        def handle(self):
            if not self.rfile.readline().startswith(b"begin"):
                self.wfile.write(LINE)
                for line in self.rfile:
                    self.wfile.write(line)
                return
            talk(connect, loops)
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


PIECES = {
    piece.__name__: piece
    for piece in (readline, write, handler, loop, accept, packets, green_close, green_keep)
}
FAST_ONLY = {"green_close", "green_keep"}
INNER = {"readline": LINES, "packets": BURST}  # operations of one loop


def timed(loops, run):
    """Seconds for so many loops."""
    begin = time.perf_counter()
    run(loops)
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
        runner.bench_time_func(
            name, timed, PIECES[name](library), inner_loops=INNER.get(name, 1)
        )


if __name__ == "__main__":
    main()
