# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False, auto_pickle=False
"""Datagrams: receiving one or a batch, the reply, and the file that rfile and wfile are.

Hot is everything that happens once a packet (bench: udp_echo_64): the packet's bytes object has
the packet's length, not max_packet_size, the reply does not let other threads run first, and the
files keep the bytes that they were given instead of copying them.
"""

import _socket
import io

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE)
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.errno cimport EAGAIN
from libc.string cimport memchr, memset

from socketserver_fast._wait cimport descriptor, fail, plain

cdef extern from "_portable.h" nogil:
    const int AF_INET, AF_INET6, SSF_AF_UNIX, MSG_DONTWAIT
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
    const char *inet_ntop(int family, const void *source, char *target, unsigned int size)
    int inet_pton(int family, const char *source, void *target)
    Py_ssize_t ssf_recvfrom(int fd, ssf_packet *packet, size_t size)
    Py_ssize_t ssf_sendto(int fd, const char *data, size_t size,
                          const sockaddr_storage *address, unsigned int length)
    int ssf_receive_batch(int fd, ssf_packet *packets, int count, size_t size)
    const char *ssf_unix_path(const ssf_packet *packet, Py_ssize_t *length)

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef object get_family = _socket.socket.family.__get__

cdef enum:
    LARGEST_ON_STACK = 8192   # UDPServer.max_packet_size


def receive(sock, max_packet_size):
    """One datagram and its sender: sock.recvfrom(max_packet_size), waiting and failing as that."""
    cdef char data[LARGEST_ON_STACK]
    cdef ssf_packet packet
    if batchable(sock) and 0 <= max_packet_size <= LARGEST_ON_STACK:
        packet.data = data
        if ssf_recvfrom(descriptor(sock), &packet, max_packet_size) >= 0:
            return PyBytes_FromStringAndSize(data, packet.length), sender(&packet, get_family(sock))
    return sock.recvfrom(max_packet_size)


def receive_now(sock, max_packet_size):
    """receive() for one of several threads: None if there is no packet. Never waits."""
    cdef char data[LARGEST_ON_STACK]
    cdef ssf_packet packet
    cdef Py_ssize_t received
    if max_packet_size > LARGEST_ON_STACK:
        try:
            return sock.recvfrom(max_packet_size, MSG_DONTWAIT)
        except BlockingIOError:
            return None
    packet.data = data
    received = ssf_recvfrom(descriptor(sock), &packet, max_packet_size)
    if received == -EAGAIN:
        return None
    if received < 0:
        fail(received)
    return PyBytes_FromStringAndSize(data, packet.length), sender(&packet, get_family(sock))


def send(sock, data, address):
    """Send one datagram: sock.sendto(data, address), waiting and failing as that."""
    cdef ssf_packet to
    if (plain(sock) and PyBytes_CheckExact(data) and resolve(&to, get_family(sock), address)
            and ssf_sendto(descriptor(sock), PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                           &to.address, to.address_length) >= 0):
        return
    sock.sendto(data, address)


cdef bint batchable(object sock):
    """True for a plain socket of a family whose addresses sender() knows."""
    return plain(sock) and get_family(sock) in (AF_INET, AF_INET6, SSF_AF_UNIX)


cdef object sender(ssf_packet *packet, int family):
    """The address of a packet's sender as socket.recvfrom gives it."""
    cdef sockaddr_in *four = <sockaddr_in *>&packet.address
    cdef sockaddr_in6 *six = <sockaddr_in6 *>&packet.address
    cdef char host[64]
    cdef const char *path
    cdef const char *end
    cdef Py_ssize_t length
    if family == AF_INET:
        inet_ntop(family, &four.sin_addr, host, sizeof(host))
        return host.decode("ascii"), ntohs(four.sin_port)
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
    """Fill in the address if it is a numeric IPv4 one; every other kind is sendto's business."""
    cdef sockaddr_in *four = <sockaddr_in *>&to.address
    cdef const char *host
    if family != AF_INET or type(address) is not tuple or len(<tuple>address) != 2:
        return False
    name, port = <tuple>address
    if type(name) is not str or type(port) is not int or not 0 <= port <= 65535:
        return False
    host = PyUnicode_AsUTF8AndSize(name, NULL)
    memset(&to.address, 0, sizeof(sockaddr_in))
    four.sin_family = AF_INET
    four.sin_port = htons(port)
    to.address_length = sizeof(sockaddr_in)
    return inet_pton(AF_INET, host, &four.sin_addr) == 1


