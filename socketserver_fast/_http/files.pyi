from io import BufferedIOBase
from typing import BinaryIO

def send_file(
    wfile: BufferedIOBase, file: BinaryIO, offset: int = 0, count: int | None = None
) -> int: ...
