# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""Reads a stream as io.BufferedReader does: the compiled rfile.

Hot is readline() on data that is buffered already, and opening, once for each connection (bench:
threading_keep_10, tcp_close_16; the gate counts the instructions of `readline` and `handler`).

One rule holds throughout: between two waits everything is atomic, by the GIL or by a critical
section, and no pointer into the buffer is kept across a wait. So another thread may close the
reader or read from it at any time, and no byte is lost or read twice. The same holds for other
code that runs inside a call: the arguments' __index__() and __buffer__(), a signal handler, a
replaced raw.readinto(). Arguments are converted before the reader's state is looked at.
"""

import io
import socket

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memchr

from socketserver_fast._sockets.plain cimport descriptor, is_stream, plain
from socketserver_fast._sockets.secure cimport is_set_on, secure
from socketserver_fast._sockets.source cimport BUFFER_SIZE, Source, front, held, move
from socketserver_fast._sockets.wait cimport WOULD_BLOCK, begin_read, count, end_read
from socketserver_fast._sockets.writer cimport Nagle, nagle_of, showing, writer_of

cdef extern from "_sockets/portable.h":
    void SSF_DROP_DICT(SocketReader instance)

cdef enum:
    LONGEST_SCANNED = 65536   # bytes in the buffer, while it is scanned
    HEAD_LINE = 65537         # the readline(size) by which http.server reads a request's head

cdef object makefile = socket.socket.makefile


def open_files(handler, connection, rbufsize, wbufsize, writer_class):
    """Return the rfile and the wfile of a connection.

    Given a handler that has not decided about TCP_NODELAY, the two set it when it helps.
    """
    cdef Nagle nagle
    rfile = open_reader(connection, rbufsize)
    if type(rfile) is not SocketReader:
        showing(rfile)
    wfile = (writer_of(connection, writer_class) if wbufsize == 0
             else showing(connection.makefile("wb", wbufsize)))
    nagle = None if handler is None else nagle_of(handler, wfile)
    if nagle is not None and type(rfile) is SocketReader:
        (<SocketReader>rfile).nagle = nagle
    elif nagle is not None:
        nagle.kept = True  # its reads cannot be seen
    return rfile, wfile


cpdef open_reader(connection, rbufsize):
    """Return the rfile of a connection.

    It is compiled for the stream of a plain socket.socket or an SSLSocket and the default buffer
    size (negative or None). Otherwise it is connection.makefile("rb", rbufsize).
    """
    cdef SocketReader reader = SocketReader.__new__(SocketReader)
    cdef bint default_size = rbufsize is None or rbufsize < 0
    if (default_size and plain(connection) and type(connection).makefile is makefile
            and is_stream(connection)):
        reader.open(connection)
        return reader
    if default_size and secure(connection) and not is_set_on(connection, ("makefile",)):
        reader.open_secure(connection)
        return reader
    return connection.makefile("rb", rbufsize)


cdef bytes take_scanned(object file, Scanner scan, void *state):
    """Read until `scan` finds something complete at the front of the buffer; take that.

    Returns None, and takes nothing, if it is not plain, at the end of the stream, and for a file
    that is no SocketReader.
    """
    return (<SocketReader>file).take_scanned(scan, state) if type(file) is SocketReader else None


def limit_lines(file, limit):
    """Make limit.refuse() raise for lines of more than limit.size bytes; false for other files."""
    if type(file) is not SocketReader:
        return False
    (<SocketReader>file).longest = limit.size
    (<SocketReader>file).limit = limit
    return True


cdef object NO_LIMIT = -1  # a default that is known by identity: converting costs 50 instructions


@cython.final
cdef class SocketReader(Source):
    """The buffered reading end of a connected, plain socket.socket: an io.BufferedIOBase.

    Results, timeouts and errors are those of `sock.makefile("rb")`. Like that file it keeps the
    descriptor open until it is closed itself, which is up to the caller; the stream handler's
    finish() does it. One thread should read at a time; another one may close it.

    Unlike socketserver: bytes read before a TimeoutError or another error stay in the buffer.
    """

    cdef bint between       # the last line read was the end of a request's head
    cdef object limit       # refuses lines of more than `longest` bytes, if there is one
    cdef Py_ssize_t longest
    cdef dict __dict__
    cdef object __weakref__

    def __cinit__(self):
        SSF_DROP_DICT(self)

    def __init__(self, sock):
        if self.sock is not None or self.drained or not plain(sock):
            raise TypeError("SocketReader takes a socket.socket, once; use sock.makefile('rb')")
        self.open(sock)

    def __del__(self):
        if self.sock is not None:
            self.let_go()

    def __repr__(self):
        return f"<{type(self).__module__}.SocketReader name={self.name!r}>"

    cdef bytes take(self, Py_ssize_t size):
        """Take the next `size` bytes from the buffer."""
        cdef bytes data = PyBytes_FromStringAndSize(front(&self.buffer), size)
        self.buffer.start += size
        self.buffer.taken += size
        return data

    @cython.critical_section
    cdef bytes take_scanned(self, Scanner scan, void *state):
        cdef Py_ssize_t found, taken = self.buffer.taken
        if self.is_detached or self.is_closed():
            return None
        begin_read()
        try:
            while True:
                found = scan(front(&self.buffer), held(&self.buffer), state)
                if found > 0:
                    self.between = True  # only whole heads are scanned for
                    return self.take(found)
                if found == NOT_PLAIN or held(&self.buffer) >= LONGEST_SCANNED or self.fill() <= 0:
                    return None
                if taken != self.buffer.taken:  # by another thread
                    return None
        finally:
            end_read()

    # The methods of io.BufferedReader.

    def readline(self, size=-1):
        """Return the next line with its newline; less at the end or after `size` bytes."""
        return self.next_line(-1 if size is NO_LIMIT else count(size))

    def __next__(self):
        cdef bytes line = self.next_line(-1)
        if not line:
            raise StopIteration  # outside of a critical section no exception object is made
        return line

    cdef inline bytes next_line(self, Py_ssize_t limit):
        if self.limit is not None:
            return self.limited_line(limit)
        return self.find_line(limit, limit == HEAD_LINE)

    cdef bytes limited_line(self, Py_ssize_t limit):
        """Return the next line if the limit allows. http.server limits a request's head itself."""
        if limit == HEAD_LINE or 0 <= limit <= self.longest:
            return self.find_line(limit, limit == HEAD_LINE)
        cdef bytes line = self.find_short_line()
        if line is None:
            self.limit.refuse()
        return line

    @cython.critical_section
    cdef bytes find_short_line(self):
        """Return the next line; None, with nothing taken, if it is too long."""
        cdef bytes line = self.find_line(self.longest + 1, False)
        if len(line) <= self.longest:
            return line
        self.restore(line, len(line))
        return None

    @cython.critical_section
    cdef inline bytes find_line(self, Py_ssize_t limit, bint of_head):
        cdef Py_ssize_t searched = 0, size, taken
        cdef char *newline
        cdef bint reading = False
        self.check_open("readline")
        try:
            while True:
                size = held(&self.buffer)
                if limit >= 0 and size > limit:
                    size = limit
                if size > searched:
                    newline = <char *>memchr(front(&self.buffer) + searched, 10, size - searched)
                    if newline != NULL:
                        if of_head:
                            self.between = front(&self.buffer)[0] in (10, 13)
                        return self.take(newline + 1 - front(&self.buffer))
                taken = self.buffer.taken
                self.awaits = self.between and size == 0 and of_head
                if not reading:
                    begin_read()
                    reading = True
                if size == limit or self.fill() <= 0:
                    return self.take(min(size, held(&self.buffer)))
                # Another thread may have read meanwhile.
                searched = size if taken == self.buffer.taken else 0
        finally:
            if reading:
                end_read()

    @cython.critical_section
    def read(self, size=-1):
        """Wait for `size` bytes and return them, or less at the end. Without a size: up to the end.

        Returns None from a non-blocking socket that has nothing.
        """
        cdef Py_ssize_t wanted = count(size)
        if wanted < -1:
            raise ValueError("read length must be non-negative or -1")
        self.check_open("read")
        if wanted == -1:
            return self.read_to_end()
        if wanted <= held(&self.buffer):
            return self.take(wanted)
        return self.read_more(wanted)

    cdef object read_more(self, Py_ssize_t wanted):
        """Read more than is buffered."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, wanted)
        cdef char *target = PyBytes_AS_STRING(data)
        cdef Py_ssize_t done = move(&self.buffer, target, wanted), got = 0
        begin_read()
        try:
            while done < wanted:
                got = self.read_once(target + done, wanted - done)
                if got <= 0:
                    break
                done += got
        except BaseException:
            self.restore(target, done)
            raise
        finally:
            end_read()
        if done == wanted:
            return data
        return None if done == 0 and got == WOULD_BLOCK else data[:done]

    cdef object read_to_end(self):
        cdef list parts = []
        cdef Py_ssize_t size = max(BUFFER_SIZE, held(&self.buffer))
        try:
            while True:
                part = self.read_more(size)
                if part:
                    parts.append(part)
                if part is None or len(part) < size:
                    break
                size = min(size * 2, 1 << 20)
        except BaseException:
            data = b"".join(parts)
            self.restore(data, len(data))
            raise
        return b"".join(parts) if parts else part

    @cython.critical_section
    def read1(self, size=-1):
        """Return at most `size` bytes: those buffered, or those of one read of the socket."""
        cdef Py_ssize_t wanted = size, got
        cdef bytes data
        self.check_open("read")
        if wanted < 0:
            wanted = BUFFER_SIZE
        if wanted == 0:
            return b""
        if self.buffer.end > self.buffer.start:
            return self.take(min(wanted, held(&self.buffer)))
        data = PyBytes_FromStringAndSize(NULL, wanted)
        got = self.receive(PyBytes_AS_STRING(data), wanted)
        return data if got == wanted else data[:max(got, 0)]

    def readinto(self, buffer):
        """Fill the writable `buffer`, waiting. Returns how many bytes, less only at the end."""
        return self.read_into(buffer, False)

    def readinto1(self, buffer):
        """Like readinto(), with at most one read of the socket."""
        return self.read_into(buffer, True)

    @cython.critical_section
    def read_into(self, buffer, bint once):
        cdef Py_buffer view
        cdef Py_ssize_t done = 0, got = 0
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError as error:
            raise TypeError(f"a read-write bytes-like object is needed: {error}") from None
        try:
            self.check_open("readinto")
            begin_read()
            done = move(&self.buffer, <char *>view.buf, view.len)
            while done < view.len and not (once and done):
                got = self.read_once(<char *>view.buf + done, view.len - done)
                if got <= 0:
                    break
                done += got
            return None if done == 0 and got == WOULD_BLOCK else done
        except BaseException:
            self.restore(<char *>view.buf, done)
            raise
        finally:
            PyBuffer_Release(&view)
            end_read()

    @cython.critical_section
    def peek(self, size=0):
        """Return what is buffered, not taking it. Reads once if nothing is. `size` is ignored."""
        cdef Py_ssize_t unused = size  # TypeError if it is no integer
        self.check_open("peek")
        if self.buffer.end == self.buffer.start:
            self.fill()
        return PyBytes_FromStringAndSize(front(&self.buffer), held(&self.buffer))

    @cython.critical_section
    def readlines(self, hint=-1):
        """Return the lines up to the end, or until they have more than `hint` bytes together."""
        cdef Py_ssize_t wanted = count(hint), total = 0
        cdef list lines = []
        cdef bytes line
        try:
            while wanted <= 0 or total <= wanted:
                line = self.next_line(-1)
                if not line:
                    break
                lines.append(line)
                total += len(line)
        except BaseException:
            data = b"".join(lines)
            self.restore(data, len(data))
            raise
        return lines

    def __iter__(self):
        self.check_open("iteration")
        return self

    # The other methods of a file.

    @property
    def closed(self):
        """Return whether it is closed."""
        return self.refuse("use") if self.is_detached else self.is_closed()

    @cython.critical_section
    def close(self):
        """Close it, and the descriptor if the socket was closed before. Any thread may call it."""
        if self.is_detached:
            self.refuse("close")
        if self.sock is not None:
            self.let_go()

    @property
    def raw(self):
        """The socket.SocketIO below. From now on every read goes through it."""
        return None if self.is_detached else self.open_file()

    @cython.critical_section
    def detach(self):
        """Give up the SocketIO below and return it. Buffered bytes are lost."""
        self.check_open("detach")
        return self.give_up()

    def fileno(self):
        """Return the descriptor of the socket; -1 after the socket was detached."""
        self.check_open("fileno")
        return descriptor(self.sock)

    @property
    def name(self):
        """The descriptor, -1 if it is closed, as for a SocketIO."""
        return -1 if self.closed else descriptor(self.sock)

    @property
    def mode(self):
        """"rb"."""
        return "rb"

    def readable(self):
        """Return True."""
        self.check_open("I/O operation")
        return True

    def writable(self):
        """Return False."""
        return False

    def seekable(self):
        """Return False."""
        self.check_open("I/O operation")
        return False

    def isatty(self):
        """Return False."""
        self.check_open("I/O operation")
        return False

    def flush(self):
        """Do nothing. ValueError if it is closed."""
        self.check_open("flush")

    def seek(self, offset, whence=0):
        """Raise io.UnsupportedOperation."""
        self.unsupported("seek")

    def tell(self):
        """Raise io.UnsupportedOperation."""
        self.closed  # a ValueError once detached
        raise io.UnsupportedOperation("tell")

    def truncate(self, size=None):
        """Raise io.UnsupportedOperation."""
        self.unsupported("truncate")

    def write(self, data):
        """Raise io.UnsupportedOperation: write to wfile instead."""
        raise io.UnsupportedOperation("write")

    def writelines(self, lines):
        """Raise io.UnsupportedOperation."""
        self.unsupported("write")

    cdef int unsupported(self, str what) except -1:
        self.check_open(what)
        raise io.UnsupportedOperation(what)

    def __enter__(self):
        self.check_open("I/O operation")
        return self

    def __exit__(self, *details):
        self.close()


io.BufferedIOBase.register(SocketReader)
