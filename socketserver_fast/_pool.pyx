# cython: language_level=3, freethreading_compatible=True
"""The workers of a ThreadPoolMixIn: who waits for a request, who takes it, and when they end.

Hot is the way from one request to the next (bench: pool_close_16). A worker that has finished
tries the listener again before it sleeps, so that under load nothing is handed from thread to
thread. Of the idle workers one, the leader, waits in poll(2); before it serves what it took it
lets another one wait. The others sleep on a lock each, and who fell asleep last is woken first.

A request is in one place at any time: in the kernel, in `pending`, or with a worker.
"""

import collections
import contextvars
import os
import socket
import sys
import threading
import time
import weakref

cimport cython

from socketserver_fast._datagram cimport batchable
from socketserver_fast._requests cimport requests_of
from socketserver_fast._wait cimport (
    POLLIN, POLLNVAL, SSF_NATIVE, plain, ssf_poll, ssf_pollfd, wait)

from socketserver_fast import _datagram, _dispatch, _running

cdef object SOCK_STREAM = socket.SOCK_STREAM
cdef object monotonic = time.monotonic
cdef object pools = weakref.WeakSet()
cdef dict plain_hooks = {}  # name: the functions that may run in any thread

# Elsewhere a connection has the non-blocking mode of its listener; see Pool.unblock().
cdef bint INHERITS = not sys.platform.startswith("linux")
cdef double CHECK_SECONDS = 0.05  # a shutdown() is seen so late while all workers are busy


def accept_instead_of(**hooks):
    """Name hooks that, found unchanged on a server, let its workers accept by themselves."""
    for name, function in hooks.items():
        plain_hooks.setdefault(name, []).append(function)


cdef bint unchanged(server):
    """False if anything on this server expects to be called by the serving thread."""
    cdef dict attributes = server.__dict__
    for name, functions in plain_hooks.items():
        if name in attributes or getattr(type(server), name, None) not in <list>functions:
            return False
    sock = server.socket
    if not SSF_NATIVE or not plain(sock):
        return False
    if sock.type == SOCK_STREAM:
        return True
    return (batchable(sock) and 0 < server.max_packet_size <= 8192
            and not getattr(server, "reply_from_destination", False))


cdef object take(server):
    """A request and its client's address; None if another worker or process was faster."""
    sock = server.socket
    if sock.type == SOCK_STREAM:
        taken = _dispatch.take(server)
        if INHERITS and taken is not None and taken[0].gettimeout() is None:
            taken[0].setblocking(True)
        return taken
    try:
        return _datagram.receive(server)
    except OSError:  # an earlier reply's ICMP answer
        return None


cdef object new_context():
    """What a new thread would run in; since Python 3.14 that may be a copy of the caller's."""
    if getattr(sys.flags, "thread_inherit_context", False):
        return contextvars.copy_context()
    return contextvars.Context()


