from http.server import BaseHTTPRequestHandler
from typing import Any

def get_environ(handler: BaseHTTPRequestHandler) -> dict[str, Any] | None: ...
