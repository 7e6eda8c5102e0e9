"""Each behaviour test takes the fixture `socketserver` and so runs on all three: the stdlib, the
package, and the stdlib's own classes patched."""

import contextlib
import socketserver as stdlib
import threading

import pytest

import socketserver_fast


@pytest.fixture(params=["stdlib", "fast", "patched"])
def implementation(request):
    """The name of the implementation under test: "stdlib", "fast" or "patched"."""
    return request.param


@pytest.fixture
def socketserver(implementation):
    """The module under test, to be used as a program uses `import socketserver`."""
    if implementation == "fast":
        yield socketserver_fast
    elif implementation == "patched":
        socketserver_fast.patch()
        try:
            yield stdlib
        finally:
            socketserver_fast.unpatch()
    else:
        yield stdlib


@pytest.fixture
def serving():
    """`with serving(server) as address:` runs serve_forever in a thread, then stops and closes."""

    @contextlib.contextmanager
    def run(server, poll_interval=0.02):
        thread = threading.Thread(target=server.serve_forever, args=(poll_interval,), daemon=True)
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
            assert not thread.is_alive(), "serve_forever did not end"

    return run
