# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""Reads a connection into a buffer, for an rfile.

Hot is fill(), the one read of a request (bench: threading_keep_10, tcp_close_16), and over TLS
readinto(), once for each line: it spares three methods in Python around each read, so that a line
that is read and answered costs 27,000 instructions instead of the stdlib's 51,000, of which 23,000
are OpenSSL's and the kernel's.

A buffer is allocated when it is needed, and grows for as long as a line needs. That of a
cooperative socket exists only while it holds something. An empty one is lent to whoever needs one
next, so that idle connections have none and busy ones share what the processor's cache holds.
Greenlets exist under the GIL only, and that guards this.
"""

import io
import socket

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.string cimport memcpy, memmove

from socketserver_fast._sockets.plain cimport hold, parks, release
from socketserver_fast._sockets.secure cimport (
    cooperates, has_ended as stream_has_ended, left_of_record, read_session as read_by,
    session_to_read)
from socketserver_fast._sockets.wait cimport (
    NO_WAITING, POLLIN, UNSET, WOULD_BLOCK, park, receive_now, receive_waiting, spend)

from socketserver_fast._sockets.kept import await_request, stop_awaiting

cdef enum:
    LARGEST_NOW = 65536       # larger reads let other threads run

cdef object SocketIO = socket.SocketIO

# Bytes to ask for in a read over TLS, which returns at most one record, of at most RECORD bytes.
# For a client that sends short ones LINE is enough: Python's own allocator has that many at hand,
# while for 16 KiB malloc() tidies up (2 of the 12 us of a line on a kept connection).
cdef object RECORD = 16384
cdef object LINE = 479


cdef Py_ssize_t fill_from_chunk(Source self) except -2:
    # Into memory of its own: while this thread waits another one may use the buffer.
    cdef char chunk[BUFFER_SIZE]
    cdef Py_ssize_t got = self.receive(chunk, BUFFER_SIZE)
    if got > 0:
        make_room(&self.buffer, got)
        memcpy(self.buffer.data + self.buffer.end, chunk, got)
        self.buffer.end += got
    return got


# Through a pointer, so that no compiler merges the chunk into the frames of the callers, which are
# copied at every switch between greenlets.
cdef Py_ssize_t (*fill_waiting)(Source) except -2
fill_waiting = fill_from_chunk


cdef class Source:
    """Holds bytes of a connection that were read and not yet taken, and reads more.

    The methods that read may wait, and another thread or greenlet may do anything with the source
    meanwhile. All others are atomic.
    """

    def __dealloc__(self):
        discard(&self.buffer)

    cdef int open(self, object sock) except -1:
        """Read from a plain socket, and keep its descriptor open."""
        hold(sock)
        self.sock = sock
        self.parked = self.buffer.shared = parks(sock)
        return 0

    cdef int open_secure(self, object sock) except -1:
        """Read from a secure() socket, and keep its descriptor open."""
        self.open(sock)
        self.is_secure = self.drained = True  # there is nothing to try first
        self.buffer.shared = cooperates(sock)
        return 0

    cdef int let_go(self) except -1:
        """Close it, and the descriptor if the socket was closed before."""
        file, sock = self.file, self.sock
        self.sock = None
        self.drained = True  # so that fill() checks whether it is open
        self.buffer.start = self.buffer.end = 0
        if file is None:
            release(sock)
        else:
            file.close()
        return 0

    cdef object open_file(self):
        """Return the SocketIO that every further read goes through."""
        if self.file is None:
            file = SocketIO(self.sock, "r")
            file._timeout_occurred = self.timed_out
            if self.sock is None or self.file is not None:  # another thread was faster
                io.RawIOBase.close(file)
            if self.file is None:
                self.file = file
        return self.file

    cdef object give_up(self):
        """Return the SocketIO and read no more."""
        raw = self.open_file()
        self.is_detached = self.drained = True
        self.buffer.start = self.buffer.end = 0
        self.sock = self.file = None
        return raw

    cdef Py_ssize_t fill(self) except -2:
        """Read once into the buffer. Returns how many bytes, 0 at the end, or WOULD_BLOCK."""
        cdef Py_ssize_t room, got
        if self.nagle is not None:
            self.nagle.read_from(self.sock)
        if self.file is None and not self.drained and not self.timed_out:
            make_room(&self.buffer, 1)
            room = self.buffer.size - self.buffer.end
            got = receive_now(self.sock, self.buffer.data + self.buffer.end, room)
            if got != WOULD_BLOCK:
                self.awaits = False
                self.drained = 0 < got < room
                self.buffer.end += got
                if self.parked:
                    spend()
                return got
        if self.awaits and self.file is None:
            return self.fill_kept()
        return self.fill_later()

    cdef Py_ssize_t fill_later(self) except -2:
        """fill() where it probably has to wait."""
        if self.file is None:
            if self.is_secure:
                return self.fill_secure()
            if self.parked:
                return self.fill_parked()
        return fill_waiting(self)

    cdef Py_ssize_t fill_kept(self) except -2:
        """fill(), and let the server end the connection meanwhile, see kept.py."""
        sock = self.sock
        self.awaits = False
        await_request(sock)
        try:
            return 0 if self.is_secure and self.has_ended() else self.fill_later()
        finally:
            stop_awaiting(sock)

    cdef Py_ssize_t fill_parked(self) except -2:
        """fill() from a cooperative socket that has nothing now. It waits without a buffer."""
        cdef long long deadline = UNSET
        cdef Py_ssize_t room, got = WOULD_BLOCK
        cdef int ready
        while got == WOULD_BLOCK:
            self.check_open("read")
            if self.timed_out:
                raise OSError("cannot read from timed out object")
            lend(&self.buffer)
            ready = park(self.sock, POLLIN, &deadline)
            if ready == NO_WAITING:
                return WOULD_BLOCK
            if ready == 0:
                self.timed_out = True
                raise TimeoutError("timed out")
            self.check_open("read")
            make_room(&self.buffer, 1)
            room = self.buffer.size - self.buffer.end
            got = receive_now(self.sock, self.buffer.data + self.buffer.end, room)
        self.drained = 0 < got < room
        self.buffer.end += got
        return got

    cdef Py_ssize_t fill_secure(self) except -2:
        """fill() over TLS: by way of bytes, since other threads may run meanwhile."""
        cdef bytes data
        cdef Py_ssize_t got, rest
        if self.buffer.shared:
            lend(&self.buffer)
        self.check_open("read")
        data = self.read_session(RECORD if self.reads_much else LINE, None)
        if data is None:
            self.open_file()
            return fill_waiting(self)
        got = self.append(data)
        self.reads_much = got >= <Py_ssize_t>LINE
        if got == <Py_ssize_t>LINE:  # as much as was asked for
            rest = left_of_record(self.sock)
            if rest > 0:
                got += self.append(self.read_session(rest, None) or b"")
        return got

    cdef Py_ssize_t append(self, bytes data) except -1:
        """Put bytes that were read into the buffer. Returns how many."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        make_room(&self.buffer, size)
        memcpy(self.buffer.data + self.buffer.end, PyBytes_AS_STRING(data), size)
        self.buffer.end += size
        return size

    cdef bint has_ended(self) except -1:
        """Wait until the client sends something; return whether that is the end of the stream."""
        self.check_open("read")
        session = session_to_read(self.sock)
        if session is None or self.timed_out:
            return False
        try:
            return stream_has_ended(self.sock, session)
        except TimeoutError:
            self.timed_out = True
            raise

    cdef object read_session(self, object size, object buffer):
        """Read once over TLS; None without it. After a timeout every further read fails."""
        session = session_to_read(self.sock)
        if session is None:
            return None
        if self.timed_out:
            raise OSError("cannot read from timed out object")
        try:
            got = read_by(self.sock, session, size, buffer)
        except TimeoutError:
            self.timed_out = True
            raise
        self.check_open("read")
        return got

    cdef Py_ssize_t receive_secure(self, char *data, Py_ssize_t size) except -2:
        """receive() over TLS."""
        # Only the module _ssl sees this view of memory that is the caller's.
        view = PyMemoryView_FromMemory(data, min(size, LARGEST_NOW), PyBUF_WRITE)
        got = self.read_session(min(size, LARGEST_NOW), view)
        if got is None:
            self.open_file()
            return self.receive_by_file(data, size)
        return got

    cdef Py_ssize_t receive(self, char *data, Py_ssize_t size) except -2:
        """Read once, past the buffer, into memory that no other thread uses. Returns as fill()."""
        cdef Py_ssize_t got
        self.check_open("read")
        if self.nagle is not None:
            self.nagle.read_from(self.sock)
        if self.file is not None:
            return self.receive_by_file(data, size)
        if self.is_secure:
            return self.receive_secure(data, size)
        if self.timed_out:
            raise OSError("cannot read from timed out object")
        if (size <= LARGEST_NOW or self.parked) and not self.drained:
            got = receive_now(self.sock, data, size)
            if got != WOULD_BLOCK:
                self.drained = 0 < got < size
                return got
            self.check_open("read")
        try:
            got = receive_waiting(self.sock, data, size)
        except TimeoutError:
            self.timed_out = True
            raise
        self.check_open("read")
        self.drained = 0 < got < size
        return got

    cdef Py_ssize_t receive_by_file(self, char *data, Py_ssize_t size) except -2:
        """receive() by the SocketIO, whose readinto() may be replaced: it gets other memory."""
        cdef Py_ssize_t got
        cdef bytes copy
        chunk = bytearray(min(size, LARGEST_NOW))
        result = self.file.readinto(memoryview(chunk))
        self.check_open("read")
        if result is None:
            return WOULD_BLOCK
        try:
            got = result
        except Exception as error:
            raise OSError("raw readinto() failed") from error
        copy = bytes(chunk)
        if not 0 <= got <= min(len(copy), size):
            raise OSError(f"raw readinto() returned {got}, which is no length of what it was given")
        memcpy(data, PyBytes_AS_STRING(copy), got)
        return got

    cdef Py_ssize_t read_once(self, char *target, Py_ssize_t wanted) except -2:
        """Read once into the caller's memory; small reads go through the buffer."""
        cdef Py_ssize_t got
        if wanted >= BUFFER_SIZE:
            return self.receive(target, wanted)
        while True:
            got = self.fill()
            if got <= 0:
                return got
            got = move(&self.buffer, target, wanted)
            if got > 0:  # otherwise another thread was faster
                return got

    cdef int refuse(self, str what) except -1:
        """Raise the ValueError of a closed file."""
        if self.is_detached:
            raise ValueError("raw stream has been detached")
        raise ValueError(f"{what} of closed file")

    cdef int restore(self, const char *data, Py_ssize_t size) except -1:
        """Put bytes back that were taken before an error."""
        return 0 if self.is_closed() else put_back(&self.buffer, data, size)


