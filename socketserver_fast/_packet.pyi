from io import BytesIO
from typing import final

from _typeshed import ReadableBuffer

# Not a subclass of it, but with all that it has.
@final
class PacketBuffer(BytesIO): ...

def open_packet(packet: ReadableBuffer) -> PacketBuffer: ...
