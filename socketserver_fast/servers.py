"""Defines the server classes. The path of one request:

    serve_forever            loop.serve: wait for the listener or a wake-up
      _handle_request_noblock
        get_request          dispatch.accept, or datagram.receive; UDP servers take batches
        verify_request
        process_request      (a mix-in continues in a thread or in a child process)
          finish_request     RequestHandlerClass(request, client_address, self)
          shutdown_request
            close_request
      service_actions

Each of these is looked up on the server at every request, so that all of them can be overridden on
the class and on the instance, at any time.
"""

import socket
import socketserver as _stdlib
import sys
import threading

import socketserver_fast
from socketserver_fast._serving import dispatch, ending, inherited, loop, serving
from socketserver_fast._serving.inherited import Number
from socketserver_fast._serving.serving import requests_of
from socketserver_fast._sockets import addresses, datagram, kept, options, plain
from socketserver_fast._sockets.log import logger, print_exception

__all__ = ["BaseServer", "TCPServer", "UDPServer"]
if hasattr(socket, "AF_UNIX"):
    __all__ += ["UnixDatagramServer", "UnixStreamServer"]


_stdlib_serve_forever = _stdlib.BaseServer.serve_forever


class _Ending:
    """Ends a server: shutdown(), drain() and serve_until_signal().

    The mix-ins have it as a base, too, so that they work with a server class of the stdlib, such
    as http.server.HTTPServer.
    """

    def __init_subclass__(cls, **kwargs):
        """Replace the stdlib's serve_forever(), which nothing wakes and which cannot drain."""
        super().__init_subclass__(**kwargs)
        if getattr(cls, "serve_forever", None) is _stdlib_serve_forever:
            cls.serve_forever = BaseServer.serve_forever
        for name in ("drain", "serve_until_signal", "requests_in_progress"):
            inherited.prefer_own(cls, _Ending, name)

    def shutdown(self, timeout=None):
        """Stop serve_forever() and wait until it has returned, at most `timeout` seconds.

        Returns whether it has. If serve_forever() has not begun yet, shutdown() waits for it, and
        it returns as soon as it begins. Requests in other threads go on. Call it from any thread
        but the serving one.

        Unlike socketserver: wakes the loop, so it does not take up to `poll_interval`. In the
        serving thread, where it would wait for itself, it raises RuntimeError.
        """
        own = inherited.own_shutdown(self, _Ending)
        if own is None or timeout is not None:
            return ending.shutdown(self, timeout)
        own()
        return serving.has_stopped(self)

    @Number
    def requests_in_progress(self):
        """Return how many requests were accepted and are not finished. Any thread may ask."""
        return len(requests_of(self))

    def drain(self, timeout=None):
        """Finish what was accepted, then close the server: stop it without losing a request.

        serve_forever() takes what the kernel has queued, closes its listening socket, handles what
        it took, and returns. drain() then waits for all requests in progress, also in daemon
        threads and child processes. After `timeout` seconds (None: never) it closes the remaining
        connections while their handlers run. Returns whether all requests were finished in time.
        Calls server_close(), but not shutdown().

        It closes a kept HTTP connection as soon as no response is in progress, instead of waiting
        for the next request; but not in a child process. A connection that a client makes in the
        microseconds between the last look at the queue and the close of the socket is reset,
        unless other processes have the listening socket, too.

        May be called more than once. Before serve_forever() nothing was accepted: drain() closes
        the connections in the queue, and a later serve_forever() returns at once. Raises
        RuntimeError in the serving thread and in the thread of a request, which would wait for
        themselves.
        """
        return ending.drain(self, timeout)

    def serve_until_signal(self, *signals, drain_timeout=30):
        """Serve until one of the signals comes, then drain; return the signal's number.

        The signals are SIGTERM and SIGINT unless others are given. A request that the main thread
        is handling is finished. A second signal does what it would have done without this method:
        it ends the process or raises KeyboardInterrupt. `drain_timeout` is in seconds; None waits
        without end. Closes the server and restores the handlers of the signals. Returns None if
        shutdown() or drain() ended serve_forever(). Raises RuntimeError outside of the main thread.
        """
        return ending.serve_until_signal(self, signals, drain_timeout, self.drain)

    def _stop_accepting(self, deadline):
        """Make serve_forever() return; return whether it did before the deadline."""
        kept.end(requests_of(self))
        serving.request_drain(self)
        return (serving.serving_thread(self) is None
                or serving.wait_until_stopped(self, ending.left(deadline)))

    def _wait_for_requests(self, deadline):
        """Wait until no request is in progress, or the deadline; return whether none is."""
        return requests_of(self).wait(ending.left(deadline))

    def _close_requests(self):
        """End the requests in progress by closing their connections."""
        for request in requests_of(self).requests():
            ending.close_request(request)


