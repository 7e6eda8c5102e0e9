from io import BufferedReader
from socket import socket
from typing import Any, final

def open_reader(connection: Any, rbufsize: int) -> BufferedReader: ...

# Not a subclass of it, but with all that it has.
@final
class SocketReader(BufferedReader):
    def __init__(self, sock: socket) -> None: ...
