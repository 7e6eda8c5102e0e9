"""Files are sent by sendfile(2) where that is possible, and otherwise read and written."""

from socketserver_fast._http import kernel
from socketserver_fast._sockets.writer import SocketWriter, begin_write

SMALL = 65536  # bytes; up to here one read() and one write() are faster
PIECE = 262144  # bytes, read and written at a time


def send_file(wfile, file, offset=0, count=None):
    """Send `count` bytes of a binary file, or all up to its end, from `offset`; how many were sent.

    By sendfile(2) from a regular file to the unbuffered wfile of a plain connection, in the time
    of whose timeout, in seconds, each part of it has to be sent; otherwise by read() and write().
    Less is sent if the file ends before. Afterwards the file's position is behind what was sent,
    after an error of write() behind what that was given. Raises what wfile.write() raises;
    ValueError for negative numbers. Neither file is closed.
    """
    if offset < 0 or (count is not None and count < 0):
        raise ValueError("offset and count must be non-negative")
    if kernel.size_of(file) is not None:
        return _send_regular(wfile, file, offset, count)
    if file.seekable():
        file.seek(offset)
    return copy(wfile, file, count)


def _send_regular(wfile, file, offset, count):
    end, finished = offset, False
    if type(wfile) is SocketWriter:
        until = kernel.size_of(file) if count is None else offset + count
        end, finished = kernel.send(begin_write(wfile), file, offset, until)
    else:
        file.seek(offset)
    if not finished:
        end += copy(wfile, file, None if count is None else count - (end - offset))
    return end - offset


def copy(wfile, file, count):
    """Read and write so many bytes, or all; how many there were."""
    done = 0
    while count is None or done < count:
        data = file.read(PIECE if count is None else min(PIECE, count - done))
        if not data:
            break
        wfile.write(data)
        done += len(data)
    return done
