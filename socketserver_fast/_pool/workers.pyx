# cython: language_level=3, freethreading_compatible=True
"""The threads of a pool: started, idle, woken, joined. What they do is the business of _pool."""

import threading


cdef class Workers:
    """The workers of one server; `idle` are those that sleep, who fell asleep last at the end.

    `lock` guards everything; `changed` is notified when a worker has nothing to do or has ended.
    `make_worker(server, pool, number)` makes a worker: a threading.Thread that calls work(), with
    the attributes `item`, what it serves, `renamed`, which is None between two of them, and
    `awake`, a lock that it sleeps on, and with enlist(), called when it has started.
    """

    def __init__(self, make_worker):
        self.make_worker = make_worker
        self.reset()

    cpdef reset(self):
        """Begin without workers, as does the child of a fork(): they stayed with the parent."""
        # A signal handler that closes the server may run in the thread that holds it.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.workers, self.idle, self.closing = [], [], []
        self.watched = 0
        self.generation += 1

    cdef int tell(self) except -1:
        """With the lock: let those look again that wait for a change."""
        if self.watched:
            self.changed.notify_all()
        return 0

    cdef int await_change(self, seconds=None) except -1:
        """With the lock: wait for a change."""
        self.watched += 1
        try:
            self.changed.wait(seconds)
        finally:
            self.watched -= 1
        return 0

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
                # A signal may have come when it had started, or even ended.
                if worker in self.workers and not worker.is_alive():
                    self.dismiss(worker)
            if not isinstance(error, RuntimeError):
                raise
            return False
        with self.lock:
            worker.enlist()
        return True

    cdef int count_in(self, worker) except -1:
        """The worker runs, also if it was dismissed before that showed."""
        with self.lock:
            if worker not in self.workers:
                self.workers.append(worker)
        return 0

    cdef dismiss(self, worker):
        """With the lock: this worker is none any more."""
        self.workers.remove(worker)
        self.tell()

    cdef int wake_one(self) except -1:
        """With the lock: wake who fell asleep last."""
        self.idle.pop().awake.release()
        return 0

    cdef int wake_all(self) except -1:
        """With the lock: wake all that are idle."""
        while self.idle:
            self.wake_one()
        return 0

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

    def join(self):
        """Wait until all workers have ended but daemons, and those that are waiting here too."""
        current = threading.current_thread()
        with self.lock:
            self.closing.append(current)
            self.tell()
            threads = [worker for worker in self.workers if not worker.daemon]
            while any(w in self.workers and w not in self.closing for w in threads):
                self.await_change()
            self.closing.remove(current)
            threads = [w for w in threads if w not in self.workers and w.ident is not None]
        for worker in threads:
            worker.join()

    def give_up(self):
        """Let join() not wait for the workers that there are."""
        with self.lock:
            self.closing += self.workers
            self.tell()
