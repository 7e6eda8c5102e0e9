"""Accepts and handles the requests in a bounded number of threads, which are used again.

    serve_forever           the calling thread starts workers and watches them
      worker, worker, ...   one waits for the listener; it takes a request, lets the next wait, and
        get_request         handles it
        process_request_thread

If a hook was replaced by code that expects the serving thread, that thread accepts, as with a
ThreadingMixIn, and process_request() hands the request to a worker.
"""

import atexit
import functools
import os
import socket
import sys
import threading

import socketserver_fast
from socketserver_fast._pool import accepting, threads
from socketserver_fast._pool.pool import Pool, end_all, reset_all
from socketserver_fast._serving import dispatch, loop
from socketserver_fast._sockets import wait
from socketserver_fast.mixins import ThreadingMixIn
from socketserver_fast.servers import BaseServer, TCPServer, UDPServer

__all__ = ["ThreadPoolMixIn", "ThreadPoolTCPServer", "ThreadPoolUDPServer"]
if hasattr(socket, "AF_UNIX"):
    __all__ += ["ThreadPoolUnixDatagramServer", "ThreadPoolUnixStreamServer"]
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

_register_atexit = getattr(threading, "_register_atexit", None)  # private to CPython


try:
    import resource
except ImportError:  # on Windows
    resource = None

MOST_CONNECTIONS = 1024  # each has a thread


class _Worker(threading.Thread):
    """Runs as a thread of a pool; its name says what it is doing."""

    item = None  # the request, its client's address and its context; None while it is idle
    renamed = None  # the name that a handler has given it, until its request is finished

    def __init__(self, server, pool, number):
        name = f"{type(server).__name__}-worker-{number}"
        daemon = bool(server.daemon_threads) or _register_atexit is None
        super().__init__(name=name, daemon=daemon)
        self._server = server
        self._pool = pool
        self.awake = threading.Lock()
        self.awake.acquire()
        if server.block_on_close:
            vars(server).setdefault("_threads", socketserver_fast._Threads())

    @property
    def name(self):
        """Return the worker's name and, while it is busy, its request."""
        item = self.item
        if item is None:
            return self._name
        return self.renamed or f"{self._name} serving {item[1]!r} (process_request_thread)"

    @name.setter
    def name(self, name):
        if self.item is None:
            threading.Thread.name.fset(self, name)
        else:
            self.renamed = str(name)

    def enlist(self):
        """Join the server's list of threads, where programs look for them."""
        self._server._threads.append(self)

    def run(self):
        """Serve until the pool does not need this worker any more."""
        self._pool.work(self._server, self)


class ThreadPoolMixIn(ThreadingMixIn):
    """Handle requests in threads that are used again; at most `max_workers` run at a time.

    A handler that waits for its client in rfile or wfile for longer than 10 ms does not count:
    another connection is served meanwhile. When its client answers, it asks for a turn to run, with
    a head start of 50 ms on new connections. Turns are given in the order in which they are asked
    for, and while others need one a handler passes its own on at its next wait.

    A handler that waits for anything else counts as running, and so does one that waits in a method
    of `request`, which is an ordinary socket and tells nobody. While all workers run, connections
    and packets wait in the kernel (see request_queue_size). If no request is finished for
    `stall_seconds`, one more handler may run, and the logger "socketserver_fast" reports, once,
    where a handler is.

    Workers start when they are needed, and end after `worker_idle_timeout`. A handler may find what
    an earlier one left in a threading.local; its contextvars are those of a new thread.

    Programs may replace get_request, verify_request, process_request, service_actions,
    _handle_request_noblock and fileno, and use sockets that are not plain ones. The serving thread
    then accepts, as in socketserver, and the pool is slower.

    The attributes can be set on the class and on the instance. serve_forever() raises ValueError if
    they make no sense.
    """

    max_workers = min(32, (os.cpu_count() or 1) + 4)  # handlers that run at a time
    max_connections = None  # connections at a time; None: 1024, or 3/4 of the descriptors
    stall_seconds = 0.5  # until one more handler may run; None: never
    min_workers = 1  # workers that stay when they are idle
    worker_idle_timeout = 30.0  # seconds until the other idle workers end; None: never
    # For protocols in which the client speaks first, such as HTTP and TLS: the seconds until its
    # first byte. Until then its connection needs no thread, afterwards it is closed. No handler has
    # seen it yet, and timeouts of the handler or a mix-in begin with that byte. None: a worker
    # waits for it. serve_forever() reads it when it begins; needs epoll or kqueue.
    first_byte_timeout = None

    def serve_forever(self, poll_interval=0.5):
        """Serve as BaseServer does. At the end idle workers stop, busy ones when done."""
        serve(self, poll_interval, socketserver_fast._ServerSelector)

    def _handle_request_noblock(self):
        """Accept one request if a worker can serve it at once."""
        handle_request_noblock(self)

    def process_request(self, request, client_address):
        """Hand the request to a worker. Raises RuntimeError if no worker is there or can start."""
        pool_of(self).submit(self, request, client_address, accepting.new_context())

    def server_close(self):
        """Close the listening socket and, with block_on_close, wait for the workers."""
        pool_of(self).end()
        super(ThreadingMixIn, self).server_close()
        join(self)

    def _count_silent(self, request, client_address):
        """Count a connection that is to wait for its first byte; return false if a worker shall
        serve it now. Either way it ends with finish_request() or shutdown_request()."""
        return True

    def _close_requests(self):
        """Close the connections, and keep server_close() from waiting for their workers."""
        super()._close_requests()
        give_up(self)


