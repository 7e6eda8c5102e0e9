"""The stdlib is patched in each test of http.server and wsgiref."""

import pytest

import socketserver_fast


@pytest.fixture(autouse=True)
def patched():
    """The stdlib's classes are patched."""
    socketserver_fast.patch()
    yield
    socketserver_fast.unpatch()
