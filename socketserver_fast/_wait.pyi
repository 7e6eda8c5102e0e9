from typing import Any

native: bool

def close(sock: Any) -> None: ...
