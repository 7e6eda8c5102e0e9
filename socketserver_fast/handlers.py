"""The handler base classes: one instance for each request."""

import socket
from io import BufferedIOBase

import socketserver_fast
from socketserver_fast._http.files import send_file as send_file
from socketserver_fast._sockets import datagram, reader, writer

_limit_lines = None  # called with each handler once a server has set max_line


class BaseRequestHandler:
    """Handles one request: constructing it calls setup(), handle() and finish().

    finish() is called when setup() succeeded, also if handle() raised. The instance has the
    attributes request, client_address and server. Whoever constructs it closes the request.
    """

    def __init__(self, request, client_address, server):
        self.request = request
        self.client_address = client_address
        self.server = server
        self.setup()
        try:
            self.handle()
        finally:
            self.finish()

    def setup(self):
        """Prepare what handle() needs."""

    def handle(self):
        """Serve the request."""

    def finish(self):
        """Clean up after handle()."""


class StreamRequestHandler(BaseRequestHandler):
    """Handles a connection, with a file to read it, rfile, and one to write it, wfile.

    rfile is buffered. wfile is not, unless `wbufsize` says so: what write() gets is sent when it
    returns. finish() flushes and closes both; the connection stays open for the server to close.
    """

    rbufsize = -1  # bytes of rfile's buffer; negative: the default, 0: none
    wbufsize = 0  # bytes of wfile's buffer; negative: the default, 0: none
    timeout = None  # seconds for each read, and for each write as a whole; None: no limit

    # True: set TCP_NODELAY at once. False, in a class of your own or on an instance: never.
    # Unlike socketserver: this inherited False means before a second write without a read.
    disable_nagle_algorithm = False

    def setup(self):
        """Make connection, rfile and wfile from the request."""
        setup_stream(self, socketserver_fast._SocketWriter)

    def finish(self):
        """Flush and close both files. A client that has gone away is not an error here."""
        if not self.wfile.closed:
            try:
                self.wfile.flush()
            except OSError:
                pass
        self.wfile.close()
        self.rfile.close()


def setup_stream(handler, writer_class):
    """Prepare a handler: the body of StreamRequestHandler.setup(), with any _SocketWriter class."""
    handler.connection = connection = handler.request
    if handler.timeout is not None:
        connection.settimeout(handler.timeout)
    no_delay = handler.disable_nagle_algorithm
    if no_delay:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    handler.rfile, handler.wfile = reader.open_files(
        None if no_delay else handler, connection, handler.rbufsize, handler.wbufsize, writer_class
    )
    if _limit_lines is not None:
        _limit_lines(handler)


class _SocketWriter(BufferedIOBase):
    """Writes to a connection without a buffer: write() sends everything at once.

    The wfile of a plain socket is an instance of the compiled SocketWriter, which counts as one of
    this class.
    """

    def __init__(self, sock):
        self._sock = sock

    def write(self, b):
        """Send all of the bytes-like object `b`; return how many bytes it has.

        Raises TimeoutError when the socket's timeout, in seconds for the whole of `b`, is over,
        BrokenPipeError or ConnectionResetError when the client has gone away.
        """
        nagle = getattr(self, "_nagle", None)
        if nagle is not None:
            writer.before_write(nagle, self._sock)
        return writer.send(self._sock, b)

    def writable(self):
        """Return True."""
        return True

    def fileno(self):
        """Return the descriptor of the socket."""
        return self._sock.fileno()


writer.add_bases(BaseRequestHandler, StreamRequestHandler)
writer.stand_for(_SocketWriter, _SocketWriter.write)


class DatagramRequestHandler(BaseRequestHandler):
    """Handles a packet, with a file to read it, rfile, and one for the reply, wfile.

    finish() sends the reply as one datagram, even if it is empty; OSError if it is too large.
    """

    def setup(self):
        """Make packet, socket, rfile and wfile from the request."""
        self.packet, self.socket = self.request
        self.rfile = datagram.open_packet(self.packet)
        self.wfile = datagram.open_packet(b"")

    def finish(self):
        """Send what was written to wfile to the client."""
        datagram.send(self.socket, self.wfile.getvalue(), self.client_address)
