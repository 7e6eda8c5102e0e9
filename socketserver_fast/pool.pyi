import sys
from typing import Any

from socketserver_fast.mixins import ThreadingMixIn
from socketserver_fast.servers import TCPServer, UDPServer

__all__ = ["ThreadPoolMixIn", "ThreadPoolTCPServer", "ThreadPoolUDPServer"]
if sys.platform != "win32":
    __all__ += ["ThreadPoolUnixDatagramServer", "ThreadPoolUnixStreamServer"]
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

class ThreadPoolMixIn(ThreadingMixIn):
    max_workers: int
    min_workers: int
    worker_idle_timeout: float | None
    max_connections: int | None
    stall_seconds: float | None
    first_byte_timeout: float | None
    def serve_forever(self, poll_interval: float | None = 0.5) -> None: ...
    def process_request(self, request: Any, client_address: Any) -> None: ...
    def server_close(self) -> None: ...

class ThreadPoolTCPServer(ThreadPoolMixIn, TCPServer): ...
class ThreadPoolUDPServer(ThreadPoolMixIn, UDPServer): ...

if sys.platform != "win32":
    class ThreadPoolUnixStreamServer(ThreadPoolMixIn, UnixStreamServer): ...
    class ThreadPoolUnixDatagramServer(ThreadPoolMixIn, UnixDatagramServer): ...
