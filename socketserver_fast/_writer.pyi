from io import BufferedIOBase
from typing import Any, final

from _typeshed import ReadableBuffer

MEMBERS: list[str]

def open_writer(connection: Any, writer_class: Any) -> BufferedIOBase: ...
def stand_for(cls: Any, write: Any) -> None: ...
def send(sock: Any, b: ReadableBuffer) -> int: ...

# Not a subclass of it, but with all that it has.
@final
class SocketWriter(BufferedIOBase):
    _sock: Any
    def __new__(cls, sock: Any) -> SocketWriter: ...
    def write(self, b: ReadableBuffer) -> int: ...
