from io import BufferedReader
from socket import socket
from typing import Any, final

from _typeshed import ReadableBuffer

def open_reader(connection: Any, rbufsize: int) -> BufferedReader: ...
def send(sock: Any, b: ReadableBuffer) -> int: ...

# Not a subclass of it, but with all that it has.
@final
class SocketReader(BufferedReader):
    def __init__(self, sock: socket) -> None: ...