cdef enum:
    SPARE_BUFFERS = 16

cdef char *spare[SPARE_BUFFERS]
cdef int spares = 0


cdef int make_room(Buffer *buffer, Py_ssize_t needed) except -1:
    """Make room for `needed` bytes behind the end."""
    cdef Py_ssize_t used = held(buffer)
    cdef Py_ssize_t size = max(buffer.size, BUFFER_SIZE)
    if used == 0:
        buffer.start = buffer.end = 0
        if size > BUFFER_SIZE >= needed:  # a long line is over
            return resize(buffer, BUFFER_SIZE)
    if buffer.size - buffer.end >= needed:
        return 0
    if used > 0:  # there may be no memory yet, and memmove() must not get NULL
        memmove(buffer.data, front(buffer), used)
    buffer.start = 0
    buffer.end = used
    while size - used < needed:
        size *= 2
    return resize(buffer, size) if size != buffer.size else 0


cdef int resize(Buffer *buffer, Py_ssize_t size) except -1:
    global spares
    cdef char *data
    if buffer.shared and spares > 0 and buffer.data == NULL and size == BUFFER_SIZE:
        spares -= 1
        data = spare[spares]
    else:
        data = <char *>PyMem_RawRealloc(buffer.data, size)
        if data == NULL:
            raise MemoryError
    buffer.data = data
    buffer.size = size
    return 0


