import sys
from collections.abc import Callable
from socket import socket
from typing import Any, ParamSpec, TypeVar

from socketserver_fast.servers import TCPServer, UDPServer, _Ending

_T = TypeVar("_T")
_P = ParamSpec("_P")

__all__ = [
    "GreenletMixIn",
    "GreenletTCPServer",
    "GreenletUDPServer",
    "cooperative",
    "create_connection",
    "run_in_thread",
    "sleep",
]
if sys.platform != "win32":
    __all__ += ["GreenletUnixDatagramServer", "GreenletUnixStreamServer"]
    from socketserver_fast.servers import UnixDatagramServer, UnixStreamServer

def sleep(seconds: float) -> None: ...
def run_in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
def create_connection(
    address: tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
) -> socket: ...
def cooperative(sock: _T) -> _T: ...

class GreenletMixIn(_Ending):
    block_on_close: bool
    max_connections: int | None
    blocking_threshold: float
    def serve_forever(self, poll_interval: float | None = 0.5) -> None: ...
    def process_request_greenlet(self, request: Any, client_address: Any) -> None: ...
    def process_request(self, request: Any, client_address: Any) -> None: ...
    def shutdown(self, timeout: float | None = None) -> bool: ...
    def server_close(self) -> None: ...

class GreenletTCPServer(GreenletMixIn, TCPServer): ...
class GreenletUDPServer(GreenletMixIn, UDPServer): ...

if sys.platform != "win32":
    class GreenletUnixStreamServer(GreenletMixIn, UnixStreamServer): ...
    class GreenletUnixDatagramServer(GreenletMixIn, UnixDatagramServer): ...
