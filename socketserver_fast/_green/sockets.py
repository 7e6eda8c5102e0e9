"""The cooperative sockets: socket.socket and ssl.SSLSocket whose calls park the greenlet."""

import _socket
import errno
import io
import os
import socket
import ssl
import time

from socketserver_fast._green import parking

_RAW = _socket.socket


class _Parking:
    """The timeout and the end of a cooperative socket, whose descriptor never blocks."""

    __slots__ = ()

    def settimeout(self, value):
        parking.set_timeout(self, value)

    def gettimeout(self):
        return parking.timeout_of(self)

    def setblocking(self, flag):
        self.settimeout(None if flag else 0.0)

    def getblocking(self):
        return self.gettimeout() != 0

    timeout = property(gettimeout)

    def detach(self):
        parking.forget(self)
        return super().detach()

    def _real_close(self, *args):
        parking.forget(self)
        super()._real_close(*args)


class Socket(_Parking, socket.socket):
    """A socket.socket whose calls park the greenlet instead of blocking the thread.

    Timeouts, results and errors are those of a blocking socket.socket. Without a running hub (in
    another thread, or after serve_forever) the calls block. Its descriptor is non-blocking.
    """

    __slots__ = ()

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        super().__init__(family, type, proto, fileno)
        parking.adopt(self)

    recv = parking.recv
    sendall = parking.sendall

    def recv_into(self, *args, **kwargs):
        return parking.attempt(self, parking.READ, lambda: _RAW.recv_into(self, *args, **kwargs))

    def recvfrom(self, *args):
        return parking.attempt(self, parking.READ, _RAW.recvfrom, self, *args)

    def recvfrom_into(self, *args, **kwargs):
        return parking.attempt(
            self, parking.READ, lambda: _RAW.recvfrom_into(self, *args, **kwargs))

    def send(self, *args):
        return parking.attempt(self, parking.WRITE, _RAW.send, self, *args)

    def sendto(self, *args):
        return parking.attempt(self, parking.WRITE, _RAW.sendto, self, *args)

    if hasattr(_RAW, "recvmsg"):

        def recvmsg(self, *args):
            return parking.attempt(self, parking.READ, _RAW.recvmsg, self, *args)

        def recvmsg_into(self, *args):
            return parking.attempt(self, parking.READ, _RAW.recvmsg_into, self, *args)

        def sendmsg(self, *args):
            return parking.attempt(self, parking.WRITE, _RAW.sendmsg, self, *args)

    def connect(self, address):
        """Resolving a name blocks; create_connection() does it in a thread."""
        error = self.connect_ex(address)
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, address):
        error = super().connect_ex(address)
        while error == errno.EAGAIN and self.gettimeout() != 0:  # a Unix socket's full backlog
            parking.sleep(0.01) or time.sleep(0.01)
            error = super().connect_ex(address)
        if error == errno.EINPROGRESS and parking.wait_for(self, parking.WRITE):
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error

    def accept(self):
        fd, address = parking.attempt(self, parking.READ, self._accept)
        return Socket(self.family, self.type, self.proto, fileno=fd), address

    def sendfile(self, file, offset=0, count=None):
        self._check_sendfile_params(file, offset, count)
        try:
            fileno = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            return self._sendfile_use_send(file, offset, count)
        sent = 0
        try:
            while count is None or sent < count:
                size = min(1 << 30, count - sent) if count else 1 << 30
                done = parking.attempt(
                    self, parking.WRITE, os.sendfile, self.fileno(), fileno, offset + sent, size)
                if done == 0:
                    break
                sent += done
        finally:
            if hasattr(file, "seek"):
                file.seek(offset + sent)
        return sent


parking.use(Socket)


class TLSSocket(_Parking, ssl.SSLSocket):
    """What an SSLContext makes of a cooperative socket: its calls, the handshake too, park."""

    __slots__ = ()

    @classmethod
    def _create(cls, sock, *args, **kwargs):
        if type(sock) is not Socket:
            return ssl.SSLSocket._create(sock, *args, **kwargs)
        return super()._create(sock, *args, **kwargs)

    def do_handshake(self, block=False):
        return parking.attempt(self, parking.READ, super().do_handshake)

    def unwrap(self):
        return parking.attempt(self, parking.READ, super().unwrap)

    def read(self, len=1024, buffer=None):
        return parking.attempt(self, parking.READ, super().read, len, buffer)

    def write(self, data):
        return parking.attempt(self, parking.WRITE, super().write, data)

    def recv(self, buflen=1024, flags=0):
        return parking.attempt(self, parking.READ, super().recv, buflen, flags)

    def recv_into(self, buffer, nbytes=None, flags=0):
        return parking.attempt(self, parking.READ, super().recv_into, buffer, nbytes, flags)

    def send(self, data, flags=0):
        return parking.attempt(self, parking.WRITE, super().send, data, flags)

    def sendall(self, data, flags=0):
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while sent < len(octets):
                sent += self.send(octets[sent:], flags)

    def accept(self):
        return parking.attempt(self, parking.READ, super().accept)

    def connect(self, address):
        raise ValueError("connect before wrapping: context.wrap_socket(create_connection(address))")

    def connect_ex(self, address):
        self.connect(address)


def cooperative(sock):
    """Make a socket.socket or an ssl.SSLSocket cooperative, in place, and return it.

    Its calls then park the greenlet that makes them. Every other kind of object is returned as it
    is.
    """
    kind = _KINDS.get(type(sock))
    if kind is not None and sock.fileno() >= 0:
        parking.adopt(sock)
        sock.__class__ = kind
    return sock


_KINDS = {socket.socket: Socket, ssl.SSLSocket: TLSSocket}

# The documented place to choose the class of a context's sockets. TLSSocket chooses by the socket
# that is wrapped, so nothing changes for those that are not cooperative.
if ssl.SSLContext.sslsocket_class is ssl.SSLSocket:
    ssl.SSLContext.sslsocket_class = TLSSocket
