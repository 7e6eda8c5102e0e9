# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False
"""Receives datagrams, one or a batch, sends replies, and is the rfile and wfile of their handlers.

Hot is everything that happens once a packet (bench: udp_echo_64; the gate counts the instructions
of `datagram` and `packets`). The packet's bytes object has the packet's length, not
max_packet_size, a sender seen before keeps its address tuple, and the reply does not let other
threads run first. rfile and wfile keep the bytes that they are given instead of copying them, and
have no __dict__ until somebody sets an attribute.
"""

import io

cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE)
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.errno cimport EAGAIN, EINTR
from libc.string cimport memchr, memcmp, memcpy, memset

from socketserver_fast._sockets.plain cimport descriptor, family_of, parks, plain
from socketserver_fast._sockets.wait cimport SSF_NATIVE, count, fail, ssf_monotonic

cdef extern from "_sockets/portable.h" nogil:
    const int AF_INET, AF_INET6, SSF_AF_UNIX, MSG_TRUNC, MSG_CTRUNC, MSG_PEEK, MSG_DONTWAIT
    const int SSF_SO_MEMINFO, SSF_SO_RXQ_OVFL
    ctypedef struct sockaddr_in "struct sockaddr_in":
        unsigned short sin_family, sin_port
        int sin_addr
    ctypedef struct sockaddr_in6 "struct sockaddr_in6":
        unsigned short sin6_port
        unsigned int sin6_flowinfo, sin6_scope_id
        int sin6_addr
    unsigned int ntohl(unsigned int)
    unsigned short ntohs(unsigned short)
    unsigned short htons(unsigned short)
    int ssf_ipv4_text(const unsigned char *octets, char *text)
    const char *inet_ntop(int family, const void *source, char *target, unsigned int size)
    int inet_pton(int family, const char *source, void *target)
    Py_ssize_t ssf_sendto(int fd, const char *data, size_t size,
                          const sockaddr_storage *address, unsigned int length)
    Py_ssize_t ssf_recv(int fd, char *data, size_t size, int flags)
    bint ssf_reports_errors(int fd)
    int ssf_discard_errors(int fd)
    int ssf_receive_batch(int fd, ssf_packet *packets, int count, size_t size)
    const char *ssf_unix_path(const ssf_packet *packet, Py_ssize_t *length)

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

# Socket options that the socket module does not name; None where the system has none.
SO_MEMINFO = None if SSF_SO_MEMINFO < 0 else SSF_SO_MEMINFO
SO_RXQ_OVFL = None if SSF_SO_RXQ_OVFL < 0 else SSF_SO_RXQ_OVFL

cdef enum:
    LARGEST_ON_STACK = 8192   # UDPServer.max_packet_size
    LARGEST_PACKET = 65536    # of a batch


def receive(server):
    """Return the waiting packet as get_request() does; None to use the socket's methods."""
    cdef char data[LARGEST_ON_STACK]
    cdef ssf_packet packet
    cdef int received
    cdef Py_ssize_t size
    if has_kept(server):
        return take_kept(server)
    size = server.max_packet_size
    sock = server.socket
    if (not 0 <= size <= LARGEST_ON_STACK or getattr(server, "reply_from_destination", False)
            or not batchable(sock)):
        return None
    packet.data = data
    received = ssf_receive_batch(descriptor(sock), &packet, 1, size)
    if received < 0:
        # If only an error had made the socket ready, its own method would wait without end.
        if (received == -EAGAIN or received == -EINTR) and not ssf_discard_errors(descriptor(sock)):
            return None
        fail(received)
    note_flags(server, &packet)
    return (PyBytes_FromStringAndSize(data, packet.length), sock), address_of(&packet)


def refuse_errors_alone(sock):
    """Raise BlockingIOError if only errors of earlier replies made the socket ready.

    They are discarded: otherwise the socket would stay ready while its own methods wait. And the
    greenlet that serves must not park here, where shutdown() could not wake it.
    """
    cdef char nothing
    cdef Py_ssize_t found
    if not plain(sock):
        return
    found = ssf_recv(descriptor(sock), &nothing, 1, MSG_PEEK | MSG_DONTWAIT)
    if found == -EINTR:
        return
    if found == -EAGAIN and not ssf_discard_errors(descriptor(sock)) and not parks(sock):
        return
    if found < 0:
        fail(found)


