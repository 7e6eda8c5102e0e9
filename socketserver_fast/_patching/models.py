"""Defines the methods that patch() gives ThreadingMixIn, for threads, a pool or greenlets.

Programs may replace the stdlib's _ServerSelector and _Threads, so the methods look them up at each
call.
"""

import selectors
import socketserver as _stdlib

from socketserver_fast import mixins, pool
from socketserver_fast._patching import after_import
from socketserver_fast._patching.replacing import adapted
from socketserver_fast._serving import ending

_stdlib_server_close = _stdlib.ThreadingMixIn.server_close


def selector_class():
    """Return the stdlib's _ServerSelector, or the selector it stands for if there is none."""
    return getattr(_stdlib, "_ServerSelector", None) or getattr(
        selectors, "PollSelector", selectors.SelectSelector)


# A thread for each request.


def process_request(self, request, client_address):
    """Process as ThreadingMixIn.process_request(), with the stdlib's _Threads."""
    threads_class = getattr(_stdlib, "_Threads", mixins._Threads)
    mixins.start_thread(self, request, client_address, threads_class)


THREADS = {
    "process_request": process_request,
    **adapted(mixins.ThreadingMixIn, _stdlib.ThreadingMixIn,
              "_wait_for_requests", "_close_requests"),
}

# A pool of threads.


def pool_serve_forever(self, poll_interval=0.5):
    """Serve as ThreadPoolMixIn.serve_forever(), with the stdlib's _ServerSelector."""
    after_import.look()
    pool.serve(self, poll_interval, selector_class())


def pool_server_close(self):
    """Close as ThreadPoolMixIn.server_close()."""
    pool.pool_of(self).end()
    super(_stdlib.ThreadingMixIn, self).server_close()
    pool.join(self)


def pool_close_requests(self):
    """Close as ThreadPoolMixIn._close_requests()."""
    THREADS["_close_requests"](self)
    pool.give_up(self)


# Greenlets.


def green():
    """Return the module green; ImportError without the package greenlet."""
    from socketserver_fast import green

    return green


def greenlet_serve_forever(self, poll_interval=0.5):
    """Serve as GreenletMixIn.serve_forever()."""
    after_import.look()
    green().GreenletMixIn.serve_forever(self, poll_interval)


def greenlet_process_request(self, request, client_address):
    """Process as GreenletMixIn.process_request(), or in a thread where no hub runs."""
    if not green().start(self, request, client_address):
        process_request(self, request, client_address)


def process_request_greenlet(self, request, client_address):
    """Call process_request_thread(), which programs override, in the greenlet."""
    self.process_request_thread(request, client_address)


def greenlet_shutdown(self):
    """Shut down as GreenletMixIn.shutdown(), without a timeout."""
    if green().stop(self, None) is None:
        super(_stdlib.ThreadingMixIn, self).shutdown()


def greenlet_server_close(self):
    """Close as the stdlib's ThreadingMixIn does, then wait for the greenlets."""
    _stdlib_server_close(self)
    if self.block_on_close and not self.daemon_threads:
        green().join(self, None)


def greenlet_wait_for_requests(self, deadline):
    """Wait as GreenletMixIn._wait_for_requests(), then as ThreadingMixIn does."""
    finished = green().join(self, ending.left(deadline))
    if green().runs_here(self):
        return finished
    return THREADS["_wait_for_requests"](self, deadline) and finished


def greenlet_close_requests(self):
    """Close as ThreadingMixIn does, then as GreenletMixIn._close_requests()."""
    THREADS["_close_requests"](self)
    green().end_requests(self)


# The methods of each model and the defaults of its settings; the first setting is the number that
# the command line takes.
MODELS = {
    "pool": (
        {
            "serve_forever": pool_serve_forever,
            "process_request": pool.ThreadPoolMixIn.process_request,
            "_handle_request_noblock": pool.ThreadPoolMixIn._handle_request_noblock,
            "server_close": pool_server_close,
            "_count_silent": pool.ThreadPoolMixIn._count_silent,
            "_wait_for_requests": THREADS["_wait_for_requests"],
            "_close_requests": pool_close_requests,
        },
        {
            name: vars(pool.ThreadPoolMixIn)[name]
            for name in ("max_workers", "min_workers", "worker_idle_timeout", "max_connections",
                         "stall_seconds", "first_byte_timeout")
        },
    ),
    "greenlet": (
        {
            "serve_forever": greenlet_serve_forever,
            "process_request": greenlet_process_request,
            "process_request_greenlet": process_request_greenlet,
            "shutdown": greenlet_shutdown,
            "server_close": greenlet_server_close,
            "_wait_for_requests": greenlet_wait_for_requests,
            "_close_requests": greenlet_close_requests,
        },
        {"max_connections": None, "blocking_threshold": 0.5},
    ),
}


def choose(threads, settings):
    """Return the attributes that patch(threads=…) gives ThreadingMixIn: methods and settings.

    Without a model they are the methods of threads; none if an earlier patch() chose a model.
    """
    if threads is not None and threads not in MODELS:
        raise ValueError(f"threads is one of {', '.join(map(repr, MODELS))}, not {threads!r}")
    if threads == "greenlet":
        green()
    methods, defaults = MODELS.get(threads, ({} if _has_model() else THREADS, {}))
    for name in settings:
        if name not in defaults:
            raise TypeError(f"patch(threads={threads!r}) has no setting {name!r}")
    return {**methods, **defaults, **settings}


def _has_model():
    return "serve_forever" in vars(_stdlib.ThreadingMixIn)


for _methods in (THREADS, *(methods for methods, _ in MODELS.values())):
    for _name, _function in _methods.items():
        if _function.__module__ == __name__:
            _function.__name__ = _name
            _function.__qualname__ = f"ThreadingMixIn.{_name}"