class BaseServer(_Ending):
    """Runs the loop of a server, and defines the hooks that it calls.

    `RequestHandlerClass` is any callable that takes a request, a client address and the server.
    A subclass provides `get_request` and `fileno`.
    """

    timeout = None  # seconds that handle_request() waits; None: no limit
    log_disconnects = True  # False: do not report clients that went away, see handle_error()

    def __init__(self, server_address, RequestHandlerClass):
        """Subclasses may extend it, and must call it."""
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self.__is_shut_down = threading.Event()
        self.__shutdown_request = False

    def server_activate(self):
        """Do nothing. The constructor calls it after server_bind()."""

    def serve_forever(self, poll_interval=0.5):
        """Handle requests one after the other until shutdown() is called.

        It checks its flags and calls service_actions() after each request, and at least every
        `poll_interval` seconds; None sets no limit. An exception that a signal handler raises,
        such as KeyboardInterrupt, leaves it at once. Does not close the server.

        Unlike socketserver: returns when another thread closes the server. While the process is out
        of descriptors, it waits 50 ms between tries. In the main thread it uses
        signal.set_wakeup_fd() meanwhile, if nobody else does.
        """
        loop.serve(self, poll_interval, socketserver_fast._ServerSelector)

    def service_actions(self):
        """Do nothing. serve_forever() calls it after every request and at every idle turn."""

    def handle_request(self):
        """Handle one request; call handle_timeout() if none comes within `timeout` seconds.

        The socket's own timeout counts if it is shorter. Returns what handle_timeout() returns.
        """
        return loop.handle_request(self, socketserver_fast._ServerSelector)

    def _handle_request_noblock(self):
        """Handle one request; the listener is known to be ready."""
        dispatch.handle_request_noblock(self)

    def handle_timeout(self):
        """Do nothing. handle_request() calls it if no request came within `timeout` seconds."""

    def verify_request(self, request, client_address):
        """Return whether to process the request; a refused one is closed."""
        return True

    def process_request(self, request, client_address):
        """Finish the request and close it; the mix-ins do it in a thread or a process."""
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    def server_close(self):
        """Release what the server holds. May be called more than once."""

    def finish_request(self, request, client_address):
        """Handle the request by calling RequestHandlerClass."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request):
        """End and close a request that was processed, refused or failed."""
        self.close_request(request)

    def close_request(self, request):
        """Release what a request holds."""

    def handle_error(self, request, client_address):
        """Print the traceback of a request's exception to sys.stderr.

        It is called in the `except` block. An exception that it raises leaves serve_forever(). With
        log_disconnects false, BrokenPipeError, ConnectionResetError, ConnectionAbortedError and
        TimeoutError only go to the logger "socketserver_fast", at debug level.

        Unlike socketserver: ignores errors of sys.stderr, such as those of a full disk.
        """
        error = sys.exception()
        if not self.log_disconnects and isinstance(error, dispatch.DISCONNECTS):
            logger().debug("%s: client %r: %r", type(self).__name__, client_address, error)
            return
        print_exception(client_address)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.server_close()


class TCPServer(BaseServer):
    """Serves stream connections over IP: `request` is the connected socket.

    It owns its listening socket, `socket`, and closes it in server_close(). With
    `bind_and_activate` false the caller has to call server_bind() and server_activate(). If these
    raise in the constructor (OSError for a port in use), it closes the socket first.
    """

    address_family = socket.AF_INET  # AF_INET6 for IPv6, set before the server is constructed
    socket_type = socket.SOCK_STREAM  # the kind of the listening socket
    request_queue_size = _stdlib.TCPServer.request_queue_size  # connections that the kernel queues
    allow_reuse_address = False  # True: set SO_REUSEADDR before binding
    allow_reuse_port = False  # True: set SO_REUSEPORT before binding, for IP sockets
    dual_stack = False  # True: IPv6 and IPv4 on all addresses; the host is "" or "::"
    unix_mode = None  # permissions of a Unix socket's file, set before it appears
    owns_unix_path = False  # True: replace a file where nobody listens, remove it on close

    def __init__(self, server_address, RequestHandlerClass, bind_and_activate=True):
        """Subclasses may extend it, and must call it."""
        BaseServer.__init__(self, server_address, RequestHandlerClass)
        if self.dual_stack:
            addresses.use_family(self)
        self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except:
                self.server_close()
                raise

    def server_bind(self):
        """Bind the socket, and set server_address to the address that the system reports.

        A server that owns its Unix path listens from here on. Raises ValueError for attributes that
        do not suit the address.
        """
        if self.allow_reuse_address and hasattr(socket, "SO_REUSEADDR"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux 6.12.9 and later refuse SO_REUSEPORT for other families (gh-128916).
        if (self.allow_reuse_port and hasattr(socket, "SO_REUSEPORT")
                and self.address_family in (socket.AF_INET, socket.AF_INET6)):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        addresses.bind(self)
        self.server_address = self.socket.getsockname()

    def server_activate(self):
        """Listen, with a queue of `request_queue_size` connections."""
        self.socket.listen(self.request_queue_size)

    def server_close(self):
        """Close the listening socket. A serve_forever() in another thread returns."""
        addresses.remove(self)
        self.socket.close()
        serving.wake(self)

    def fileno(self):
        """Return the descriptor of the listening socket; -1 once it is closed."""
        return self.socket.fileno()

    def get_request(self):
        """Accept a connection; return the connected socket and the address of its client.

        The caller ignores an OSError raised here.
        """
        return dispatch.accept(self.socket, self)

    def shutdown_request(self, request):
        """Shut down the sending side, so that the client sees the end, then close."""
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # ENOTCONN: the client has gone already
        self.close_request(request)

    def close_request(self, request):
        """Close the connected socket."""
        plain.close(request)


class UDPServer(TCPServer):
    """Serves datagrams: `request` is the pair of the packet's bytes and the server's socket.

    Unlike socketserver: serve_forever() takes up to 16 waiting packets from the kernel at once
    while their handlers are fast. A server whose handlers read from the server's socket overrides
    get_request, which turns that off. It logs once that packets were truncated, and at most once a
    minute and at the end how many were dropped.
    """

    allow_reuse_address = False
    allow_reuse_port = False
    socket_type = socket.SOCK_DGRAM
    max_packet_size = 8192  # bytes; the rest of a longer one is lost, see datagrams_truncated
    recv_buffer_size = None  # bytes of SO_RCVBUF, set before binding; None: the system's default
    reply_from_destination = False  # True: replies leave from the address that was written to

    def server_bind(self):
        """Set the options that the attributes ask for, then bind as TCPServer does.

        Logs a warning if the system grants less than `recv_buffer_size`. Raises ValueError for an
        attribute that is not valid, OSError if the system does not support
        `reply_from_destination`. With that, the socket in `request` stands in for the server's: its
        sendto() and sendmsg() send from the address that this packet was sent to.
        """
        options.set_options(self)
        super().server_bind()

    def server_activate(self):
        """Set the options again, for a socket that was bound elsewhere. Does not listen."""
        options.set_options(self)

    def server_close(self):
        """Close the socket; the counts of datagrams stay readable."""
        options.remember_dropped(self)
        super().server_close()

    def get_request(self):
        """Receive one packet; return (packet, socket) and the address of its sender."""
        return datagram.receive(self) or options.receive(self)

    @Number
    def datagrams_dropped(self):
        """Return how many packets the kernel has dropped because the receive buffer was full.

        Each access asks the kernel. Processes that share the socket share one count. None where the
        system does not report it (anywhere but Linux). The first drop is logged, later ones at most
        once a minute and when the server is closed.
        """
        return options.dropped(self)

    @Number
    def datagrams_truncated(self):
        """Return how many packets were longer than max_packet_size, and lost the rest.

        The first one is logged. Not counted where the socket has no recvmsg() (on Windows), or has
        a recvfrom() of its own.
        """
        return options.truncated(self)

    def _note_flags(self, flags):
        options.note_flags(self, flags)

    def shutdown_request(self, request):
        """Do nothing but call close_request()."""
        self.close_request(request)

    def close_request(self, request):
        """Do nothing."""


for _module in (_stdlib, sys.modules[__name__]):
    dispatch.declare_originals("accepting", get_request=_module.TCPServer.get_request)
    dispatch.declare_originals("accepting", get_request=_module.UDPServer.get_request)
dispatch.declare_originals("receiving", get_request=UDPServer.get_request,
                           _handle_request_noblock=BaseServer._handle_request_noblock)
dispatch.declare_originals("draining", _handle_request_noblock=BaseServer._handle_request_noblock)

if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """Serves connections on a Unix socket. Leaves its file unless `owns_unix_path` is true.

        On Linux the address may also be an abstract name, which begins with a null byte.
        """

        address_family = socket.AF_UNIX

    class UnixDatagramServer(UDPServer):
        """Serves datagrams on a Unix socket. Leaves its file unless `owns_unix_path` is true."""

        address_family = socket.AF_UNIX