# Datagrams that an exception left unhandled are kept in the server's __dict__.

cdef bint has_kept(server):
    return "_socketserver_fast_kept" in server.__dict__


cdef object take_kept(server):
    """Return the next request that was kept, and its client's address; None if there is none."""
    cdef list kept = server.__dict__.pop("_socketserver_fast_kept", None)
    if not kept:
        return None
    if len(kept) > 1:
        server.__dict__["_socketserver_fast_kept"] = kept[1:]
    return kept[0]


def send(sock, data, address):
    """Send one datagram. Waits and raises as sock.sendto(data, address) does."""
    cdef ssf_packet to
    if (plain(sock) and PyBytes_CheckExact(data) and resolve(&to, family_of(sock), address)
            and ssf_sendto(descriptor(sock), PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                           &to.address, to.address_length) >= 0):
        return
    sock.sendto(data, address)


cdef bint batchable(object sock):
    """Return whether the socket is plain and address_of() knows the addresses of its family.

    A portable build has plain sockets, too, those of greenlets, but no recvmmsg(2).
    """
    return SSF_NATIVE and plain(sock) and has_address(sock)


cdef bint has_address(object sock) except -1:
    """Return whether address_of() knows the addresses of a plain socket's family."""
    return family_of(sock) in (AF_INET, AF_INET6, SSF_AF_UNIX)


cdef int note_flags(object server, const ssf_packet *packet) except -1:
    """Tell the server that a packet was truncated, or that others before it were dropped.

    No ancillary data is asked for here, so MSG_CTRUNC can only mean the count of SO_RXQ_OVFL.
    """
    if packet.flags & MSG_TRUNC or packet.flags & MSG_CTRUNC and not said_lately(server):
        note = getattr(server, "_note_flags", None)  # the stdlib's own classes have none
        if note is not None:
            note(packet.flags)
    return 0


cdef bint said_lately(server) except -1:
    """Return whether datagrams.report_dropped() would only look at the clock."""
    until = server.__dict__.get("_dropped_said_until")
    return until is not None and <double>until * 1e9 > ssf_monotonic()


cdef object address_of(const ssf_packet *packet):
    """Return the address of a packet's sender as socket.recvfrom() does."""
    cdef int family = packet.address.ss_family if packet.address_length > 0 else SSF_AF_UNIX
    cdef const sockaddr_in *four = <const sockaddr_in *>&packet.address
    cdef const sockaddr_in6 *six = <const sockaddr_in6 *>&packet.address
    cdef char host[64]
    cdef const char *path
    cdef const char *end
    cdef Py_ssize_t length
    if family == AF_INET:
        length = ssf_ipv4_text(<const unsigned char *>&four.sin_addr, host)
        return host[:length].decode("ascii"), ntohs(four.sin_port)
    if family == AF_INET6:
        inet_ntop(family, &six.sin6_addr, host, sizeof(host))
        return (host.decode("ascii"), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo),
                six.sin6_scope_id)
    path = ssf_unix_path(packet, &length)
    if path == NULL:
        return None
    if length > 0 and path[0] == 0:  # Linux's abstract names are bytes
        return path[:length]
    end = <const char *>memchr(path, 0, max(length, 0))
    return PyUnicode_DecodeFSDefaultAndSize(path, max(length, 0) if end == NULL else end - path)


cdef bint resolve(ssf_packet *to, int family, object address) except -1:
    """Fill in the address if it is a numeric IPv4 one. False leaves other kinds to sendto()."""
    cdef sockaddr_in *four = <sockaddr_in *>&to.address
    cdef const char *host
    cdef Py_ssize_t length
    if family != AF_INET or type(address) is not tuple or len(<tuple>address) != 2:
        return False
    name, port = <tuple>address
    if type(name) is not str or type(port) is not int or not 0 <= port <= 65535:
        return False
    host = PyUnicode_AsUTF8AndSize(name, &length)
    if memchr(host, 0, length) != NULL:  # sendto() refuses it; inet_pton() would ignore the rest
        return False
    memset(&to.address, 0, sizeof(sockaddr_in))
    four.sin_family = AF_INET
    four.sin_port = htons(port)
    to.address_length = sizeof(sockaddr_in)
    return inet_pton(AF_INET, host, &four.sin_addr) == 1


