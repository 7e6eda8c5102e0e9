from _typeshed import ReadableBuffer
from io import BytesIO
from socket import socket
from typing import Any, final

def receive(sock: socket, max_packet_size: int) -> tuple[bytes, Any]: ...
def send(sock: socket, data: ReadableBuffer, address: Any) -> None: ...

# Not a subclass of it, but with all that it has.
@final
class PacketBuffer(BytesIO): ...
