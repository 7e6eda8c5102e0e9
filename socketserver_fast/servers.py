"""The server classes. The way of one request:

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
from socketserver_fast._serving import dispatch, ending, loop, originals, serving
from socketserver_fast._serving.serving import requests_of
from socketserver_fast._sockets import addresses, datagram, kept, options, plain
from socketserver_fast._sockets.log import logger, print_exception

__all__ = ["BaseServer", "TCPServer", "UDPServer"]
if hasattr(socket, "AF_UNIX"):
    __all__ += ["UnixDatagramServer", "UnixStreamServer"]


_stdlib_serve_forever = _stdlib.BaseServer.serve_forever


class _Number(property):
    """A number to read, unless the server has an attribute of its own of that name.

    Programs that were written for socketserver may have one, and set it.
    """

    def __get__(self, server, cls=None):
        own = {} if server is None else vars(server)
        name = self.fget.__name__
        return own[name] if name in own else super().__get__(server, cls)

    def __set__(self, server, value):
        vars(server)[self.fget.__name__] = value


class _Ending:
    """Ends a server: shutdown(), drain() and serve_until_signal().

    A base of the mix-ins, too, so that they work with a server class of the stdlib, such as
    http.server.HTTPServer.
    """

    def __init_subclass__(cls, **kwargs):
        """Replace the stdlib's serve_forever(), which cannot be woken and leaves what is queued."""
        super().__init_subclass__(**kwargs)
        if getattr(cls, "serve_forever", None) is _stdlib_serve_forever:
            cls.serve_forever = BaseServer.serve_forever
        for name in ("drain", "serve_until_signal", "requests_in_progress"):
            _prefer_hidden(cls, name)

    def shutdown(self, timeout=None):
        """Stop serve_forever() and wait until it has returned, at most `timeout` seconds.

        Returns whether it has. One that has not begun yet will return at once, and is waited for.
        Requests in other threads go on. To be called from another thread than the serving one.

        Unlike socketserver: wakes the loop, so it takes no `poll_interval`. In the serving thread,
        where it would wait for itself, it raises RuntimeError.
        """
        own = _hidden_shutdown(self)
        if own is None or timeout is not None:
            return ending.shutdown(self, timeout)
        own()
        return serving.has_stopped(self)

    @_Number
    def requests_in_progress(self):
        """How many requests were accepted and are not finished; any thread may ask."""
        return len(requests_of(self))

    def drain(self, timeout=None):
        """Finish what was accepted, then close the server: stop it without losing a request.

        serve_forever() takes what the kernel has queued, closes its listening socket, handles what
        it took, and returns. Then all requests in progress are waited for, those in daemon threads
        and child processes included. After `timeout` seconds, None waits without end, the
        connections that are left are closed under their handlers. Returns whether that was not
        needed. Does not call shutdown(), but server_close().

        A kept HTTP connection that waits for its next request is closed at once, after the response
        under way; not in a child process and not with TLS. A connection that a client makes in the
        microseconds between the last look at the queue and the close of the socket is reset, unless
        other processes have the listening socket, too.

        May be called more than once. Before serve_forever() nothing was accepted: connections in
        the queue are closed, and a serve_forever() that comes later returns at once. RuntimeError
        in the serving thread and in a request's, which would wait for themselves.
        """
        return ending.drain(self, timeout)

    def serve_until_signal(self, *signals, drain_timeout=30):
        """serve_forever() until one of the signals comes, then drain(); returns its number.

        SIGTERM and SIGINT unless others are given. The request that the main thread is busy with
        is finished. A second signal does what it would have done before: it ends the process or
        raises KeyboardInterrupt. `drain_timeout` is in seconds, None waits without end. Closes the
        server and restores the handlers of the signals. Returns None when shutdown() or drain()
        ended serve_forever(). RuntimeError outside of the main thread.
        """
        return ending.serve_until_signal(self, signals, drain_timeout, self.drain)

    def _stop_accepting(self, deadline):
        """Make serve_forever() return; return whether it has at the deadline."""
        kept.end(requests_of(self))
        serving.request_drain(self)
        return (serving.serving_thread(self) is None
                or serving.wait_until_stopped(self, ending.left(deadline)))

    def _wait_for_requests(self, deadline):
        """Wait until no request is in progress; return whether none is at the deadline."""
        return requests_of(self).wait(ending.left(deadline))

    def _close_requests(self):
        """End the requests in progress by closing their connections."""
        for request in requests_of(self).requests():
            ending.close_request(request)


