"""What the tests of http.server and wsgiref share. The stdlib is patched in each of them."""

import pytest

import socketserver_fast


@pytest.fixture(autouse=True)
def patched():
    """The stdlib's classes are patched."""
    socketserver_fast.patch()
    yield
    socketserver_fast.unpatch()