def pool_of(server):
    """Return the pool of this server; the first call makes it."""
    attributes = vars(server)
    pool = attributes.get("_socketserver_fast_pool")
    if pool is None:
        pool = attributes.setdefault("_socketserver_fast_pool", Pool(_Worker, ThreadPoolMixIn))
    return pool


def serve(server, poll_interval, selector_class):
    """Run the pool while the loop serves: the body of serve_forever()."""
    check_settings(server)
    pool = pool_of(server)
    pool.begin(poll_interval, connections_at_most(server))
    try:
        loop.serve(server, poll_interval, selector_class,
                    functools.partial(accepting.serve, pool))
    finally:
        pool.end()


def join(server):
    """Wait for the workers if block_on_close says so.

    Replaces ThreadingMixIn's way of waiting, for one thread after the other: two workers that both
    close the server would wait for each other.
    """
    if server.block_on_close:
        threads.join(pool_of(server))
    for thread in getattr(server._threads, "pop_all", list)():
        if not isinstance(thread, _Worker) and thread is not threading.current_thread():
            thread.join()  # a thread that the program's own process_request has added


def give_up(server):
    """Let join() return without waiting for the present workers."""
    threads.give_up(pool_of(server))


def connections_at_most(server):
    """Return the default of max_connections, which leaves some descriptors free."""
    most = MOST_CONNECTIONS
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            most = min(most, limit * 3 // 4)
    return max(most, server.max_workers)


def check_settings(server):
    """Raise ValueError for attributes with which a pool cannot work."""
    if not isinstance(server.max_workers, int) or not 1 <= server.max_workers <= sys.maxsize:
        raise ValueError(f"max_workers must be an int, 1 or more, not {server.max_workers!r}")
    if not isinstance(server.min_workers, int) or server.min_workers < 0:
        raise ValueError(f"min_workers must be an int, 0 or more, not {server.min_workers!r}")
    check_seconds("worker_idle_timeout", server.worker_idle_timeout)
    check_seconds("stall_seconds", server.stall_seconds)
    check_seconds("first_byte_timeout", server.first_byte_timeout)
    most = server.max_connections
    if most is not None and (not isinstance(most, int) or most < server.max_workers):
        raise ValueError("max_connections must be None or an int, max_workers "
                         f"({server.max_workers}) or more, not {most!r}")


def check_seconds(name, seconds):
    """Raise ValueError, OverflowError or TypeError unless this is None or a time."""
    wait.check_time(seconds)
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"{name} must be None or seconds, 0 or more, not {seconds!r}")


def handle_request_noblock(server):
    """Accept one request once a worker is free: the body of _handle_request_noblock()."""
    pool = pool_of(server)
    if accepting.wait_until_free(pool, server):
        try:
            dispatch.handle_request_noblock(server)
        finally:
            pool.accepted()


dispatch.declare_originals(
    "sharing",
    get_request=TCPServer.get_request,
    verify_request=BaseServer.verify_request,
    process_request=ThreadPoolMixIn.process_request,
    service_actions=BaseServer.service_actions,
    _handle_request_noblock=ThreadPoolMixIn._handle_request_noblock,
    fileno=TCPServer.fileno,
)
dispatch.declare_originals("sharing", get_request=UDPServer.get_request)
dispatch.declare_originals(
    "draining", _handle_request_noblock=ThreadPoolMixIn._handle_request_noblock)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset_all)
# Not atexit if possible: it calls its functions after the interpreter has waited for all threads
# but daemons. That is why the workers are daemons where there is only atexit.
(_register_atexit or atexit.register)(end_all)


class ThreadPoolTCPServer(ThreadPoolMixIn, TCPServer):
    """A TCPServer with a pool of threads."""


class ThreadPoolUDPServer(ThreadPoolMixIn, UDPServer):
    """A UDPServer with a pool of threads; each receives one packet at a time."""


if hasattr(socket, "AF_UNIX"):

    class ThreadPoolUnixStreamServer(ThreadPoolMixIn, UnixStreamServer):
        """A UnixStreamServer with a pool of threads."""

    class ThreadPoolUnixDatagramServer(ThreadPoolMixIn, UnixDatagramServer):
        """A UnixDatagramServer with a pool of threads; each receives one packet at a time."""