@cython.final
cdef class Batch:
    """Memory for the datagrams that are taken from the kernel at once."""

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    cdef int receive(self, object sock, Py_ssize_t size, int most) except -1:
        """Take at most `most` waiting packets of at most `size` bytes: how many, 0 for none."""
        cdef char *memory
        cdef int index
        if size > self.size:
            memory = <char *>PyMem_RawRealloc(self.memory, size * SSF_BATCH)
            if memory == NULL:
                raise MemoryError
            self.memory = memory
            self.size = size
        for index in range(most):
            self.packets[index].data = self.memory + index * self.size
        # An error is an earlier reply's ICMP answer: the stdlib ignores it too.
        return max(ssf_receive_batch(descriptor(sock), self.packets, most, size), 0)

    cdef tuple request(self, int index, object sock):
        """The request and the client address of one packet, as get_request gives them."""
        cdef ssf_packet *packet = &self.packets[index]
        data = PyBytes_FromStringAndSize(packet.data, packet.length)
        return (data, sock), sender(packet, get_family(sock))


@cython.final
@cython.freelist(8)
cdef class PacketBuffer:
    """A datagram's rfile or wfile: an io.BytesIO in all that it does.

    Reading, reading a line, the first write and getvalue() of bytes are done here and copy no more
    than they must; everything else makes a real BytesIO of it first.
    """

    cdef bytes content
    cdef Py_ssize_t position
    cdef object file
    cdef dict __dict__
    cdef object __weakref__

    def __init__(self, initial_bytes=b""):
        self.file = None
        self.position = 0
        if PyBytes_CheckExact(initial_bytes):
            self.content = initial_bytes
        else:
            self.content = io.BytesIO(initial_bytes).getvalue()

    cdef object full(self):
        """The BytesIO that does the rest."""
        if self.file is None:
            file = io.BytesIO(self.content)
            file.seek(self.position)
            self.file = file
        return self.file

    cdef object delegate(self, str name, tuple arguments):
        return getattr(self.full(), name)(*arguments)

    cdef Py_ssize_t left(self, object size) except -1:
        """How many bytes a read of `size` gives."""
        cdef Py_ssize_t left = max(PyBytes_GET_SIZE(self.content) - self.position, 0)
        if size is None:
            return left
        cdef Py_ssize_t wanted = size
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
        """At most `size` bytes, all that is left without one."""
        if self.file is not None:
            return self.delegate("read", (size,))
        return self.take(self.left(size))

    @cython.critical_section
    def readline(self, size=-1):
        """The next line with its newline, at most `size` bytes."""
        if self.file is not None:
            return self.delegate("readline", (size,))
        cdef Py_ssize_t left = self.left(size)
        cdef const char *start = PyBytes_AS_STRING(self.content) + self.position
        cdef const char *newline = <const char *>memchr(start, 10, left)
        return self.take(left if newline == NULL else newline + 1 - start)

    @cython.critical_section
    def write(self, b):
        """Write the bytes-like `b` at the position; how many bytes."""
        if self.file is None and PyBytes_CheckExact(b) and not self.content and not self.position:
            self.content = b
            self.position = PyBytes_GET_SIZE(b)
            return self.position
        return self.delegate("write", (b,))

    @cython.critical_section
    def getvalue(self):
        """All that it holds, as bytes."""
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


io.BufferedIOBase.register(PacketBuffer)