@cython.final
cdef class Pool:
    """The workers of one server.

    `lock` guards everything; `changed` is notified when a worker has nothing to do or has ended.
    `make_worker(server, pool, number)` makes a worker: a threading.Thread that calls work(), with
    the attributes `item`, what it serves, and `awake`, a lock that it sleeps on, and with enlist(),
    called when it has started.
    """

    cdef object lock, changed, pending, context, make_worker, thread, poll_interval
    cdef list workers, idle, closing
    cdef int waiting_end, waking_end, generation, number, watched
    cdef bint leading    # a worker waits for the listener
    cdef bint coming     # another one was woken or started for that
    cdef bint accepting  # the workers take requests from the listener
    cdef bint serving    # serve_forever() runs: idle workers stay
    cdef object __weakref__

    def __init__(self, make_worker):
        self.make_worker = make_worker
        self.waiting_end = self.waking_end = -1
        self.reset()
        pools.add(self)

    def reset(self):
        """Begin without workers, as does the child of a fork(): they stayed with the parent."""
        # A signal handler that closes the server may run in the thread that holds it.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.pending = collections.deque()
        self.workers, self.idle, self.closing = [], [], []
        self.leading = self.coming = self.accepting = self.serving = False
        self.watched = 0
        self.generation += 1

    # What the serving thread does.

    def begin(self, poll_interval):
        """serve_forever() begins in this thread: from now on idle workers stay."""
        self.poll_interval = poll_interval
        self.thread = threading.current_thread()
        self.serving = True

    def serve(self, server, long long interval, loop):
        """Let the workers accept until the server stops: False; or a hook wants this thread: True.

        Each `interval` nanoseconds, and when woken, it looks after the workers and the flags.
        """
        if server._BaseServer__shutdown_request or not unchanged(server) or server.fileno() < 0:
            return True
        try:
            self.waiting_end, self.waking_end = os.pipe()
        except OSError:  # out of descriptors
            return True
        blocking = self.unblock(server.socket)
        self.context = new_context()
        self.accepting = True
        try:
            return self.watch(server, interval, loop)
        finally:
            self.stop_accepting()
            self.wait_for_leader()
            os.close(self.waiting_end)
            os.close(self.waking_end)
            self.waiting_end = self.waking_end = -1
            if blocking and server.fileno() >= 0:
                os.set_blocking(server.fileno(), True)

    cdef bint unblock(self, sock) except -1:
        """A stream's accept() shall not wait when a sibling process was faster. Was it blocking?

        Python's side of the socket does not notice. Datagram sockets stay as they are, since
        handlers send through them.
        """
        if sock.type != SOCK_STREAM or not os.get_blocking(sock.fileno()):
            return False
        os.set_blocking(sock.fileno(), False)
        return True

    cdef bint watch(self, server, long long interval, loop) except -1:
        cdef ssf_pollfd fds[2]
        cdef bint staffed
        fds[1].fd = loop.fileno()
        fds[1].events = POLLIN
        while not server._BaseServer__shutdown_request:
            fds[0].fd = server.fileno()
            if fds[0].fd < 0:
                return False
            if not unchanged(server):
                return True
            staffed = self.staff(server) or not self.accepting
            fds[0].events = 0 if staffed else POLLIN
            fds[0].revents = fds[1].revents = 0
            wait(fds, 2, interval)
            if server._BaseServer__shutdown_request or fds[0].revents & POLLNVAL:
                return False
            if fds[1].revents:
                loop.clear()
                continue
            if fds[0].revents and not staffed:  # the request learns that there is no thread
                server._handle_request_noblock()
            server.service_actions()
        return False

    cdef bint staff(self, server) except -1:
        """Start what is missing of min_workers, one at least; whether there is a worker."""
        while self.accepting:
            with self.lock:
                if len(self.workers) >= min(max(server.min_workers, 1), server.max_workers):
                    return True
                worker = self.hire(server)
            if not self.start(worker):
                break
        return len(self.workers) > 0

    cdef wait_for_leader(self):
        with self.lock:
            self.watched += 1
            while self.leading:
                self.changed.wait()
            self.watched -= 1

    def stop_accepting(self):
        """Take nothing more from the listener. Any thread may call this; it does not wait."""
        with self.lock:
            if self.accepting:
                self.accepting = False
                os.write(self.waking_end, b"\0")

    def end(self):
        """serve_forever() has ended or the server closes: workers end when nothing is pending."""
        self.stop_accepting()
        with self.lock:
            self.serving = False
            self.wake_all()

    def join(self):
        """Wait until all workers have ended but daemons, and those that are waiting here too."""
        current = threading.current_thread()
        with self.lock:
            self.closing.append(current)
            self.changed.notify_all()
            self.watched += 1
            threads = [worker for worker in self.workers if not worker.daemon]
            while any(w in self.workers and w not in self.closing for w in threads):
                self.changed.wait()
            self.watched -= 1
            self.closing.remove(current)
            threads = [w for w in threads if w not in self.workers and w.ident is not None]
        for worker in threads:
            worker.join()

    def give_up(self):
        """Let join() not wait for the workers that there are."""
        with self.lock:
            self.closing += self.workers
            self.changed.notify_all()

    cdef wake_all(self):
        for worker in self.idle:
            worker.awake.release()
        self.idle.clear()

    # Requests that the serving thread accepts and hands over.

    def wait_until_free(self, server):
        """Wait until a worker can serve at once; False if the server's turn is over before."""
        started = monotonic()
        with self.lock:
            self.watched += 1
            try:
                while self.pending or not self.idle and len(self.workers) >= server.max_workers:
                    if self.serving and (server._BaseServer__shutdown_request
                                         or self.overdue(monotonic() - started)):
                        return False
                    self.changed.wait(CHECK_SECONDS)
            finally:
                self.watched -= 1
        return True

    cdef bint overdue(self, seconds) except -1:
        """Whether service_actions() is due after so long."""
        return self.poll_interval is not None and seconds >= self.poll_interval

    def submit(self, server, request, client_address):
        """Have a worker serve this: an idle one, a new one, or the first that will be free.

        RuntimeError if there is no worker and the system does not start one.
        """
        item = request, client_address, new_context()
        requests_of(server).claim(request)
        with self.lock:
            self.pending.append(item)
            worker = self.rouse(server)
        if worker is not None and not self.start(worker) and self.withdraw(item):
            requests_of(server).release(request)
            raise RuntimeError("can't start a worker thread")

    cdef bint withdraw(self, item) except -1:
        """Take back a request that no worker is there for."""
        with self.lock:
            if self.workers or item not in self.pending:
                return False
            self.pending.remove(item)
        return True

    # The workers. What is called with the lock says so.

    cdef object rouse(self, server):
        """With the lock: wake an idle worker, or return a new one that is to be started."""
        if self.idle:
            self.idle.pop().awake.release()
        elif len(self.workers) < server.max_workers:
            return self.hire(server)
        elif self.leading:
            os.write(self.waking_end, b"\0")
        return None

    cdef object hire(self, server):
        """With the lock: a worker that counts already and is to be started without the lock."""
        self.number += 1
        worker = self.make_worker(server, self, self.number)
        self.workers.append(worker)
        return worker

    cdef bint start(self, worker) except -1:
        """Start it; whether the system had a thread for it."""
        try:
            worker.start()
        except BaseException as error:
            with self.lock:
                self.dismiss(worker)
            if not isinstance(error, RuntimeError):
                raise
            return False
        with self.lock:
            worker.enlist()
        return True

    cdef dismiss(self, worker):
        """With the lock: this worker is none any more."""
        self.workers.remove(worker)
        if self.watched:
            self.changed.notify_all()

    def work(self, server, worker):
        """The life of a worker. What a request raises ends it, and another one takes its place."""
        cdef int generation = self.generation
        try:
            worker.item = self.next_item(server, worker, True)
            while worker.item is not None:
                self.serve_item(server, <tuple>worker.item)
                if generation != self.generation:
                    return  # in the child of a fork(), which has no workers
                self.follow(server, worker)
        except BaseException:
            if generation == self.generation:
                self.replace(server, worker)
            raise

    cdef serve_item(self, server, tuple item):
        request, client_address, context = item
        context.run(server.process_request_thread, request, client_address)

    cdef follow(self, server, worker):
        """After one request the next. The first one counts as in progress until that is taken:
        drain() shall not find a moment between two in which there is none."""
        request = (<tuple>worker.item)[0]
        try:
            item = self.take_at_once(server)
        finally:
            requests_of(server).release(request)
        worker.item = request = None
        if item is None:
            worker.item = self.next_item(server, worker, False)
        else:
            worker.item = item
            self.let_another_lead(server, False)

    cdef replace(self, server, worker):
        if worker.item is not None:
            requests_of(server).release((<tuple>worker.item)[0])
        with self.lock:
            self.dismiss(worker)
            needed = self.pending or self.accepting and not self.leading
            successor = self.rouse(server) if needed else None
        if successor is not None and not self.start(successor):
            _running.wake(server)  # the serving thread sees to it

    cdef object next_item(self, server, worker, bint roused):
        """Wait for what the worker serves next; None: it ends. `roused`: woken, started for it."""
        cdef bint leading, bored = False
        while True:
            item = None
            with self.lock:
                self.coming = self.coming and not roused
                leading = self.accepting and not self.leading and not self.pending
                if self.pending:
                    item = self.pending.popleft()
                elif self.superfluous(server, bored):
                    self.leave(worker)
                    return None
                else:
                    seconds = self.rest(server, worker, leading)
            if item is None:
                if leading:
                    item = self.lead(server)
                else:
                    bored = self.sleep(worker, seconds)
                roused = True
            if item is not None:
                self.let_another_lead(server, roused)
                return item

    cdef let_another_lead(self, server, bint roused):
        """Called by a worker that goes to serve: somebody shall wait for the next request."""
        if not self.accepting or not roused and (self.leading or self.coming):
            return
        successor = None
        with self.lock:
            self.coming = self.coming and not roused
            if self.accepting and not self.leading and not self.coming:
                self.coming = bool(self.idle)
                successor = self.rouse(server)
                self.coming = self.coming or successor is not None
        if successor is not None and not self.start(successor):
            self.coming = False  # the next worker to be free leads

    cdef bint superfluous(self, server, bint bored) except -1:
        """With the lock: whether a worker with nothing to do shall end."""
        if not self.serving:
            return True
        if self.accepting and not self.leading and not self.idle:
            return False  # it is the one to lead
        return (len(self.workers) > server.max_workers
                or bored and len(self.workers) > server.min_workers)

    cdef leave(self, worker):
        """With the lock: the end of a worker that has nothing to do."""
        self.dismiss(worker)
        if self.accepting and not self.leading and self.idle:
            self.idle.pop().awake.release()

    cdef object rest(self, server, worker, bint leading):
        """With the lock: become leader or idle. Returns the seconds to be idle, -1: no limit."""
        if leading:
            self.leading = True
        else:
            self.idle.append(worker)
        if self.watched:
            self.changed.notify_all()
        seconds = server.worker_idle_timeout
        if seconds is None or len(self.workers) <= server.min_workers:
            return -1
        return min(seconds, threading.TIMEOUT_MAX)

    cdef bint sleep(self, worker, seconds) except -1:
        """Be idle until woken; true if nobody did in that time."""
        if worker.awake.acquire(timeout=seconds):
            return False
        with self.lock:
            if worker in self.idle:
                self.idle.remove(worker)
                return True
        worker.awake.acquire()  # woken in the last moment
        return False

    cdef object lead(self, server):
        """Wait for a request; None to see what else there is."""
        try:
            return self.wait_and_take(server)
        finally:
            with self.lock:
                self.leading = False
                if self.watched:
                    self.changed.notify_all()

    cdef object wait_and_take(self, server):
        cdef ssf_pollfd fds[2]
        fds[0].fd = server.socket.fileno()
        fds[1].fd = self.waiting_end
        fds[0].events = fds[1].events = POLLIN
        fds[0].revents = fds[1].revents = 0
        wait(fds, 2, -1)
        if fds[1].revents:
            os.read(self.waiting_end, 4096)
            return None
        if fds[0].revents & POLLNVAL or not unchanged(server):
            _running.wake(server)  # the serving thread decides
            return None
        taken = take(server)
        if taken is None:
            _dispatch.rest_if_exhausted(server)
        return self.item(server, taken)

    cdef object take_at_once(self, server):
        cdef ssf_pollfd fd
        if not self.accepting or self.pending:
            return None
        fd.fd = server.socket.fileno()
        fd.events = POLLIN
        fd.revents = 0
        if ssf_poll(&fd, 1, 0) <= 0 or fd.revents & POLLNVAL or not unchanged(server):
            return None
        return self.item(server, take(server))

    cdef object item(self, server, taken):
        if taken is None:
            return None
        request, client_address = taken
        requests_of(server).claim(request)
        return request, client_address, self.context.copy()


def reset_all():
    """In the child of a fork(): its pools begin without workers."""
    for pool in pools:
        (<Pool>pool).reset()


def end_all():
    """The interpreter ends: idle workers must not keep it, unless their server still serves."""
    for pool in list(pools):
        if not (<Pool>pool).serving or (<Pool>pool).thread.daemon:
            pool.end()
