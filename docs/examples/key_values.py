"""A store of keys and values that survives a crash: `python key_values.py FILE [PORT]`.

    SET key value   OK          GET key   VALUE value, or NONE          DEL key   OK, or NONE

Each line is answered by a line. What was answered with OK is on the disk.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import socketserver_fast as socketserver

LONGEST = 65536  # bytes of a line


class Store:
    """A dict, and a file with all that was done to it."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self.values: dict[bytes, bytes] = {}
        self.log = path.open("a+b")
        self.log.seek(0)
        good = 0
        for line in self.log:
            if not line.endswith(b"\n"):
                break  # the write of this one was cut off, so nobody was told OK
            self.apply(line.rstrip(b"\n"))
            good += len(line)
        self.log.truncate(good)

    def apply(self, line: bytes) -> None:
        command, key, *value = line.split(b" ", 2)
        if command == b"SET":
            self.values[key] = value[0]
        else:
            self.values.pop(key, None)

    def change(self, line: bytes) -> None:
        """Write the line to the disk, then do it."""
        with self.lock:
            self.log.write(line + b"\n")
            self.log.flush()
            os.fsync(self.log.fileno())
            self.apply(line)


class StoreServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True  # idle clients do not keep the program from ending
    request_queue_size = 128

    def __init__(self, address: Any, store: Store) -> None:
        self.store = store
        super().__init__(address, Client)


class Client(socketserver.StreamRequestHandler):
    server: StoreServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline(LONGEST):
            if not line.endswith(b"\n"):
                break  # cut off, or too long: it cannot be told from half of a command
            self.wfile.write(self.answer(line.rstrip(b"\r\n")) + b"\n")

    def answer(self, line: bytes) -> bytes:
        store = self.server.store
        match line.split(b" ", 2):
            case [b"GET", key]:
                value = store.values.get(key)
                return b"NONE" if value is None else b"VALUE " + value
            case [b"SET", _, _]:
                store.change(line)
            case [b"DEL", key]:
                if key not in store.values:
                    return b"NONE"
                store.change(line)
            case _:
                return b"ERROR the commands are SET key value, GET key, DEL key"
        return b"OK"


def main() -> None:
    store = Store(Path(sys.argv[1]))
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 6380
    with store.log, StoreServer(("127.0.0.1", port), store) as server:
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal(drain_timeout=5)


if __name__ == "__main__":
    main()
