# cython: language_level=3, freethreading_compatible=True
"""Kept connections: those that wait for the next request are ended when their server ends.

An HTTP client may keep a connection without a word for as long as it likes, and a server that is
told to end would wait for it until its time is over. A reader says here when it waits for the first
line of a further request; then the end of the stream is what its handler finds. A request that has
come by then is still read, and a response under way is finished before the handler waits again.

Not hot: it is called where a thread or a greenlet is about to wait.
"""

import socket

cdef object shutdown = socket.socket.shutdown
cdef object SHUT_RD = socket.SHUT_RD
cdef set waiting = set()  # sockets
cdef list ending = []  # what their servers have in progress, each with a method requests()


cdef int await_request(sock) except -1:
    """The calling thread is going to wait for a request on this kept connection."""
    waiting.add(sock)  # first, so that it is seen by end() or sees that
    if ending:
        for requests in list(ending):
            end_if_among(sock, requests)
    return 0


cdef int stop_awaiting(sock) except -1:
    waiting.discard(sock)
    return 0


def end(requests):
    """End those of a server's requests that wait or will wait, until forget(). Never waits."""
    ending.append(requests)
    for sock in list(waiting):
        end_if_among(sock, requests)


def forget(requests):
    """The server has ended."""
    while requests in ending:
        ending.remove(requests)


cdef int end_if_among(sock, requests) except -1:
    for request in requests.requests():
        if request is sock:
            try:
                shutdown(sock, SHUT_RD)
            except OSError:
                pass  # the client was faster
            return 0
    return 0
