from collections.abc import Callable
from selectors import BaseSelector
from typing import Any

def serve(
    server: Any,
    poll_interval: float | None,
    selector_class: Callable[[], BaseSelector],
    serve_by_workers: Callable[..., bool] | None = None,
) -> None: ...
def handle_request(server: Any, selector_class: Callable[[], BaseSelector]) -> Any: ...