@cython.final
cdef class Batch:
    """Holds a batch of datagrams, and the addresses of recent senders."""

    def __cinit__(self, sock):
        self.sock = sock
        self.senders = [None] * SSF_BATCH
        # If an ICMP error after one reply would make the next one fail, packets are received one at
        # a time: the receive in between clears the error.
        self.limit = 1 if ssf_reports_errors(descriptor(sock)) else SSF_BATCH

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    cdef int receive(self, Py_ssize_t size, int most) except -1:
        """Receive up to `most` waiting packets of up to `size` bytes each. Returns how many."""
        cdef char *memory
        cdef int index, received
        size = min(max(size, 0), LARGEST_PACKET)  # max_packet_size may be a property
        if size > self.size:
            memory = <char *>PyMem_RawRealloc(self.memory, size * SSF_BATCH)
            if memory == NULL:
                raise MemoryError
            self.memory = memory
            self.size = size
        for index in range(most):
            self.packets[index].data = self.memory + index * self.size
        # An error is the ICMP answer to an earlier reply; the stdlib ignores it, too.
        received = <int>max(ssf_receive_batch(descriptor(self.sock), self.packets, most, size), 0)
        # Ready without a packet: only errors, which somebody may have asked for meanwhile.
        if received == 0 and (self.limit == 1 or self.found_nothing):
            ssf_discard_errors(descriptor(self.sock))
        self.found_nothing = received == 0
        return received

    cdef int note(self, int index, object server) except -1:
        """Tell the server about a packet's flags."""
        return note_flags(server, &self.packets[index])

    cdef int keep(self, int first, int end, object server) except -1:
        """Keep the packets from `first` on in the server."""
        cdef list kept = [(self.request(index), self.sender(index)) for index in range(first, end)]
        if kept:
            kept += server.__dict__.get("_socketserver_fast_kept", [])
            server.__dict__["_socketserver_fast_kept"] = kept
        for index in range(first, end):
            self.note(index, server)
        return 0

    cdef tuple request(self, int index):
        """Make a packet's request, as get_request() returns it."""
        cdef ssf_packet *packet = &self.packets[index]
        return PyBytes_FromStringAndSize(packet.data, packet.length), self.sock

    cdef object sender(self, int index):
        """Return the address of a packet's sender: the same tuple while it is remembered."""
        cdef ssf_packet *packet = &self.packets[index]
        cdef int slot = (<const unsigned char *>&packet.address)[3] % SSF_BATCH  # of the port
        if (<size_t>packet.address_length < sizeof(sockaddr_in)
                or packet.address.ss_family == SSF_AF_UNIX):
            return address_of(packet)
        if (self.senders[slot] is None
                or memcmp(&self.known[slot], &packet.address, packet.address_length) != 0):
            self.senders[slot] = address_of(packet)
            memcpy(&self.known[slot], &packet.address, packet.address_length)
        return self.senders[slot]


# The files of a datagram's handler.

def refuses_before_it_looks():
    """Return whether a closed BytesIO refuses a write before it looks at the argument.

    Python 3.14 changed it, and so did a late 3.13.
    """
    file = io.BytesIO()
    file.close()
    try:
        file.write(None)
    except ValueError:
        return True
    except TypeError:
        return False


cdef bint CLOSED_FIRST = refuses_before_it_looks()


