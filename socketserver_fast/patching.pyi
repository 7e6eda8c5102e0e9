from typing import Literal, overload

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
) -> None: ...
@overload
def patch(
    *,
    threads: Literal["greenlet"],
    max_connections: int | None = ...,
    blocking_threshold: float = ...,
) -> None: ...
def unpatch() -> None: ...