cdef void lend(Buffer *buffer) noexcept:
    """Lend the memory of a shared buffer to others if it is empty."""
    global spares
    if held(buffer) > 0:
        return
    if buffer.data != NULL and buffer.size == BUFFER_SIZE and spares < SPARE_BUFFERS:
        spare[spares] = buffer.data
        spares += 1
        buffer.data = NULL
    discard(buffer)


cdef void discard(Buffer *buffer) noexcept:
    PyMem_RawFree(buffer.data)
    buffer.data = NULL
    buffer.size = buffer.start = buffer.end = 0


cdef Py_ssize_t move(Buffer *buffer, char *target, Py_ssize_t size) noexcept:
    """Move up to `size` bytes to `target`. Returns how many."""
    size = min(size, held(buffer))
    if size > 0:
        memcpy(target, front(buffer), size)
        buffer.start += size
        buffer.taken += size
    return size


cdef int put_back(Buffer *buffer, const char *data, Py_ssize_t size) except -1:
    """Put bytes that were moved out back before the rest."""
    cdef Py_ssize_t used = held(buffer)
    if size == 0:
        return 0
    make_room(buffer, size)
    memmove(front(buffer) + size, front(buffer), used)
    memcpy(front(buffer), data, size)
    buffer.end += size
    buffer.taken -= size
    return 0
