"""The cooperative socket: a socket.socket whose calls park the greenlet."""

import _socket
import errno
import os
import socket
import time
from operator import index

from socketserver_fast._green import parking
from socketserver_fast._green.parking import READ, WRITE, at_once, attempt, blocks, send_whole

_RAW = _socket.socket
_WAITALL = getattr(socket, "MSG_WAITALL", 0)
_LIMITS = socket.SO_RCVTIMEO, socket.SO_SNDTIMEO
_PIECE = 128 * 1024  # bytes of a file that are read at a time
_ASK_AGAIN = 0.01  # seconds between two looks at what no poller tells


class Socket(socket.socket):
    """A socket.socket whose calls park the greenlet instead of blocking the thread.

    Timeouts, flags, results and errors are those of a socket.socket, and so is the descriptor: it
    blocks unless there is a timeout. Without a running hub (in another thread, or after
    serve_forever) the calls block.
    """

    __slots__ = ()

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        super().__init__(family, type, proto, fileno)
        parking.wake(parking.forget(self))  # what was known of its number

    def detach(self):
        waiting = parking.forget(self)
        try:
            return super().detach()
        finally:
            parking.wake(waiting)

    _real_close = parking.real_close

    def setsockopt(self, level, option, *args):
        super().setsockopt(level, option, *args)
        if level == socket.SOL_SOCKET and option in _LIMITS:
            parking.wake(parking.forget(self))  # they are asked for once

    # Receiving.

    def _waits_for_all(self, flags):
        """Return whether a call with these flags returns all that it asks for."""
        if not flags & _WAITALL or self.type != socket.SOCK_STREAM or not blocks(self, flags):
            return False
        return not flags & socket.MSG_PEEK or self.family != _AF_UNIX

    recv = parking.recv

    def _recv_by_flags(self, bufsize, flags):
        flags = index(flags)
        if bufsize > 0 and self._waits_for_all(flags):
            data = bytearray(bufsize)
            return bytes(data[:self.recv_into(data, bufsize, flags)])
        return attempt(self, READ, flags, lambda sock, flags: _RAW.recv(sock, bufsize, flags))

    def recv_into(self, buffer, nbytes=0, flags=0):
        nbytes, flags = index(nbytes), index(flags)
        got = attempt(
            self, READ, flags, lambda sock, flags: _RAW.recv_into(sock, buffer, nbytes, flags))
        if flags and self._waits_for_all(flags):
            return self._fill(buffer, nbytes, flags, got)
        return got

    def recvfrom(self, bufsize, flags=0):
        bufsize, flags = index(bufsize), index(flags)
        if flags and bufsize > 0 and self._waits_for_all(flags):
            data = bytearray(bufsize)
            got, address = self.recvfrom_into(data, bufsize, flags)
            return bytes(data[:got]), address
        return attempt(self, READ, flags, lambda sock, flags: _RAW.recvfrom(sock, bufsize, flags))

    def recvfrom_into(self, buffer, nbytes=0, flags=0):
        nbytes, flags = index(nbytes), index(flags)
        got, address = attempt(
            self, READ, flags, lambda sock, flags: _RAW.recvfrom_into(sock, buffer, nbytes, flags))
        if flags and self._waits_for_all(flags):
            got = self._fill(buffer, nbytes, flags, got)
        return got, address

    def _fill(self, buffer, nbytes, flags, got):
        """MSG_WAITALL: receive the rest of `nbytes`, or of the buffer; how many there are then."""
        with memoryview(buffer) as view, view.cast("B") as octets:
            size = nbytes or len(octets)
            step = self._peek_more if flags & socket.MSG_PEEK else self._receive_more
            try:
                while 0 < got < size and (more := step(octets[:size], got, flags)) > 0:
                    got += more
            except OSError:
                pass  # the next call says why
        return got

    def _receive_more(self, octets, got, flags):
        """Receive what follows; returns how many bytes that is."""
        with octets, octets[got:] as rest:
            return attempt(
                self, READ, flags, lambda sock, flags: _RAW.recv_into(sock, rest, 0, flags))

    def _peek_more(self, octets, got, flags):
        """Return how many more bytes there are to see; no poller reports them, so look again."""
        end = time.monotonic() + parking.limit_of(self, READ)
        more = 0
        with octets:
            while not more and time.monotonic() < end and not parking.is_ended(self):
                parking.sleep(_ASK_AGAIN)
                more = attempt(self, READ, flags, lambda sock, flags: _RAW.recv_into(
                    sock, octets, 0, flags)) - got
        return more

    if hasattr(_RAW, "recvmsg"):

        def recvmsg(self, bufsize, ancbufsize=0, flags=0):
            bufsize, flags = index(bufsize), index(flags)
            if flags and bufsize > 0 and self._waits_for_all(flags):
                data = bytearray(bufsize)
                got, *rest = self.recvmsg_into([data], ancbufsize, flags)
                return bytes(data[:got]), *rest
            return attempt(
                self, READ, flags,
                lambda sock, flags: _RAW.recvmsg(sock, bufsize, ancbufsize, flags))

        def recvmsg_into(self, buffers, ancbufsize=0, flags=0):
            buffers, flags = list(buffers), index(flags)
            if flags and self._waits_for_all(flags):
                return self._recvmsg_all(buffers, ancbufsize, flags)
            return attempt(
                self, READ, flags,
                lambda sock, flags: _RAW.recvmsg_into(sock, buffers, ancbufsize, flags))

        def _recvmsg_all(self, buffers, ancbufsize, flags):
            """Do recvmsg_into() with MSG_WAITALL, through one large buffer."""
            views = [memoryview(buffer) for buffer in buffers]
            data = bytearray(sum(view.nbytes for view in views))
            if not data or any(view.readonly for view in views):
                return _RAW.recvmsg_into(self, buffers, ancbufsize, flags)
            got, ancillary, *rest = attempt(
                self, READ, flags,
                lambda sock, flags: _RAW.recvmsg_into(sock, [data], ancbufsize, flags))
            if not ancillary:  # which stands between two writes
                got = self._fill(data, 0, flags, got)
            start = 0
            for view in views:
                if part := data[start:min(start + view.nbytes, got)]:
                    view.cast("B")[:len(part)] = part
                start += view.nbytes
            return got, ancillary, *rest

    # Sending.

    def send(self, data, flags=0):
        return send_whole(self, data, index(flags), _RAW.send)

    sendall = parking.sendall

    def _sendall_by_flags(self, data, flags):
        flags = index(flags)
        deadline = self._deadline()
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while sent < len(octets):
                with octets[sent:] as rest:
                    sent += self._send_before(deadline, rest, flags)

    def _deadline(self):
        timeout = self.gettimeout()
        return None if not timeout else time.monotonic() + timeout

    def _send_before(self, deadline, data, flags):
        return attempt(
            self, WRITE, flags, lambda sock, flags: _RAW.send(sock, data, flags),
            None if deadline is None else max(deadline - time.monotonic(), 0))

    def sendto(self, data, *args):
        if len(args) not in (1, 2):
            return _RAW.sendto(self, data, *args)  # raises TypeError
        *flags, address = args
        flags = index(flags[0]) if flags else 0
        return send_whole(
            self, data, flags, lambda sock, data, flags: _RAW.sendto(sock, data, flags, address))

    if hasattr(_RAW, "sendmsg"):

        def sendmsg(self, buffers, ancdata=(), flags=0, address=None):
            buffers, ancdata, flags = list(buffers), list(ancdata), index(flags)
            whole = blocks(self, flags)
            sent = attempt(
                self, WRITE, flags,
                lambda sock, flags: _RAW.sendmsg(sock, buffers, ancdata, flags, address))
            return self._send_rest(buffers, flags, sent) if whole else sent

        def _send_rest(self, buffers, flags, sent):
            """Send what a stream has not taken of the buffers; returns how much is sent in all."""
            before = 0
            for buffer in buffers:
                with memoryview(buffer) as view:
                    size = view.nbytes
                    if sent < before + size:
                        done = parking.send_rest(self, view, sent - before, flags, _RAW.send)
                        sent = before + done
                        if done < size:
                            break
                    before += size
            return sent

    def sendfile(self, file, offset=0, count=None):
        self._check_sendfile_params(file, offset, count)
        if self.gettimeout() == 0:
            raise ValueError("non-blocking sockets are not supported")
        try:
            descriptor = file.fileno()
            if os.fstat(descriptor).st_size == 0:
                return 0
            read = _reader_at(descriptor, offset)
        except (AttributeError, OSError):  # no real file, or one without positions
            if offset:
                file.seek(offset)
            read = file.read
        sent = 0
        try:
            while count is None or sent < count:
                size = _PIECE if count is None else min(_PIECE, count - sent)
                piece = read(size)
                if not piece:
                    break
                for part in self._send_parts(piece):
                    sent += part
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
        return sent

    def _send_parts(self, data):
        """Send all of it; yields how much each call sends."""
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent:] as rest:
                    part = attempt(
                        self, WRITE, 0, lambda sock, flags, rest=rest: _RAW.send(sock, rest, flags))
                sent += part
                yield part

    # Connections.

    def connect(self, address):
        """Resolving a name blocks; create_connection() does it in a thread."""
        error = Socket.connect_ex(self, address)  # not that of TLS, which called this
        if error == errno.EAGAIN and self.gettimeout() and self.family != _AF_UNIX:
            raise TimeoutError("timed out")
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, address):
        timeout = self.gettimeout()
        if timeout == 0 or not parking.is_hub_running():
            return super().connect_ex(address)
        error = at_once(self, _RAW.connect_ex, address)
        if error and timeout is None:
            return self._finish_connect(address, error)
        if error == errno.EINPROGRESS:
            if not parking.wait_for(self, WRITE):
                return errno.EAGAIN
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error

    def _finish_connect(self, address, error):
        """Wait until the connection stands or has failed."""
        limit = parking.limit_of(self, WRITE)
        under_way = False
        while True:
            if error == errno.EAGAIN:  # the full backlog of a Unix socket, which nothing tells of
                parking.sleep(_ASK_AGAIN)
                limit -= _ASK_AGAIN
                if limit < 0:
                    return error
            elif error in (errno.EINPROGRESS, errno.EALREADY):
                under_way = True
                if not parking.wait_for(self, WRITE):
                    return errno.EINPROGRESS
            else:
                return 0 if error == errno.EISCONN and under_way else error
            error = at_once(self, _RAW.connect_ex, address)

    def accept(self):
        timeout = self.gettimeout()
        if timeout == 0 or not parking.is_hub_running():
            fd, address = self._accept()
        else:
            fd, address = self._accept_parking()
        sock = Socket(self.family, self.type, self.proto, fileno=fd)
        if timeout != 0 and socket.getdefaulttimeout() is None:
            sock.setblocking(True)  # bpo-7995
        return sock, address

    def _accept_parking(self):
        while parking.wait_for(self, READ):
            try:
                return at_once(self, _RAW._accept)
            except BlockingIOError:
                pass  # somebody else was faster
            finally:
                parking.accepted()
        if self.gettimeout() is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        raise TimeoutError("timed out")


_AF_UNIX = getattr(socket, "AF_UNIX", None)


def _reader_at(descriptor, offset):
    """Return a read(size) that starts at `offset` and does not move the file's position."""
    def read(size):
        nonlocal offset
        piece = os.pread(descriptor, size, offset)
        offset += len(piece)
        return piece

    os.pread(descriptor, 0, offset)
    return read


parking.use(Socket)
