"""What patch() puts into http.server to send files."""

import http.server

from socketserver_fast._http import files
from socketserver_fast._sockets.writer import SocketWriter

_copyfile = http.server.SimpleHTTPRequestHandler.copyfile


def copyfile(self, source, outputfile):
    """SimpleHTTPRequestHandler.copyfile(), by sendfile(2) or in large pieces.

    Of a regular file it sends what the file has now, which is what Content-Length says, however it
    grows meanwhile; if there turns out to be less, the connection ends with this response.
    """
    size = files.size_of(source) if type(outputfile) is SocketWriter else None
    if size is None:
        _copyfile(self, source, outputfile)
        return
    start = source.tell()
    count = max(size - start, 0)
    if count > files.SMALL:
        sent = files.send_file(outputfile, source, start, count)
    else:
        sent = files.copy(outputfile, source, count)
    if sent < count:
        self.close_connection = True


METHODS = {http.server.SimpleHTTPRequestHandler: {"copyfile": copyfile}}
