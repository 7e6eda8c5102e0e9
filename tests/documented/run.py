"""Run a program of the documentation: free ports instead of its own, and a client for its server.

What the main thread serves gets one client, which sends a line and reads one.
Then it is ended.
Usage: run.py FILE.
"""

import os
import pathlib
import runpy
import signal
import socket
import socketserver
import ssl
import sys
import threading

import socketserver_fast

LINES = b"hello\n"
if "PROXY" in pathlib.Path(sys.argv[1]).read_text():
    LINES = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 9999\r\n" + LINES
servers = []
secured = []


def without_certificate(context, *files):
    """SSLContext.load_cert_chain() where there are no files: encryption by nobody in particular."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    secured.append(context)


def on_a_free_port(server_bind):
    """TCPServer.server_bind() for any port but the one that was asked for."""

    def bind(self):
        if isinstance(self.server_address, tuple):
            self.server_address = (self.server_address[0], 0)
        server_bind(self)
        servers.append(self)

    return bind


def served_by_main_thread():
    """The server that the main thread waits for, and how its user would end it."""
    frame = sys._current_frames()[threading.main_thread().ident]
    found = None
    while frame is not None:
        if frame.f_code.co_name == "serve_forever":
            found = frame.f_locals["self"], frame.f_locals["self"].shutdown
        if frame.f_code.co_name == "serve_until_signal":
            found = frame.f_locals.get("self") or frame.f_locals["server"], terminate
        frame = frame.f_back
    return found


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


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
    """Wait for a server, ask it and end it."""
    while (found := served_by_main_thread()) is None:
        if ended.wait(0.01):
            return
    server, end = found
    try:
        print("answer:", ask(server))
    finally:
        end()


ssl.SSLContext.load_cert_chain = without_certificate
for module in (socketserver, socketserver_fast):
    module.TCPServer.server_bind = on_a_free_port(module.TCPServer.server_bind)
ended = threading.Event()
client = threading.Thread(target=be_the_client)
client.start()
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
finally:
    ended.set()
    client.join()
    for server in servers:
        server.server_close()
