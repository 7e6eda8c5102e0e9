"""The parent of the workers: starts them, watches them, replaces them, ends them.

It lives in one thread, the one that called serve_forever(), and only reacts: to what its workers
say, to their ends, to signals, to wake-ups and to the time. Each worker belongs to a slot until it
is told to end; then it is among the `ending` until it has ended or its deadline has come.
"""

import errno
import math
import selectors
import signal
import socket
import threading
import time

from socketserver_fast._prefork.process import deadline_in, describe, fork
from socketserver_fast._prefork.slots import Slot, Sum, unblocked
from socketserver_fast._prefork.worker import Worker
from socketserver_fast._serving import serving
from socketserver_fast._serving.serving import Loop
from socketserver_fast._serving.signals import Signals
from socketserver_fast._sockets import options
from socketserver_fast._sockets.log import logger

YOUNG = 0.1  # seconds; a worker that ends within this time of its start is replaced with a delay
GRACE = 0.2  # seconds that a late worker has to close its requests by itself
TICK = 0.1  # seconds, where the end of a process wakes nobody


class Supervisor:
    """Runs the serve_forever() of a PreforkMixIn; the server's `_supervisor` meanwhile."""

    def __init__(self, server, serve, poll_interval, servers, default_count, make_selector):
        self.server = server
        self.serve = serve
        self.poll_interval = poll_interval
        self.servers = servers
        self.default_count = default_count
        self.make_selector = make_selector
        self.thread = threading.get_ident()
        self.slots = []
        self.ending = []
        self.to_replace = []  # slots that SIGHUP has not come to yet
        self.deadline = None  # for the last requests, once the server is to stop
        self.unfinished = 0  # ending workers that did not finish their requests
        self.stop_signal = None
        self.loop = Loop(server)
        self.signals = Signals()
        # They outlive this, as do the counts of every server.
        self.dropped = vars(server).setdefault("_dropped_elsewhere", Sum())
        self.truncated = vars(server).setdefault("_truncated_elsewhere", Sum())

    def run(self):
        """Run until the server is told to stop: the body of serve_forever()."""
        with self.loop:
            if not self.loop.open(always=True):
                raise OSError(errno.EMFILE, "no descriptors left to supervise workers")
            self.serve_until_stopped()
        self.signals.call_previous(self.stop_signal)

    def serve_until_stopped(self):
        """Supervise the workers, then end them."""
        server = self.server
        server._supervisor = self
        try:
            with self.signals, unblocked(server.socket):
                try:
                    self.supervise()
                finally:
                    self.stop()
        finally:
            server._unfinished_workers = self.unfinished
            del server._supervisor
            self.close()

    def supervise(self):
        """Keep the workers running until the server is to stop."""
        while not self.stops():
            self.resize(self.count())
            self.fill()
            self.wait()
            self.obey_signals()
            self.look_after_workers()
            self.look_after_ending()
            self.replace_next()
            self.server.service_actions()
            self.report_dropped()

    def stops(self):
        """Return whether it is time to end."""
        server = self.server
        return (serving.stop_requested(server) or self.stop_signal is not None
                or server.fileno() < 0)

    def stop(self):
        """End all workers, those that are late by force."""
        drains = self.stop_signal is not None or serving.is_draining(self.server)
        if drains:  # the workers have it still, and the last one closes it when it is empty
            self.close_listeners()
        if self.deadline is None:
            self.deadline = self.deadline_from_now()
        for slot in self.slots:
            for worker in slot.workers():
                self.let_go(slot, worker)
        while self.ending:
            for worker in self.ending:
                worker.end(self.deadline, drains)
            self.wait()
            self.obey_signals()
            self.look_after_ending()

    def drain(self, deadline):
        """Make serve_forever() close the listener and return. Any thread may call it."""
        self.deadline = math.inf if deadline is None else deadline
        serving.request_drain(self.server)

    def deadline_from_now(self):
        """Return when requests of workers that end now have to be finished."""
        return deadline_in(self.server.drain_timeout)

    def report_dropped(self):
        """Log what the kernel has dropped for all workers."""
        if hasattr(self.server, "_note_flags") and options.dropped(self.server):
            options.report_dropped(self.server)

    def close_listeners(self):
        """Close the parent's listeners, but not those of datagrams: they count what is dropped."""
        for slot in self.slots:
            if getattr(slot.listener, "type", None) != socket.SOCK_DGRAM:
                slot.close()

    def close(self):
        """Close the descriptors of the parent; a worker calls it, too, which needs none of them."""
        for slot in self.slots:
            self.close_own_listener(slot)
        for worker in self.workers():
            worker.close()
        self.loop.close()

    def is_starting(self):
        """Return whether one of the workers has not said yet that it is ready."""
        return any(slot.worker is None or slot.worker.ready_since is None for slot in self.slots)

    def is_reloading(self):
        """Return whether SIGHUP still replaces workers."""
        return bool(self.to_replace) or any(slot.successor for slot in self.slots)

    def refuse_in_serving_thread(self, method):
        """RuntimeError if the caller would wait for itself."""
        if threading.get_ident() == self.thread:
            raise RuntimeError(
                f"{method}() was called from the thread that runs serve_forever(), and would wait "
                f"for that to return; call it from another thread")

    def count(self):
        """Return how many workers the server wants now. ValueError for what is no such number."""
        count = self.server.workers
        if count is None:
            return self.default_count
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"workers must be a number above 0, or None, not {count!r}")
        return count

    def resize(self, count):
        """Have that many slots; the workers of those that go are told to end."""
        while len(self.slots) < count:
            self.slots.append(Slot(len(self.slots), self.server))
            if self.has_own_listener(self.slots[-1]):
                self.dropped.add(self.slots[-1].dropped)
        while len(self.slots) > count:
            slot = self.slots.pop()
            for worker in slot.workers():
                self.end(slot, worker, drains=self.has_own_listener(slot))
            self.close_own_listener(slot)

    def has_own_listener(self, slot):
        """Return whether its listener is not the server's."""
        return slot.listener is not self.server.socket

    def close_own_listener(self, slot):
        """Close a listener that is not the server's; what it has dropped still counts."""
        if self.has_own_listener(slot):
            slot.close()
            self.dropped.end(slot.dropped)

    def fill(self):
        """Start what is missing and due."""
        for slot in self.slots:
            if slot.worker is None and slot.start_at <= time.monotonic():
                slot.worker = self.start(slot)

    def start(self, slot):
        """Fork a worker for the slot; return None, and try again later, if the system refuses."""
        try:
            worker = fork(
                slot, lambda process, mask: Worker(self.server, process).run(self, mask))
        except OSError as error:
            slot.postpone()
            logger().warning("%s cannot start worker %d: %s", self.name(), slot.index, error)
            return None
        self.truncated.add(worker.truncated)
        return worker

    def end(self, slot, worker, drains=False):
        """Tell a worker to finish its requests and end; its slot is free then."""
        worker.end(self.deadline_from_now(), drains)
        self.let_go(slot, worker)

    def forget(self, worker):
        """Free what belongs to a worker that has ended; what it has counted still counts."""
        worker.close()
        self.truncated.end(worker.truncated)

    def let_go(self, slot, worker):
        """Count a worker among those that are ending."""
        slot.remove(worker)
        self.ending.append(worker)

    def wait(self):
        """Sleep until there is something to do."""
        with self.make_selector() as selector:
            selector.register(self.loop, selectors.EVENT_READ)
            for worker in self.workers():
                for descriptor in worker.descriptors():
                    selector.register(descriptor, selectors.EVENT_READ)
            selector.select(self.time_left())
        self.loop.clear()

    def time_left(self):
        """Return the seconds until something is due; None if nothing is."""
        now = time.monotonic()
        times = [min(worker.deadline + GRACE, worker.remind_at)
                 for worker in self.ending if not worker.killed]
        if self.deadline is None:
            times += [slot.start_at for slot in self.slots if slot.worker is None]
            if self.poll_interval is not None:
                times.append(now + self.poll_interval)
            if hasattr(self.server, "_note_flags"):
                times.append(now + options.REPORT_SECONDS)
            if self.server.worker_timeout is not None:
                times.append(now + self.server.worker_timeout / 4)
        if any(worker.pidfd is None for worker in self.workers()):
            times.append(now + TICK)
        left = min(times, default=math.inf) - now
        return None if left == math.inf else max(left, 0)

    def workers(self):
        """Return all workers, also those that are ending."""
        return [worker for slot in self.slots for worker in slot.workers()] + self.ending

    def requests_in_progress(self):
        """Return how many requests the workers have. Any thread may ask."""
        return sum(worker.requests_in_progress() for worker in self.workers())

    def obey_signals(self):
        """Do what the signals since the last turn say."""
        while self.signals.received:
            number = self.signals.received.popleft()
            if number == signal.SIGHUP:
                self.to_replace = list(self.slots)
            elif number == signal.SIGTTIN:
                self.server.workers = self.count() + 1
            elif number == signal.SIGTTOU:
                self.server.workers = max(self.count() - 1, 1)
            elif self.stop_signal is None:
                self.stop_signal = number
            elif number == signal.SIGINT:
                self.deadline = time.monotonic()

    def look_after_workers(self):
        """Hear what they say; see who has ended, leaves or hangs."""
        for slot in self.slots:
            for worker in slot.workers():
                status = worker.reap()
                worker.receive()  # afterwards, so that its last words count
                if worker.wants_stop:
                    serving.request_stop(self.server)
                if status is not None:
                    self.ended(slot, worker, status)
                elif worker.leaving:
                    worker.deadline = self.deadline_from_now()
                    self.let_go(slot, worker)
                elif worker.hangs(self.server.worker_timeout) and not worker.killed:
                    logger().error(
                        "%s kills worker %d (process %d): no sign of life for %g seconds",
                        self.name(), slot.index, worker.pid, self.server.worker_timeout)
                    worker.kill()

    def ended(self, slot, worker, status):
        """A worker has ended by itself, or somebody has killed it: see to its replacement."""
        self.forget(worker)
        if worker is slot.successor:
            self.to_replace.insert(0, slot)
        slot.remove(worker)
        if worker.failure is not None:
            raise RuntimeError(f"worker {slot.index} of {self.name()} could not start:\n\n"
                               + worker.failure.decode(errors="replace"))
        if worker.leaving or worker.wants_stop:
            return
        logger().warning("%s: worker %d (process %d) ended %s", self.name(), slot.index, worker.pid,
                         describe(status))
        if worker.ready_since is None or time.monotonic() - worker.ready_since < YOUNG:
            slot.postpone()
        else:
            slot.early_ends = 0

    def look_after_ending(self):
        """See which of the ending workers have ended; kill those that are late."""
        for worker in self.ending[:]:
            worker.receive()
            status = worker.reap()
            if status is not None:
                self.forget(worker)
                self.ending.remove(worker)
                self.unfinished += status != 0
            elif worker.deadline + GRACE <= time.monotonic() and not worker.killed:
                logger().warning("%s kills worker %d (process %d): its requests were not finished "
                                 "in time", self.name(), worker.index, worker.pid)
                worker.kill()
            else:
                worker.remind()

    def replace_next(self):
        """Replace the next worker after SIGHUP: start a new one first, then end the old one."""
        for slot in self.slots:
            if slot.successor is not None and slot.successor.ready_since is not None:
                self.end(slot, slot.worker)
        if self.to_replace and not any(slot.successor for slot in self.slots):
            slot = self.to_replace[0]
            if slot not in self.slots or slot.worker is None:
                self.to_replace.pop(0)
            elif slot.start_at <= time.monotonic():
                slot.successor = self.start(slot)
                if slot.successor is not None:
                    self.to_replace.pop(0)

    def name(self):
        """Return the name of the server for messages."""
        return type(self.server).__name__
