"""Starts the workers of a pool, and waits for them when its server is closed."""

import threading


def start(pool, worker):
    """Start a worker; return whether the system had a thread for it."""
    try:
        worker.start()
    except BaseException as error:
        with pool.lock:
            # A signal may have come when it had started, or even ended.
            if worker in pool.workers and not worker.is_alive():
                pool.dismiss(worker)
        if not isinstance(error, RuntimeError):
            raise
        return False
    with pool.lock:
        worker.enlist()
    return True


def count_in(pool, worker):
    """Count a worker that runs, even if start() was interrupted and has dismissed it."""
    with pool.lock:
        if worker not in pool.workers:
            pool.workers.append(worker)


def join(pool):
    """Wait until all workers have ended, except daemons and those that wait here, too."""
    current = threading.current_thread()
    with pool.lock:
        pool.closing.append(current)
        pool.tell()
        threads = [worker for worker in pool.workers if not worker.daemon]
        while any(w in pool.workers and w not in pool.closing for w in threads):
            pool.await_change()
        pool.closing.remove(current)
        threads = [w for w in threads if w not in pool.workers and w.ident is not None]
    for worker in threads:
        worker.join()


def give_up(pool):
    """Let join() return without waiting for the present workers."""
    with pool.lock:
        pool.closing.extend(pool.workers)
        pool.tell()
