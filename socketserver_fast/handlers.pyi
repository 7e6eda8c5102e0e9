import socket as _socket_module
from io import BufferedIOBase
from typing import Any, BinaryIO

from _typeshed import ReadableBuffer

class BaseRequestHandler:
    request: Any
    client_address: Any
    server: Any
    def __init__(self, request: Any, client_address: Any, server: Any) -> None: ...
    def setup(self) -> None: ...
    def handle(self) -> None: ...
    def finish(self) -> None: ...

class StreamRequestHandler(BaseRequestHandler):
    rbufsize: int
    wbufsize: int
    timeout: float | None
    disable_nagle_algorithm: bool
    connection: Any
    rfile: BufferedIOBase
    wfile: BufferedIOBase

class DatagramRequestHandler(BaseRequestHandler):
    packet: bytes
    socket: _socket_module.socket
    rfile: BufferedIOBase
    wfile: BufferedIOBase

class _SocketWriter(BufferedIOBase):
    _sock: Any
    def __init__(self, sock: Any) -> None: ...
    def write(self, b: ReadableBuffer, /) -> int: ...

def setup_stream(handler: Any, writer_class: Any) -> None: ...
def send_file(
    wfile: BufferedIOBase, file: BinaryIO, offset: int = 0, count: int | None = None
) -> int: ...
