"""Collects syslog messages: `python syslog_collector.py FILE [PORT]` appends each as a line."""

import re
import sys
import time
from pathlib import Path
from typing import IO, Any

import socketserver_fast as socketserver

SEVERITIES = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
PRIORITY = re.compile(r"<(\d{1,3})>")


class Collector(socketserver.UDPServer):
    max_packet_size = 65535
    recv_buffer_size = 4 << 20  # a burst waits there while lines are written
    file: IO[str]

    def service_actions(self) -> None:
        self.file.flush()


class Message(socketserver.BaseRequestHandler):
    server: Collector

    def handle(self) -> None:
        text = self.request[0].decode(errors="replace").rstrip("\0\r\n")
        found = PRIORITY.match(text)
        severity = SEVERITIES[int(found[1]) % 8] if found else "none"
        text = printable(PRIORITY.sub("", text, count=1))
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.server.file.write(f"{when} {self.client_address[0]} {severity} {text}\n")


def printable(text: str) -> str:
    """With escapes for what could end a line or control a terminal: nobody forges a message."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def main() -> None:
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 5140
    address: Any = ("127.0.0.1", port)
    with Path(sys.argv[1]).open("a") as file, Collector(address, Message) as server:
        server.file = file
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal()


if __name__ == "__main__":
    main()
