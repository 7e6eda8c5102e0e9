"""Fixtures that the tests of limits and TLS share."""

import contextlib
import ssl
import subprocess
import sys

import pytest

ECHO = """
import ssl, sys
from socketserver_fast import *
from socketserver_fast.{module} import {mixin}

class Server({mixin}, {bases}):
    {attributes}

class Echo(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

with Server(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_until_signal()
"""


@pytest.fixture
def context(certificate):
    """The SSLContext of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def echo_process():
    """`with echo_process("tls", "TLSMixIn", "ForkingTCPServer", [line of the class, …], *arguments)
    as address:` runs a server of lines in a process, ends it, and looks that it ended well."""

    @contextlib.contextmanager
    def run(module, mixin, bases, attributes, *arguments):
        program = ECHO.format(module=module, mixin=mixin, bases=bases,
                              attributes="\n    ".join(attributes))
        if "Greenlet" in bases:
            program = f"from socketserver_fast import GreenletTCPServer\n{program}"
        with subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)],
                              stdout=-1, stderr=-1) as child:
            try:
                yield "127.0.0.1", int(child.stdout.readline())
                child.terminate()
                errors = child.communicate(timeout=30)[1]
                assert (child.returncode, b"Traceback" in errors) == (0, False), errors
            finally:
                child.kill()

    return run
