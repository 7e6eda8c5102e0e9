from collections.abc import Callable
from typing import Any

def queue_for_pool_instead_of(handle_request_noblock: Callable[..., Any]) -> None: ...
