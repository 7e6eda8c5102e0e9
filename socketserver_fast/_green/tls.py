"""The cooperative socket that speaks TLS, and how a socket becomes cooperative."""

import _socket
import socket
import ssl

from socketserver_fast._green import parking
from socketserver_fast._green.sockets import Socket
from socketserver_fast._sockets import secure
from socketserver_fast._sockets.secure import TIMEOUT

_RAW = _socket.socket


class TLSSocket(ssl.SSLSocket, Socket):
    """An ssl.SSLSocket whose calls park, the handshake too; what wrap_socket() makes of a Socket.

    While it speaks TLS its descriptor is non-blocking.
    """

    __slots__ = ()

    @classmethod
    def _create(cls, sock, *args, **kwargs):
        if not isinstance(sock, Socket):
            return ssl.SSLSocket._create(sock, *args, **kwargs)
        return super()._create(sock, *args, **kwargs)

    # The timeout of a socket that speaks TLS is here, and that of its descriptor is 0.

    def settimeout(self, value):
        super().settimeout(value)
        if self.__dict__.pop(TIMEOUT, TIMEOUT) is not TIMEOUT:
            self._begin()

    def gettimeout(self):
        timeout = self.__dict__.get(TIMEOUT, TIMEOUT)
        return super().gettimeout() if timeout is TIMEOUT else timeout

    timeout = property(gettimeout)

    def setblocking(self, flag):
        self.settimeout(None if flag else 0.0)

    def getblocking(self):
        return self.gettimeout() != 0

    def _begin(self):
        self.__dict__[TIMEOUT] = _RAW.gettimeout(self)
        _RAW.settimeout(self, 0)

    def _end(self):
        if TIMEOUT in self.__dict__ and self.fileno() >= 0:
            _RAW.settimeout(self, self.__dict__.pop(TIMEOUT))

    def _is_secure(self):
        """Return whether it speaks TLS, as far as is known: the name is private to CPython."""
        return getattr(self, "_sslobj", self) is not None

    def _attempt(self, function, *args):
        if TIMEOUT not in self.__dict__ and self._is_secure() and self.fileno() >= 0:
            self._begin()
        return secure.attempt(self, self.gettimeout(), function, *args)

    def do_handshake(self, block=False):
        try:
            return self._attempt(super().do_handshake)
        except Exception:
            raise
        except BaseException:  # for which wrap_socket() closes it since Python 3.12 only
            self.close()
            raise

    def unwrap(self):
        sock = self._attempt(super().unwrap)
        self._end()
        return sock

    def shutdown(self, how):
        super().shutdown(how)
        self._end()

    def detach(self):
        self._end()
        return super().detach()

    def read(self, len=1024, buffer=None):
        return self._attempt(super().read, len, buffer)

    def write(self, data):
        return self._attempt(super().write, data)

    def send(self, data, flags=0):
        if not self._is_secure():
            return super().send(data, flags)
        return self._attempt(super().send, data, flags)


secure.let_park(TLSSocket)


def cooperative(sock):
    """Make a socket.socket or an ssl.SSLSocket cooperative, in place, and return it.

    Its calls then park the calling greenlet. Any other object is returned unchanged.
    """
    kind = _KINDS.get(type(sock))
    if kind is not None and sock.fileno() >= 0:
        sock.__class__ = kind
        parking.wake(parking.forget(sock))  # what was known of its number
    return sock


_KINDS = {socket.socket: Socket, ssl.SSLSocket: TLSSocket}

# The documented place to choose the class of a context's sockets. TLSSocket chooses by the socket
# that is wrapped, so nothing changes for those that are not cooperative.
if ssl.SSLContext.sslsocket_class is ssl.SSLSocket:
    ssl.SSLContext.sslsocket_class = TLSSocket
