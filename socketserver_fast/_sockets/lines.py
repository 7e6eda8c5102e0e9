"""Refuses lines of an rfile that are too long.

A limit has a `size`, the most bytes of a line with its newline, and a method refuse(), which
raises. After that readline() refuses again. A SocketReader keeps the line in its buffer, where
read() finds it; other files have lost its first bytes.
"""

import io
import socket

from socketserver_fast._sockets import reader
from socketserver_fast._sockets.writer import ShowingSocketIO

# http.server reads a request's head by readline(65537), and answers a longer line itself.
HEAD_LINE = 65537


def limited(file, limit, buffer_size):
    """Return an rfile that has read nothing yet, with this limit: the same one or another.

    TypeError for a file that is neither ours nor what socket.makefile() gives.
    """
    if reader.limit_lines(file, limit):
        return file
    if type(file) is io.BufferedReader:
        file = _BufferedReader(file.detach(), buffer_size)
    elif type(file) in (socket.SocketIO, ShowingSocketIO):
        file.__class__ = _SocketIO
    else:
        raise TypeError(f"max_line cannot limit the lines of an rfile that is a "
                        f"{type(file).__qualname__}: set it to None, or use the rfile that "
                        "StreamRequestHandler.setup() makes of a socket")
    file._limit = limit
    return file


class _Limited:
    """A mix-in for files whose iteration and readlines() call readline()."""

    _limit = None
    _is_refused = False

    def readline(self, size=-1):
        """Return the next line; a line that is too long is refused."""
        size = -1 if size is None else size
        if size == HEAD_LINE or 0 <= size <= self._limit.size:
            return super().readline(size)
        line = b"" if self._is_refused else super().readline(self._limit.size + 1)
        if self._is_refused or len(line) > self._limit.size:
            self._is_refused = True
            self._limit.refuse()
        return line


class _BufferedReader(_Limited, io.BufferedReader):
    pass


class _SocketIO(_Limited, ShowingSocketIO):
    pass
