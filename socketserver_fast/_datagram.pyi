from socket import socket
from typing import Any

from _typeshed import ReadableBuffer

SO_MEMINFO: int | None
SO_RXQ_OVFL: int | None

def receive(server: Any) -> tuple[tuple[bytes, socket], Any] | None: ...
def send(sock: socket, data: ReadableBuffer, address: Any) -> None: ...
