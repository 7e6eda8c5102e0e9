"""PreforkMixIn: a server in several processes, forked before the requests come.

    serve_forever            in the parent: supervise the workers (_prefork/supervisor.py)
      fork                   once for each worker
        worker_started       in the worker (_prefork/worker.py)
        serve_forever        that of the classes behind PreforkMixIn, on the inherited listener
        worker_stopping
        os._exit
      service_actions        in the parent at every turn, in the workers as ever

The worker is an ordinary server of the class behind the mix-in and so handles its requests one
after the other, in threads or in greenlets. The parent handles none.
"""

import functools
import os
import socket
import socketserver as _stdlib
import sys
import threading
import weakref

import socketserver_fast
from socketserver_fast import servers
from socketserver_fast._serving import serving
from socketserver_fast._serving.inherited import Number
from socketserver_fast._sockets import wait
from socketserver_fast.servers import BaseServer, TCPServer, UDPServer, _Ending

__all__ = ["PreforkMixIn", "PreforkTCPServer", "PreforkUDPServer"]
if hasattr(socket, "AF_UNIX"):
    __all__ += ["PreforkUnixDatagramServer", "PreforkUnixStreamServer"]
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

# A worker closes what it inherited of those that are not its own.
_servers = weakref.WeakValueDictionary()  # by id(): they may have no hash


