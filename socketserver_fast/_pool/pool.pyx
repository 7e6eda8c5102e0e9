# cython: language_level=3, freethreading_compatible=True
"""The workers of a ThreadPoolMixIn at work: who waits for a request, who serves it, when they end.

Hot is the way from one request to the next (bench: pool_close_16). A worker that has finished
tries the listener again before it sleeps, so that under load nothing is handed from thread to
thread. Of the idle workers one, the leader, waits for the listener; before it serves what it took
it lets another one wait. The others sleep on a lock each, and who fell asleep last is woken first.

A request is in one place at any time: in the kernel, in `silence`, in `pending`, or with a worker.

take_at_once() asks by poll(2) before it accepts: another process that ends may just have made the
listener blocking again, and a worker that waits in accept() would not notice the end of its server.
"""

import os
import socket
import sys
import threading
import time
import weakref

cimport cython

from socketserver_fast._pool.turns cimport Turn, Turns, trace_and_profile
from socketserver_fast._serving.dispatch cimport sharing
from socketserver_fast._serving.serving cimport requests_of
from socketserver_fast._sockets cimport wait as waits
from socketserver_fast._sockets.datagram cimport batchable
from socketserver_fast._sockets.plain cimport plain
from socketserver_fast._sockets.wait cimport (
    POLLIN, POLLNVAL, SSF_NATIVE, show_waits, ssf_poll, ssf_pollfd)

from socketserver_fast._pool import threads
from socketserver_fast._pool.turns import MOMENT
from socketserver_fast._serving import dispatch, serving
from socketserver_fast._sockets import datagram

cdef object monotonic = time.monotonic
cdef object pools = weakref.WeakSet()
cdef object SOCK_DGRAM = socket.SOCK_DGRAM
# Elsewhere a connection has the non-blocking mode of its listener; see accepting.Listener.
cdef bint INHERITS = not sys.platform.startswith("linux")

# A worker that finishes takes the next request by itself, and each look makes one wait for the GIL.
cdef double WHILE_REQUESTS_FINISH = 0.05
cdef double ATTENTIVE_SECONDS = 0.5  # after the workers were all busy, it may be so again

cpdef bint unchanged(server) except -1:
    """Return false if anything on this server expects to be called by the serving thread."""
    if not sharing.intact(server):
        return False
    sock = server.socket
    if not SSF_NATIVE or not plain(sock):
        return False
    if sock.type != SOCK_DGRAM:
        return True
    return (batchable(sock) and 0 < server.max_packet_size <= 8192
            and not getattr(server, "reply_from_destination", False))


cdef object accept(server):
    """Take a request; return it and its client's address, None if somebody was faster."""
    sock = server.socket
    if sock.type != SOCK_DGRAM:
        taken = dispatch.take(server)
        if INHERITS and taken is not None and taken[0].gettimeout() is None:
            taken[0].setblocking(True)
        return taken
    try:
        return datagram.receive(server)
    except OSError:  # an earlier reply's ICMP answer
        return None