def _hidden_shutdown(server):
    """Return the shutdown() of the program's own class behind a mix-in; None if it has none."""
    if not isinstance(server, _Ending):
        return None
    found = getattr(super(_Ending, server), "shutdown", None)
    inherited = getattr(found, "__func__", None) is _stdlib.BaseServer.shutdown
    return None if inherited else found


def _prefer_hidden(cls, name):
    """Let the class have what a program's own class behind the mix-in has under that name."""
    hidden = getattr(super(_Ending, cls), name, None)
    first = next(base for base in cls.__mro__ if name in vars(base))
    if (hidden is not None and not isinstance(hidden, _Number)
            and first.__module__.startswith("socketserver_fast")):
        setattr(cls, name, hidden)


class BaseServer(_Ending):
    """Runs the loop of a server, and has the hooks that it calls.

    `RequestHandlerClass` is any callable that takes a request, a client address and the server.
    A subclass provides `get_request` and `fileno`.
    """

    timeout = None  # seconds that handle_request() waits; None: without end
    log_disconnects = True  # False: a client that went away is no error, see handle_error()

    def __init__(self, server_address, RequestHandlerClass):
        """May be extended; the extension must call it."""
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self.__is_shut_down = threading.Event()
        self.__shutdown_request = False

    def server_activate(self):
        """Called when the server is constructed, after server_bind. Here nothing to do."""

    def serve_forever(self, poll_interval=0.5):
        """Handle requests one after the other until shutdown() is called.

        The flags are looked at, and service_actions() is called, after each request and at least
        every `poll_interval` seconds; None waits without end. A signal's exception, such as
        KeyboardInterrupt, leaves at once. Does not close the server.

        Unlike socketserver: returns when another thread closes the server, and rests 50 ms between
        tries while the process is out of descriptors. In the main thread it takes the place of
        signal.set_wakeup_fd() meanwhile, if that is free.
        """
        loop.serve(self, poll_interval, socketserver_fast._ServerSelector)

    def service_actions(self):
        """Called by serve_forever() after every request and at every idle turn."""

    def handle_request(self):
        """Handle one request, waiting for it at most `timeout` seconds, then handle_timeout().

        The socket's own timeout counts too if it is shorter. Returns what handle_timeout() does.
        """
        return loop.handle_request(self, socketserver_fast._ServerSelector)

    def _handle_request_noblock(self):
        """Handle one request of a listener that is known to be ready."""
        dispatch.handle_request_noblock(self)

    def handle_timeout(self):
        """Called by handle_request() when no request came within `timeout` seconds."""

    def verify_request(self, request, client_address):
        """Return whether the request shall be processed; a refused one is closed."""
        return True

    def process_request(self, request, client_address):
        """Finish the request and close it; the mix-ins do so in a thread or in a process."""
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    def server_close(self):
        """Free what the server holds. May be called more than once."""

    def finish_request(self, request, client_address):
        """Handle the request: call RequestHandlerClass, which for a class constructs it."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request):
        """End a request that was processed, refused or failed; closes it."""
        self.close_request(request)

    def close_request(self, request):
        """Free what a request holds."""

    def handle_error(self, request, client_address):
        """Called in the `except` block when processing a request raised an Exception.

        Prints the traceback to sys.stderr. An exception raised here leaves serve_forever().
        With log_disconnects false, BrokenPipeError, ConnectionResetError, ConnectionAbortedError
        and TimeoutError only go to the logger "socketserver_fast", at debug level.

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
    """A server of stream connections over IP: `request` is the connected socket.

    It owns its listening socket, `socket`, and closes it in server_close(). With
    `bind_and_activate` false the caller calls server_bind() and server_activate() himself. What
    these raise (OSError for a port in use) leaves the constructor, and the socket is closed first.
    """

    address_family = socket.AF_INET  # AF_INET6 for IPv6, set before the server is constructed
    socket_type = socket.SOCK_STREAM  # the kind of the listening socket
    request_queue_size = _stdlib.TCPServer.request_queue_size  # connections the kernel keeps
    allow_reuse_address = False  # True: set SO_REUSEADDR before binding
    allow_reuse_port = False  # True: set SO_REUSEPORT before binding, for IP sockets
    dual_stack = False  # True: IPv6 and IPv4 on all addresses; the host is "" or "::"
    unix_mode = None  # permissions of a Unix socket's file, from the moment that it is there
    owns_unix_path = False  # True: replace the file if nobody listens, remove it on close

    def __init__(self, server_address, RequestHandlerClass, bind_and_activate=True):
        """May be extended; the extension must call it."""
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
        """Bind the socket to server_address, which then becomes what the system made of it.

        A server that owns its Unix path listens from here on. ValueError for attributes that do not
        suit the address.
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
        """Close the listening socket; a serve_forever() in another thread ends."""
        addresses.remove(self)
        self.socket.close()
        serving.wake(self)

    def fileno(self):
        """Return the descriptor of the listening socket, to select on; -1 once it is closed."""
        return self.socket.fileno()

    def get_request(self):
        """Accept a connection; return the connected socket and the address of its client.

        An OSError raised here is ignored by the caller.
        """
        return dispatch.accept(self.socket, self)

    def shutdown_request(self, request):
        """Tell the client that nothing follows, then close."""
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client was faster: ENOTCONN
        self.close_request(request)

    def close_request(self, request):
        """Close the connection on this side."""
        plain.close(request)


class UDPServer(TCPServer):
    """A server of datagrams: `request` is the pair of the packet's bytes and the server's socket.

    Unlike socketserver: serve_forever() takes up to 16 waiting packets from the kernel at once
    while their handlers are fast. A server whose handlers read from the server's socket themselves
    overrides get_request, which turns that off. It logs, once, that packets were cut, and, at most
    once a minute and at the end, how many were dropped.
    """

    allow_reuse_address = False
    allow_reuse_port = False
    socket_type = socket.SOCK_DGRAM
    max_packet_size = 8192  # bytes; what a packet has more is lost, see datagrams_truncated
    recv_buffer_size = None  # bytes of SO_RCVBUF, set before binding; None: the system's default
    reply_from_destination = False  # True: replies leave from the address that was written to

    def server_bind(self):
        """Set the options that the attributes ask for, then bind as TCPServer does.

        Logs a warning if the system grants less than `recv_buffer_size`. Raises ValueError for an
        attribute that makes no sense, OSError if the system has no way for
        `reply_from_destination`. With that the socket in `request` is a stand-in for the server's:
        its sendto() and sendmsg() send from the address that this one packet was sent to.
        """
        options.set_options(self)
        super().server_bind()

    def server_activate(self):
        """Set the options again, for a socket that came already bound; there is no listen()."""
        options.set_options(self)

    def server_close(self):
        """Close the socket; the counts of datagrams stay readable."""
        options.remember_dropped(self)
        super().server_close()

    def get_request(self):
        """Receive one packet; return (packet, socket) and the address of its sender."""
        return datagram.receive(self) or options.receive(self)

    @_Number
    def datagrams_dropped(self):
        """How many packets the kernel has dropped for lack of room in the receive buffer.

        Each access asks the kernel; processes that share the socket share one count. None where the
        system does not tell (anywhere but Linux). The first drop is logged, later ones at most once
        a minute and when the server is closed.
        """
        return options.dropped(self)

    @_Number
    def datagrams_truncated(self):
        """How many packets were longer than max_packet_size, and lost the rest.

        The first one is logged. Not seen where the socket has no recvmsg() (on Windows) or a
        recvfrom() of its own.
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
    originals.declare("accepting", get_request=_module.TCPServer.get_request)
    originals.declare("accepting", get_request=_module.UDPServer.get_request)
originals.declare("batching", get_request=UDPServer.get_request,
                  _handle_request_noblock=BaseServer._handle_request_noblock)
originals.declare("draining", _handle_request_noblock=BaseServer._handle_request_noblock)

if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """A TCPServer on a Unix socket; nobody removes the path unless `owns_unix_path` is true.

        On Linux the address may also be an abstract name, which begins with a null byte.
        """

        address_family = socket.AF_UNIX

    class UnixDatagramServer(UDPServer):
        """A UDPServer on a Unix socket; nobody removes the path unless `owns_unix_path` is true."""

        address_family = socket.AF_UNIX
