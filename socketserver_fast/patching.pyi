import socketserver
from typing import Literal, TypeAlias, overload

from socketserver_fast.servers import BaseServer

_AnyServer: TypeAlias = BaseServer | socketserver.BaseServer

def drain(server: _AnyServer, timeout: float | None = None) -> bool: ...
def serve_until_signal(
    server: _AnyServer, *signals: int, drain_timeout: float | None = 30
) -> int | None: ...

@overload
def patch(*, threads: None = None) -> None: ...
@overload
def patch(
    *,
    threads: Literal["pool"],
    max_workers: int = ...,
    min_workers: int = ...,
    worker_idle_timeout: float | None = ...,
    max_connections: int | None = ...,
    stall_seconds: float | None = ...,
    first_byte_timeout: float | None = ...,
) -> None: ...
@overload
def patch(
    *,
    threads: Literal["greenlet"],
    max_connections: int | None = ...,
    blocking_threshold: float = ...,
) -> None: ...
def unpatch() -> None: ...