cdef bytes bytes_of(object data):
    """Copy a bytes-like object."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_CONTIG_RO)
    try:
        return PyBytes_FromStringAndSize(<const char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


@cython.final
@cython.freelist(8)
cdef class PacketBuffer:
    """Behaves as an io.BytesIO: a datagram's rfile or wfile.

    read(), readline(), the first write() of bytes and getvalue() are done here, without copies
    where possible. Everything else makes a real BytesIO first, and is left to that.
    """

    cdef bytes content
    cdef Py_ssize_t position
    cdef object file
    cdef object __weakref__

    def __cinit__(self):
        self.content = b""  # for __new__() without __init__()

    def __init__(self, initial_bytes=b""):
        if not PyBytes_CheckExact(initial_bytes):
            initial_bytes = io.BytesIO(initial_bytes).getvalue()
        self.file = None
        self.position = 0
        self.content = initial_bytes

    def __reduce__(self):
        """Copy and pickle it as a BytesIO."""
        return io.BytesIO, (), self.full().__getstate__()

    cdef object full(self):
        """Return the BytesIO that does the rest."""
        if self.file is None:
            file = io.BytesIO(self.content)
            file.seek(self.position)
            self.keep(file)
        return self.file

    @cython.critical_section
    cdef int keep(self, object file) except -1:
        if self.file is None:  # otherwise another thread was faster
            self.file = file
        return 0

    cdef object delegate(self, str name, tuple arguments):
        return getattr(self.full(), name)(*arguments)

    cdef Py_ssize_t left(self, Py_ssize_t wanted) noexcept:
        """Return how many bytes a read of `wanted` bytes gives."""
        cdef Py_ssize_t left = max(PyBytes_GET_SIZE(self.content) - self.position, 0)
        return left if wanted < 0 else min(wanted, left)

    cdef bytes take(self, Py_ssize_t size):
        cdef bytes content = self.content
        cdef Py_ssize_t start = self.position
        self.position += size
        if size == PyBytes_GET_SIZE(content):
            return content
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(content) + start, size)

    @cython.critical_section
    def read(self, size=-1):
        """Return at most `size` bytes; without a size, all that is left."""
        cdef Py_ssize_t wanted = count(size)  # first: an __index__() may use this file
        if self.file is not None:
            return self.delegate("read", (wanted,))
        return self.take(self.left(wanted))

    @cython.critical_section
    def readline(self, size=-1):
        """Return the next line with its newline, at most `size` bytes."""
        cdef Py_ssize_t wanted = count(size)
        if self.file is not None:
            return self.delegate("readline", (wanted,))
        cdef Py_ssize_t left = self.left(wanted)
        cdef const char *start = PyBytes_AS_STRING(self.content) + self.position
        cdef const char *newline = <const char *>memchr(start, 10, left)
        return self.take(left if newline == NULL else newline + 1 - start)

    @cython.critical_section
    def write(self, b):
        """Write the bytes-like `b` at the position. Returns how many bytes."""
        if not PyBytes_CheckExact(b):
            if CLOSED_FIRST and self.file is not None:
                self.delegate("tell", ())  # ValueError if it is closed
            b = bytes_of(b)  # first: a __buffer__() may use this file, and BytesIO would crash
        if self.file is None and not self.content and not self.position:
            self.content = b
            self.position = PyBytes_GET_SIZE(b)
            return self.position
        return self.delegate("write", (b,))

    @cython.critical_section
    def getvalue(self):
        """Return all that it holds, as bytes."""
        return self.content if self.file is None else self.delegate("getvalue", ())

    def __iter__(self):
        iter(self.full())
        return self

    def __next__(self):
        return next(self.full())

    def __enter__(self):
        self.full().__enter__()
        return self

    def __exit__(self, *details):
        self.full().close()

    def __getattr__(self, name):
        return getattr(self.full(), name)

    def __setattr__(self, name, value):
        setattr(self.full(), name, value)

    def __delattr__(self, name):
        delattr(self.full(), name)


io.BufferedIOBase.register(PacketBuffer)


def open_packet(packet):
    """Make a PacketBuffer(packet) without the cost of calling a class."""
    cdef PacketBuffer buffer
    if not PyBytes_CheckExact(packet):
        return PacketBuffer(packet)
    buffer = PacketBuffer.__new__(PacketBuffer)
    buffer.content = packet
    return buffer