class PreforkMixIn(_Ending):
    """Serve in `workers` processes, forked by serve_forever(). Stands first among the bases.

    `class Server(PreforkMixIn, ThreadingTCPServer)` has threads in each of them; without another
    mix-in each handles one request at a time. What the program sets up before serve_forever() is
    inherited by all; what a handler changes is seen by its own worker only.

    A worker that ends, for whatever reason, is replaced; at once, or with growing delays while it
    ends within 0.1 s of its start. All of them end with the parent, whatever ends that; on Linux
    only those that change their user in worker_started(), if at all, and not in a handler.

    When serve_forever() runs in the main thread it obeys signals, except those that the program
    ignores: SIGTERM ends the workers and then returns; SIGINT does the same and a second one does
    not wait for their requests; SIGHUP replaces the workers one after the other without refusing or
    losing a request; SIGTTIN adds a worker and SIGTTOU takes one away. On return the program's own
    handlers are back, and its handler of the signal that ended the server has been called:
    for SIGINT that is normally the one that raises KeyboardInterrupt.

    Workers share one listener: a connection goes to any that is free, and a busy one keeps nobody
    waiting; but all that are idle wake up for it, and one gets it. With `reuse_port`, on IP
    sockets, the kernel deals connections and packets out to a queue for each worker, by a hash of
    the client's address: no worker wakes in vain and no two contend, but what waits behind a busy
    worker waits although others are idle, and a few clients may all meet the same one. It pays for
    datagrams, for many workers with very short requests, and for many kept connections in threads
    or greenlets, of which the first worker to wake up would take most. For requests of different
    lengths leave it False. Other programs of the same user may then bind the same port unnoticed.
    It must be set before the server is constructed.

    For datagrams the parent counts and logs for all: `datagrams_dropped` and `datagrams_truncated`
    are there the sums over all sockets and workers, also of those that have ended. In a worker they
    are those of its socket, which it may share, and of its process.

    While it serves, its listener is non-blocking, for all processes that share it: those outside
    of this server too. It stays so after SIGKILL, and after a drain, which the last worker ends.
    Who passes on a listener of its own, and goes on to accept from it, sets the mode that it wants.

    The server class may be one of the stdlib, such as http.server.HTTPServer. Threads and child
    processes in the workers have to be those of this package: TypeError for others.

    handle_request() serves one request in the calling process, without workers.
    """

    workers = None  # how many; None: as many as CPUs are usable
    reuse_port = False  # True: a socket for each worker, with SO_REUSEPORT; see below
    worker_timeout = None  # seconds after which one that no longer turns its loop is killed
    max_requests = None  # so many, and up to a tenth more, and the worker is replaced
    drain_timeout = 30  # seconds that ending workers have to finish their requests
    worker_index = None  # in a worker 0 to workers - 1; None in the parent

    _supervisor = None  # in the parent, while it serves
    _unfinished_workers = 0  # that the last serve_forever() had to kill
    _worker = None  # in a worker

    def __init_subclass__(cls, **kwargs):
        """Raise TypeError for a mix-in of the stdlib, whose requests a worker would lose."""
        super().__init_subclass__(**kwargs)
        for name in ("ThreadingMixIn", "ForkingMixIn"):
            if getattr(_stdlib, name, None) in cls.__mro__:
                raise TypeError(
                    f"{cls.__name__}: a worker would not wait for the requests of the standard "
                    f"library's {name}; use socketserver_fast's: class {cls.__name__}("
                    f"PreforkMixIn, socketserver_fast.{name}, ...), for example with "
                    f"http.server.HTTPServer instead of ThreadingHTTPServer")

    def worker_started(self):
        """Called in each worker before its first request.

        An exception raised here ends the server: serve_forever() raises a RuntimeError that has
        its traceback.
        """

    def worker_stopping(self):
        """Called in a worker after its last request, unless it is killed."""

    def server_bind(self):
        """Bind the socket; with `reuse_port` called again for the socket of each further worker."""
        if self.reuse_port:
            if self.address_family not in (socket.AF_INET, socket.AF_INET6):
                raise ValueError("reuse_port works with IP sockets only: set it to False")
            self.allow_reuse_port = True
        super().server_bind()
        _servers[id(self)] = self

    def serve_forever(self, poll_interval=0.5):
        """Fork the workers and replace those that end, until shutdown() or a signal.

        service_actions() is called in the parent at least every `poll_interval` seconds, and in the
        workers as by every server. Returns when the last worker has ended, at most `drain_timeout`
        seconds after it was told to; one that is still there then is killed. Works in any thread,
        signals are obeyed in the main thread only. Python 3.12 and later warn of a fork in a
        process that has several threads: what they had locked stays locked in the workers.

        RuntimeError when a worker's worker_started() raised an exception.
        """
        # Only here: a forking server pays at each request for all that is imported.
        from socketserver_fast._prefork.supervisor import Supervisor

        for seconds in (poll_interval, self.worker_timeout, self.drain_timeout):
            wait.check_time(seconds)
        serve = super().serve_forever
        if serve.__func__ is servers._stdlib_serve_forever:
            serve = functools.partial(BaseServer.serve_forever, self)
        Supervisor(
            self, serve, poll_interval, _servers, usable_cpus(),
            lambda: socketserver_fast._ServerSelector()).run()

    def shutdown(self, timeout=None):
        """Stop serve_forever() and wait until it has returned, with the workers' requests done.

        Returns whether it has, at most `timeout` seconds later. In a worker it stops the whole
        server. RuntimeError in the serving thread, which would wait for itself.
        """
        wait.check_time(timeout)
        if self._worker is not None:
            if serving.serving_thread(self) != threading.get_ident():
                self._worker.stop_server()
        elif self._supervisor is not None:
            self._supervisor.refuse_in_serving_thread("shutdown")
        return super().shutdown(timeout)

    @Number
    def requests_in_progress(self):
        """How many requests are in progress: in a worker its own, in the parent those of all."""
        supervisor = self._supervisor
        own = super().requests_in_progress
        return own if supervisor is None else own + supervisor.requests_in_progress()

    def drain(self, timeout=None):
        """Drain as BaseServer.drain(); workers not done in `timeout` seconds are killed."""
        if self._supervisor is not None:
            self._supervisor.refuse_in_serving_thread("drain")
        return super().drain(timeout)

    def serve_until_signal(self, *signals, drain_timeout=30):
        """Serve as BaseServer.serve_until_signal(); `drain_timeout` becomes the server's."""
        self.drain_timeout = drain_timeout
        return super().serve_until_signal(*signals, drain_timeout=drain_timeout)

    def _stop_accepting(self, deadline):
        """Make serve_forever() return; it waits for the workers and kills those that are late."""
        if self._supervisor is None:
            return super()._stop_accepting(deadline)
        self._supervisor.drain(deadline)
        return serving.wait_until_stopped(self)

    def _wait_for_requests(self, deadline):
        return super()._wait_for_requests(deadline) and not self._unfinished_workers

    def _begin_child(self, parent):
        """Make the child process of a worker's request end if the worker is killed."""
        super()._begin_child(parent)
        if self._worker is not None:
            self._worker.begin_child(parent)

    def server_close(self):
        """Close the listening socket. A serve_forever() in another thread ends the workers."""
        super().server_close()
        if self._supervisor is not None:
            serving.wake(self)


def usable_cpus():
    """Return how many processors this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PreforkTCPServer(PreforkMixIn, TCPServer):
    """A TCPServer in several processes."""


class PreforkUDPServer(PreforkMixIn, UDPServer):
    """A UDPServer in several processes, on Linux with a socket for each: see `reuse_port`."""

    reuse_port = sys.platform == "linux"


if hasattr(socket, "AF_UNIX"):

    class PreforkUnixStreamServer(PreforkMixIn, UnixStreamServer):
        """A UnixStreamServer in several processes."""

    class PreforkUnixDatagramServer(PreforkMixIn, UnixDatagramServer):
        """A UnixDatagramServer in several processes."""
