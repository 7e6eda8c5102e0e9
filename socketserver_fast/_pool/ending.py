"""Waits for the workers of a pool when its server is closed."""

import threading


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
    """Make join() not wait for the present workers."""
    with pool.lock:
        pool.closing.extend(pool.workers)
        pool.tell()
