"""Run a program of the documentation: free ports instead of its own, and a client for its server.

A program that ends by serving, with `server.serve_forever()` or a serve_until_signal(), gets one
client, which sends a line and reads one. Then the server is ended.
Usage: run.py FILE.
"""

import os
import pathlib
import re
import runpy
import signal
import socket
import socketserver
import ssl
import sys
import tempfile
import threading

import socketserver_fast

PROGRAM = pathlib.Path(sys.argv[1]).read_text()
LINES = b"hello\n"
if "proxy_protocol_from" in PROGRAM:
    LINES = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 9999\r\n" + LINES
servers = []
secured = "load_cert_chain" in PROGRAM
folder = tempfile.TemporaryDirectory(prefix="ss")
tempfile.tempdir = folder.name  # a program that puts its socket there meets no other one's


def without_certificate(context, *files):
    """SSLContext.load_cert_chain() where there are no files: encryption by nobody in particular."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")


def on_a_free_port(server_bind):
    """TCPServer.server_bind() for any port but the one that was asked for."""

    def bind(self):
        if isinstance(self.server_address, tuple):
            self.server_address = (self.server_address[0], 0)
        server_bind(self)

    return bind


def noted(server_activate):
    """server_activate() that tells the client of the server."""

    def activate(self):
        server_activate(self)
        servers.append(self)

    return activate


def connect(server):
    """A client's socket."""
    client = socket.socket(server.address_family, server.socket_type)
    client.settimeout(20)
    client.connect(server.socket.getsockname())
    if secured:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        without_certificate(context)
        client = context.wrap_socket(client)
    return client


def ask(server):
    """Send a line; return the first that comes back."""
    with connect(server) as client:
        client.sendall(LINES)
        if server.socket_type == socket.SOCK_DGRAM:
            return client.recv(65536)
        if not secured:  # TLS has no half-closed connections
            client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answer:
            return answer.readline()


def be_the_client():
    """Wait for the server, ask it and end it as its user would."""
    while not servers:
        if ended.wait(0.01):
            return
    server = servers[0]
    try:
        print("answer:", ask(server))
    finally:
        if "serve_until_signal(" in PROGRAM:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            server.shutdown()


ssl.SSLContext.load_cert_chain = without_certificate
if "server.pem" in PROGRAM:
    pathlib.Path("server.pem").touch()
for module in (socketserver, socketserver_fast):
    module.TCPServer.server_bind = on_a_free_port(module.TCPServer.server_bind)
    for kind in module.TCPServer, module.UDPServer:
        kind.server_activate = noted(kind.server_activate)
ended = threading.Event()
client = threading.Thread(target=be_the_client)
if re.search(r"^    (server|socketserver_fast)\.serve_", PROGRAM, re.MULTILINE):
    client.start()
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
finally:
    ended.set()
    if client.ident is not None:
        client.join()
    for server in servers:
        server.server_close()
