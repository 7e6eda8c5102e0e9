"""Ends kept connections that wait for their next request when their server ends.

An HTTP client may keep an idle connection for as long as it likes, and a server that is told to end
would wait for it until the deadline. So a reader registers here while it waits for the first line
of a further request. end() shuts the connection down for reading, and the handler finds the end of
the stream. A request that has arrived by then is still read, and a response in progress is finished
before the handler waits again.
"""

import socket

_shutdown = socket.socket.shutdown
_waiting = set()  # sockets
_ending = []  # of servers that end: their Requests


def await_request(sock):
    """Register that the calling thread is about to wait for a request on this kept connection."""
    _waiting.add(sock)  # first, so that end() sees it, or it sees end()
    for requests in list(_ending):
        _end_if_among(sock, requests)


stop_awaiting = _waiting.discard


def end(requests):
    """End those of a server's requests that wait or will wait, until forget(). Never blocks."""
    _ending.append(requests)
    for sock in list(_waiting):
        _end_if_among(sock, requests)


def forget(requests):
    """Undo end(): the server has ended."""
    while requests in _ending:
        _ending.remove(requests)


def _end_if_among(sock, requests):
    accepted = getattr(sock, "_accepted", sock)  # TLS has taken that over
    if any(request is accepted for request in requests.requests()):
        try:
            _shutdown(sock, socket.SHUT_RD)
        except OSError:
            pass  # the client was faster