@cython.final
cdef class Pool(Turns):
    """Has the workers of one server take requests and serve them."""

    cdef object context, thread
    cdef object silence  # a Silence, if there is a first_byte_timeout
    cdef int silence_fd  # readable when one of its connections is, or -1
    cdef long attended_at  # the progress when the serving thread looked last
    cdef object __weakref__

    def __init__(self, make_worker, defaults):
        Turns.__init__(self, make_worker)
        self.defaults = defaults
        self.descriptors = sys.maxsize
        pools.add(self)

    cpdef reset(self):
        Turns.reset(self)
        if self.silence is not None:
            self.silence.forget()
            self.silence = None

    # serve_forever() begins and ends; see accepting.py.

    def begin(self, poll_interval, descriptors):
        """Begin with serve_forever(), in its thread: from now on idle workers stay.

        `descriptors` is how many connections there may be if max_connections is None.
        """
        with self.lock:  # workers of an earlier serve_forever() may still be busy
            self.poll_interval, self.descriptors = poll_interval, descriptors
            self.thread = threading.current_thread()
            self.reported.clear()
            self.serving = True

    def start_accepting(self, pipe, context, silence):
        """Let the workers take requests from the listener.

        The leader waits for the pipe, too. Each request gets a copy of the context. Silent
        connections are kept in `silence`, or None.
        """
        self.waiting_end, self.waking_end = pipe
        self.silence, self.silence_fd = silence, -1 if silence is None else silence.fileno()
        self.use_context(context)
        self.accepting = True

    def stop_accepting(self):
        """Take nothing more from the listener. Any thread may call this; it does not wait."""
        with self.lock:
            if self.accepting:
                self.accepting = False
                self.interrupt()

    def await_leader(self):
        """After stop_accepting(): wait until no worker waits for the listener any more."""
        with self.lock:
            while self.leading:
                self.await_change()

    def end(self):
        """End with serve_forever() or when the server closes: workers end if nothing is pending."""
        self.stop_accepting()
        with self.lock:
            self.serving = False
            while self.idle:
                self.wake_one()
            self.let_return(None)

    # What a worker does.

    def work(self, server, worker):
        """Serve until there is nothing to do: the body of a worker's run().

        What a request raises ends the worker, and another one takes its place.
        """
        cdef int generation = self.generation
        cdef tuple hooks = (None, None)
        cdef Turn turn = Turn(self, server, worker)
        threads.count_in(self, worker)
        show_waits(&turn.waits)
        try:
            worker.item = self.next_item(server, turn, True)
            while worker.item is not None:
                hooks = trace_and_profile(hooks)
                self.serve_item(server, <tuple>worker.item)
                if generation != self.generation:
                    return  # in the child of a fork(), which has no workers
                self.follow(server, turn)
        except BaseException:
            if generation == self.generation:
                self.replace(server, turn)
            raise
        finally:
            show_waits(NULL)

    cdef serve_item(self, server, tuple item):
        request, client_address, context = item
        context.run(server.process_request_thread, request, client_address)

    cdef follow(self, server, Turn turn):
        """Take the next request, or wait for it. The last one counts as in progress until then, so
        that drain() finds no moment between two in which there is none."""
        worker = turn.worker
        request = (<tuple>worker.item)[0]
        self.progress += 1
        try:
            item = None
            if self.accepting and not self.pending and not self.returning and not self.extra:
                item = self.take_at_once(server)
        finally:
            requests_of(server).release(request)
        worker.item = worker.renamed = request = None
        if item is None:
            worker.item = self.next_item(server, turn, False)
        else:
            worker.item = item
            turn.waits.due = False
            self.let_another_lead(server, False)

    cdef replace(self, server, Turn turn):
        if turn.worker.item is not None:
            requests_of(server).release((<tuple>turn.worker.item)[0])
        with self.lock:
            self.dismiss(turn.worker)
            self.end_turn(server, turn)
            needed = self.pending or self.accepting and not self.leading
            successor = self.rouse(server) if needed else None
        if successor is not None and not threads.start(self, successor):
            serving.wake(server)  # the serving thread sees to it

    cdef object next_item(self, server, Turn turn, bint roused):
        """Wait for what the worker serves next; return None if it shall end.

        `roused`: it was woken or started to wait for the listener.
        """
        cdef bint leading = False, bored = False
        worker = turn.worker
        while True:
            item = None
            with self.lock:
                self.coming = self.coming and not roused
                self.end_turn(server, turn)
                if self.pending and not self.free(server):
                    self.look(server, True)
                leading = (self.accepting and not self.leading and not self.pending
                           and self.free(server))
                if self.pending and self.free(server):
                    item = self.pending.popleft()
                    requests_of(server).take_over((<tuple>item)[0])
                    self.queued = monotonic() if self.pending else 0
                    self.running.add(turn)
                elif self.superfluous(server, bored):
                    self.leave(worker)
                    return None
                else:
                    seconds = self.rest(server, worker, leading)
            if item is None:
                if leading:
                    item = self.lead(server, turn)
                else:
                    bored = self.sleep(worker, seconds) and not self.pending
                roused = True
                self.report(server)
            if item is not None:
                self.let_another_lead(server, roused)
                return item

    cdef let_another_lead(self, server, bint roused):
        """Have another worker wait for the listener, since this one goes to serve."""
        if not self.accepting or not roused and (self.leading or self.coming):
            return
        successor = None
        with self.lock:
            self.coming = self.coming and not roused
            if self.accepting and not self.leading and not self.coming:
                successor = self.call_leader(server)
        if successor is not None and not threads.start(self, successor):
            self.coming = False  # the next worker to be free leads

    cdef object call_leader(self, server):
        """Locked: wake a worker to wait for the listener, or return one to be started."""
        if not self.has_room(server):
            return self.be_attentive(server)
        self.coming = True
        return self.rouse(server)

    def attend(self, server):
        """See that somebody waits for the listener. The serving thread calls this at each tick.

        Returns the seconds until the next call is due, or None: when it is woken.
        """
        cdef bint queued
        cdef double seconds = MOMENT
        successor = None
        if not self.attentive:
            return None
        queued = self.ready(server, 1)
        with self.lock:
            if (self.pending or self.returning
                    or self.accepting and not self.leading and not self.coming):
                if self.progress != self.attended_at:
                    seconds = WHILE_REQUESTS_FINISH
                self.note_queued(queued or self.pending)
                self.look(server, queued or self.pending or self.returning)
                self.attended_at = self.progress
                if self.accepting and not self.leading and not self.coming:
                    successor = self.call_leader(server)
                if self.brief:
                    seconds = self.moment()
            elif monotonic() - self.full > ATTENTIVE_SECONDS:
                self.attentive = False
        self.report(server)
        if successor is not None and not threads.start(self, successor):
            self.coming = False
            self.queued = 0  # nobody could take it
        return seconds

    cdef bint superfluous(self, server, bint bored) except -1:
        """Locked: return whether a worker with nothing to do shall end."""
        if self.pending:
            return False
        if not self.serving:
            return True
        if self.accepting and not self.leading and not self.idle:
            return False  # it is the one to lead
        return bored and len(self.workers) - self.lent > self.setting(server, "min_workers")

    cdef leave(self, worker):
        """Locked: end a worker that has nothing to do."""
        self.dismiss(worker)
        if self.accepting and not self.leading and self.idle:
            self.wake_one()

    cdef object rest(self, server, worker, bint leading):
        """Locked: become leader or idle. Return the seconds to be idle, -1: no limit."""
        if leading:
            self.leading = True
        else:
            self.idle.append(worker)
            if self.accepting and not self.leading and not self.coming:
                self.be_attentive(server)
        self.tell()
        if self.pending and not leading:
            return MOMENT
        seconds = self.setting(server, "worker_idle_timeout")
        present = len(self.workers) - self.lent
        if seconds is None or present <= self.setting(server, "min_workers"):
            return -1
        return min(seconds, threading.TIMEOUT_MAX)

    cdef object lead(self, server, Turn turn):
        """Wait for a request and take it; return None to look for other work."""
        item = None
        try:
            if self.wait(server) and self.take_turn(server, turn):
                item = self.take(server)
                if item is None:
                    dispatch.rest_if_exhausted(server)
            return item
        finally:
            with self.lock:
                self.leading = False
                self.queued = monotonic() if self.queued and self.ready(server, 0) else 0
                if item is None:
                    self.running.discard(turn)
                self.tell()

    cdef bint take_turn(self, server, Turn turn) except -1:
        """Begin a turn; return false if none is free: a worker that has returned may have it."""
        with self.lock:
            if not self.free(server):
                return False
            self.running.add(turn)
        return True

    cdef object take(self, server):
        """Take a request to be served now, if one is there: of a client that was silent first."""
        if self.silence is not None:
            item = self.silence.take()
            if item is not None:
                requests_of(server).take_over(item[0])
            if item is not None or self.is_full(server, 0):
                return item
        taken = accept(server)
        if taken is None:
            return None
        request, client_address = taken
        requests_of(server).claim(request)
        item = request, client_address, self.request_context().copy()
        if (self.silence is not None and not readable(request.fileno(), -1)
                and self.silence.keep(server, item)):
            return None
        return item

    cdef bint is_full(self, server, int more) except -1:
        """Return whether with one more connection there would be more than max_connections.

        A worker that asks counts as that one; without a worker `more` is 1.
        """
        return (self.silence is not None
                and len(self.workers) - len(self.idle) + len(self.silence) + more
                > self.most(server))

    @cython.critical_section
    cdef int use_context(self, context) except -1:
        self.context = context
        return 0

    @cython.critical_section
    cdef object request_context(self):
        return self.context

    # The listener.

    cdef bint wait(self, server) except -1:
        """Wait for a request; return false if there was something else.

        While max_connections are open it waits for the silent ones, a moment at a time. It only
        looks for what is noted as queued: a worker may have taken that, and the turn that is kept
        for it is somebody else's then.
        """
        cdef ssf_pollfd fds[3]
        cdef bint full = self.is_full(server, 0)
        set_fds(fds, -1 if full else server.socket.fileno(), self.silence_fd, self.waiting_end)
        waits.wait(fds, 3, 0 if self.queued else <long long>(MOMENT * 1e9) if full else -1)
        if fds[2].revents:
            os.read(self.waiting_end, 4096)
            return False
        if fds[0].revents & POLLNVAL or not unchanged(server):
            serving.wake(server)  # the serving thread decides
            return False
        if full and not fds[1].revents and readable(server.socket.fileno(), -1):
            self.stalled = None if False in self.reported else []
            self.reported.add(False)
        return bool(fds[0].revents or fds[1].revents)

    cdef bint ready(self, server, int more) except -1:
        """Return whether a request is there now. `more` is what is_full() gets."""
        return readable(-1 if self.is_full(server, more) else server.socket.fileno(),
                        self.silence_fd)

    cdef object take_at_once(self, server):
        """Take a request if one is there now; return None otherwise."""
        if not self.ready(server, 0) or not unchanged(server):
            return None
        return self.take(server)


cdef bint readable(int first, int second) noexcept:
    """Return whether one of two descriptors is readable, of which each may be -1."""
    cdef ssf_pollfd fds[3]
    set_fds(fds, first, second, -1)
    return ssf_poll(fds, 2, 0) > 0 and not fds[0].revents & POLLNVAL


cdef void set_fds(ssf_pollfd *fds, int first, int second, int third) noexcept:
    fds[0].fd, fds[1].fd, fds[2].fd = first, second, third
    fds[0].events = fds[1].events = fds[2].events = POLLIN
    fds[0].revents = fds[1].revents = fds[2].revents = 0


def reset_all():
    """Begin without workers in the child of a fork(); its thread is none any more."""
    show_waits(NULL)
    for pool in pools:
        (<Pool>pool).reset()


def end_all():
    """Let the interpreter end: end the workers of servers that do not serve any more."""
    for pool in list(pools):
        if not (<Pool>pool).serving or (<Pool>pool).thread.daemon:
            pool.end()
