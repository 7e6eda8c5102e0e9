"""Handles each request in a thread or a process; has the ready-made classes for both."""

import os
import socket
import threading
from contextlib import suppress

import socketserver_fast
from socketserver_fast._serving import children, ending, signals
from socketserver_fast._serving.inherited import Number
from socketserver_fast._serving.serving import Claimed, requests_of
from socketserver_fast.servers import TCPServer, UDPServer, _Ending

__all__ = ["ThreadingMixIn", "ThreadingTCPServer", "ThreadingUDPServer"]
if hasattr(os, "fork"):
    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]
if hasattr(socket, "AF_UNIX"):
    __all__ += ["ThreadingUnixDatagramServer", "ThreadingUnixStreamServer"]
    if hasattr(os, "fork"):
        __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

if hasattr(os, "fork"):

    class ForkingMixIn(_Ending):
        """Handles each request in a child process, forked when the request comes.

        The children are waited for by service_actions(), handle_timeout() and server_close().

        Unlike socketserver: a child closes its copy of the listening socket, which would keep the
        port open when the parent has closed it. Under serve_until_signal() a child ignores SIGINT:
        a Ctrl-C reaches it as well, and the parent lets it finish.
        """

        timeout = 300  # seconds that handle_request() waits before it looks for ended children
        active_children = None  # the set of the children's process ids; None before the first
        max_children = 40  # while this many run, the next request waits until one ends
        block_on_close = True  # server_close() waits for the children

        def collect_children(self, *, blocking=False):
            """Reap the children that have ended; with `blocking`, wait for all of them.

            Waits until fewer than `max_children` run.

            Unlike socketserver: never reaps a child process that is not the server's.
            """
            if not self.active_children:
                return
            children.reap(self.active_children)
            while self.active_children and len(self.active_children) >= self.max_children:
                children.wait_for_any(self.active_children)
                children.reap(self.active_children)
            if blocking:
                children.reap(self.active_children, 0)

        def handle_timeout(self):
            """Reap ended children while no request comes."""
            self.collect_children()

        def service_actions(self):
            """Reap ended children."""
            self.collect_children()

        def process_request(self, request, client_address):
            """Fork; the child handles the request and exits, the parent goes on."""
            parent = os.getpid()
            pid = os.fork()
            if pid:
                if self.active_children is None:
                    self.active_children = set()
                self.active_children.add(pid)
                self.close_request(request)
                return
            # In the child. This block ends in _exit(): the caller's stack is only a copy.
            status = 1
            try:
                signals.leave_interrupts_to_parent()
                ending.leave_listener(self, request)
                self._begin_child(parent)
                self.finish_request(request, client_address)
                status = 0
            except Exception:
                self.handle_error(request, client_address)
            finally:
                try:
                    self.shutdown_request(request)
                finally:
                    os._exit(status)

        def _begin_child(self, parent):
            """Prepare the child process that `parent` has forked for a request."""

        def server_close(self):
            """Close the listening socket, reap children and, with block_on_close, wait for all."""
            super().server_close()
            self.collect_children(blocking=self.block_on_close)

        @Number
        def requests_in_progress(self):
            """Return how many requests are in progress; a child counts until it is reaped."""
            return super().requests_in_progress + len(self.active_children or ())

        def _wait_for_requests(self, deadline):
            finished = super()._wait_for_requests(deadline)
            return children.reap_until(self.active_children or set(), deadline) and finished

        def _close_requests(self):
            """Kill the children. SIGTERM may not end them: they inherit the parent's handler."""
            super()._close_requests()
            children.kill(self.active_children or ())


class _Threads(list):
    """Holds the non-daemon threads that server_close() has to wait for.

    Each step is a single operation on the list: server_close() empties it while other threads are
    added.
    """

    def append(self, thread):
        """Add a thread unless it is a daemon, and drop finished ones.

        Each call goes on where the last one stopped, and stops after four threads that are alive.
        So the cost of a request grows with the threads that have finished, not with all of them.
        """
        index, alive = vars(self).get("_index", 0), 0
        try:
            while self and alive < 4:
                index %= len(self) or 1
                found = self[index]
                if found.is_alive():
                    index += 1
                    alive += 1
                else:
                    self.remove(found)
        except (IndexError, ValueError):
            pass  # another thread was faster
        self._index = index
        if not thread.daemon:
            list.append(self, thread)  # not super(): patch() puts this into another class

    def pop_all(self):
        """Empty the list; return what was in it."""
        threads = []
        with suppress(IndexError):
            while True:
                threads.append(self.pop())
        return threads[::-1]

    def join(self):
        """Wait for all threads but the current one, since a handler may close the server."""
        for thread in self.pop_all():
            if thread is not threading.current_thread():
                thread.join()

    def reap(self):
        """Drop the finished threads."""
        for thread in self[:]:
            if not thread.is_alive():
                with suppress(ValueError):  # another thread was faster
                    self.remove(thread)


class _NoThreads:
    """Takes the place of _Threads before the first thread, and when block_on_close is false."""

    def append(self, thread):
        """Do nothing."""

    def join(self):
        """Do nothing."""


def start_thread(server, request, client_address, threads_class):
    """Start the thread of a request: the body of process_request(), with any _Threads class."""
    if server.block_on_close:
        vars(server).setdefault("_threads", threads_class())
    requests = requests_of(server)
    thread = threading.Thread(
        target=Claimed(requests, server.process_request_thread), args=(request, client_address))
    thread.daemon = server.daemon_threads
    requests.claim(request)
    try:
        thread.start()
    except BaseException:
        requests.release(request)
        raise
    server._threads.append(thread)


class ThreadingMixIn(_Ending):
    """Handles each request in a thread of its own, started when the request comes."""

    daemon_threads = False  # True: the interpreter does not wait for the threads when it ends
    block_on_close = True  # server_close() waits for the threads that are not daemons
    _threads = _NoThreads()

    def process_request_thread(self, request, client_address):
        """Finish the request and close it; runs in the new thread.

        An Exception goes to handle_error(), any other to threading.excepthook.
        """
        requests = requests_of(self)
        requests.claim(request)  # the caller may be a pool of the program's own
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            try:
                self.shutdown_request(request)
            finally:
                requests.release(request)

    def process_request(self, request, client_address):
        """Start a thread for the request. Raises RuntimeError if the system cannot start one."""
        start_thread(self, request, client_address, socketserver_fast._Threads)

    def server_close(self):
        """Close the listening socket and, with block_on_close, wait for the threads.

        Unlike socketserver: a handler may call it, and does not wait for its own thread.
        """
        super().server_close()
        self._threads.join()

    def _wait_for_requests(self, deadline):
        finished = super()._wait_for_requests(deadline)
        return ending.join(vars(self).get("_threads", ()), deadline) and finished

    def _close_requests(self):
        """Close their connections, and keep server_close() from waiting for their threads."""
        super()._close_requests()
        vars(self).pop("_threads", None)


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """A TCPServer with a thread for each connection."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """A UDPServer with a thread for each packet."""


if hasattr(os, "fork"):

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """A TCPServer with a process for each connection."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """A UDPServer with a process for each packet."""


if hasattr(socket, "AF_UNIX"):

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """A UnixStreamServer with a thread for each connection."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """A UnixDatagramServer with a thread for each packet."""

    if hasattr(os, "fork"):

        class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
            """A UnixStreamServer with a process for each connection."""

        class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
            """A UnixDatagramServer with a process for each packet."""
