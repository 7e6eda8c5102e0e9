"""A server that faces the network: each of the mix-ins, in the order that they need."""

import ssl
from typing import Any, assert_type

import socketserver_fast as socketserver
from socketserver_fast.limits import LimitsMixIn
from socketserver_fast.metrics import Collector
from socketserver_fast.proxy_protocol import ClientAddress, ProxyProtocolMixIn
from socketserver_fast.statistics import StatisticsMixIn
from socketserver_fast.systemd import NotifyMixIn, notify, open_server, take_socket
from socketserver_fast.tls import TLSMixIn


class Handler(socketserver.StreamRequestHandler):
    client_address: ClientAddress

    def handle(self) -> None:
        host, port = self.client_address
        self.wfile.write(f"{host} {port} {dict(self.client_address.tlvs)}\n".encode())


class Server(
    ProxyProtocolMixIn, LimitsMixIn, TLSMixIn, StatisticsMixIn, NotifyMixIn,
    socketserver.ThreadPoolTCPServer,
):
    allow_reuse_address = True
    dual_stack = True
    handshake_timeout = 5.0
    max_connections_per_client = 16
    max_line = 8192
    proxy_protocol_from = ("10.0.0.0/8", "unix")
    request_timeout = 60

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Unix(socketserver.ThreadingUnixStreamServer):
    owns_unix_path = True
    unix_mode = 0o660


server = open_server(Server, ("", 9999), Handler, name="echo")
assert_type(server, Server)
assert_type(server.statistics(), dict[str, Any])
assert_type(server.limited, dict[str, int])
Collector(server, name="echo")
notify("STATUS=ready")
passed = take_socket()
if passed is not None:
    passed.close()
