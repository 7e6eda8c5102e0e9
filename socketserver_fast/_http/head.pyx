# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""Parses the head of a request from the buffer of a compiled rfile, for http.client and for WSGI.

Hot is all of it, once for each request: the e-mail parser alone costs more than everything else
that serves one (bench: http_close, http_keep), and the environ was a third of the instructions of
what came after it (bench: wsgi_close). Nothing is taken from the buffer before the whole
head is known to be plain: what is not, the stdlib's own parser reads from its first byte, and so
finds every defect and raises every error itself.
"""

import email._policybase
import email.message
import http.client
from urllib.parse import unquote

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeLatin1, PyUnicode_KIND
from libc.string cimport memchr, memcmp

from socketserver_fast._sockets.plain cimport version_of
from socketserver_fast._sockets.reader cimport INCOMPLETE, NOT_PLAIN, take_scanned

cdef enum:
    MOST_LINES = 128
    MOST_NAMES = 256

ctypedef struct Line:
    Py_ssize_t name, colon, value, end

ctypedef struct Head:
    Py_ssize_t longest      # bytes of a line, with its end
    Py_ssize_t most         # lines, with the empty one
    Py_ssize_t scanned      # where the first line begins that was not complete yet
    Py_ssize_t count
    Line lines[MOST_LINES]

# For each byte: whether it may be part of a name, and of a value.
cdef enum:
    NAME = 1
    VALUE = 2
cdef unsigned char kinds[256]
for octet in range(256):
    kinds[octet] = (NAME if 32 < octet < 127 and octet != 58 else 0) | (
        VALUE if octet == 9 or octet >= 32 and octet != 127 else 0)

cdef object client = http.client
cdef object parse_headers = client.parse_headers
cdef object compat32 = email._policybase.compat32
cdef object Message = client.HTTPMessage

# What is called of a message, and what a message of another class must not have changed.
cdef tuple CALLED = (
    "__new__", "__init__", "__getattribute__", "__setattr__", "set_raw", "set_payload", "get",
    "get_content_type", "get_content_maintype", "get_default_type", "is_multipart", "items",
    "__getitem__")
cdef dict original = {name: getattr(Message, name) for name in CALLED}
cdef bint supported = getattr(parse_headers, "__globals__", None) is vars(client) and all(
    getattr(method, "__globals__", vars(email.message)) is vars(email.message)
    for method in original.values())
cdef unsigned int plain_version = 0
cdef dict names = {}  # of header fields: what they are called in an environ, twice


def parse_request(handler):
    """BaseHTTPRequestHandler.parse_request() of a plain head; None, with nothing read, of another.

    Raises what reading raises.
    """
    cdef bytes head
    cdef Head found
    cls = handler.MessageClass
    if client.parse_headers is not parse_headers or not is_plain(cls):
        return None
    if not parse_line(handler):
        return None
    found.longest = client._MAXLINE
    found.most = min(client._MAXHEADERS, MOST_LINES)
    found.scanned = found.count = 0
    head = take_scanned(handler.rfile, scan, &found)
    if head is None:
        return None
    message = cls(policy=compat32)
    message._headers = headers_of(head, &found)
    message._payload = ""
    handler.headers = message
    return decide(handler, head, &found)


cdef bint is_plain(cls) except -1:
    """Return whether a message of this class is made and asked as an HTTPMessage is."""
    if not supported or type(cls) is not type:
        return False
    return version_of(cls) == plain_version != 0 or is_unchanged(cls)


cdef bint is_unchanged(cls) except -1:
    global plain_version
    cdef unsigned int seen = version_of(cls)  # which a change of an attribute changes
    if not issubclass(cls, Message):
        return False
    for name in CALLED:
        if getattr(cls, name) is not original[name]:
            return False
    plain_version = seen
    return True


cdef bint parse_line(handler) except -1:
    """Take a request line apart that is a method, a path and HTTP/1.0 or 1.1, with one space
    between them; false, with nothing set, if it is not."""
    cdef object line = handler.raw_requestline
    if not PyBytes_CheckExact(line):
        return False
    cdef const char *data = PyBytes_AS_STRING(line)
    cdef Py_ssize_t end = line_end(data, PyBytes_GET_SIZE(line))
    cdef Py_ssize_t method = graphic(data, 0, end)
    cdef Py_ssize_t path = graphic(data, method + 1, end)
    if end - path != 9 or method == 0 or path <= method + 1 or data[method] != b" ":
        return False
    if memcmp(data + path, b" HTTP/1.", 8) != 0 or not (b"0" <= data[end - 1] <= b"1"):
        return False
    if data[method + 1] == b"/" == data[method + 2]:
        return False  # gh-87389
    cdef bint kept = data[end - 1] == b"1" and handler.protocol_version >= "HTTP/1.1"
    handler.close_connection = not kept
    handler.requestline = PyUnicode_DecodeLatin1(data, end, NULL)
    handler.request_version = "HTTP/1.1" if data[end - 1] == b"1" else "HTTP/1.0"
    handler.command = PyUnicode_DecodeLatin1(data, method, NULL)
    handler.path = PyUnicode_DecodeLatin1(data + method + 1, path - method - 1, NULL)
    return True


cdef Py_ssize_t line_end(const char *data, Py_ssize_t size) noexcept nogil:
    """Where the end of a line begins, which is CR LF or LF."""
    if size > 0 and data[size - 1] == b"\n":
        size -= 1
        if size > 0 and data[size - 1] == b"\r":
            size -= 1
    return size


cdef Py_ssize_t graphic(const char *data, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Where the characters from `start` that are ASCII and not blank end."""
    while start < end and b"!" <= data[start] <= b"~":
        start += 1
    return start


cdef Py_ssize_t scan(const char *data, Py_ssize_t size, void *state) noexcept nogil:
    """The Scanner of a head: the bytes up to its empty line, if all of its lines are plain."""
    cdef Head *head = <Head *>state
    cdef const char *newline
    cdef Py_ssize_t end
    while True:
        newline = <const char *>memchr(data + head.scanned, b"\n", size - head.scanned)
        if newline == NULL:
            return INCOMPLETE if size - head.scanned < head.longest else NOT_PLAIN
        end = newline + 1 - data
        if end - head.scanned > head.longest or head.count >= head.most:
            return NOT_PLAIN
        if line_end(data + head.scanned, end - head.scanned) == 0:
            return end
        if not scan_line(&head.lines[head.count], data, head.scanned, end):
            return NOT_PLAIN
        head.count += 1
        head.scanned = end


cdef bint scan_line(Line *line, const char *data, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Find the parts of a line; false if it is not plainly a name, a colon and a value."""
    cdef Py_ssize_t at = start
    end = start + line_end(data + start, end - start)
    while at < end and kinds[<unsigned char>data[at]] & NAME:
        at += 1
    if at == start or at == end or data[at] != b":":
        return False
    line.name = start
    line.colon = at
    at += 1
    while at < end and (data[at] == b" " or data[at] == b"\t"):
        at += 1
    line.value = at
    line.end = end
    while at < end and kinds[<unsigned char>data[at]] & VALUE:
        at += 1
    return at == end and not has_parts(line, data)


cdef bint has_parts(const Line *line, const char *data) noexcept nogil:
    """Whether it may be a Content-Type for which the parser looks for messages in the body."""
    if not named(line, data, b"content-type", 12):
        return False
    return (starts(line, data, b"multipart", 9) or starts(line, data, b"message", 7)
            or line.value < line.end and <unsigned char>data[line.value] > 127)


cdef bint named(const Line *line, const char *data, const char *name, int size) noexcept nogil:
    return line.colon - line.name == size and alike(data + line.name, name, size)


cdef bint starts(const Line *line, const char *data, const char *word, int size) noexcept nogil:
    return line.end - line.value >= size and alike(data + line.value, word, size)


cdef bint alike(const char *data, const char *word, int size) noexcept nogil:
    """Return whether they are the same but for capital letters; `word` has none."""
    cdef int i
    for i in range(size):
        if data[i] != word[i] and (data[i] | 32 != word[i] or not b"A" <= data[i] <= b"Z"):
            return False
    return True


cdef list headers_of(bytes head, const Head *found):
    cdef const char *data = PyBytes_AS_STRING(head)
    cdef const Line *line
    cdef Py_ssize_t i
    cdef list headers = []
    for i in range(found.count):
        line = &found.lines[i]
        headers.append((
            PyUnicode_DecodeLatin1(data + line.name, line.colon - line.name, NULL),
            PyUnicode_DecodeLatin1(data + line.value, line.end - line.value, NULL)))
    return headers


cdef bint decide(handler, bytes head, const Head *found) except -1:
    """What parse_request() does of the headers itself; its result."""
    cdef str connection = value_of(head, found, b"connection", 10)
    if connection == "close":
        handler.close_connection = True
    elif connection == "keep-alive" and handler.protocol_version >= "HTTP/1.1":
        handler.close_connection = False
    if value_of(head, found, b"expect", 6) == "100-continue":
        if handler.protocol_version >= "HTTP/1.1" and handler.request_version >= "HTTP/1.1":
            return bool(handler.handle_expect_100())
    return True


cdef str value_of(bytes head, const Head *found, const char *name, int size):
    """The first value with this name in lower case, or None."""
    cdef const char *data = PyBytes_AS_STRING(head)
    cdef const Line *line
    cdef Py_ssize_t i
    for i in range(found.count):
        line = &found.lines[i]
        if named(line, data, name, size):
            return PyUnicode_DecodeLatin1(
                data + line.value, line.end - line.value, NULL).lower()


def get_environ(handler):
    """WSGIRequestHandler.get_environ(); None where something is not as http.server makes it."""
    headers = handler.headers
    base = handler.server.base_environ
    if not is_plain(type(headers)) or headers.policy is not compat32 or not PyDict_CheckExact(base):
        return None
    fields = headers._headers
    if not PyList_CheckExact(fields) or not all_latin(fields):
        return None
    path, _, query = handler.path.partition("?")
    environ = base.copy()
    environ["SERVER_PROTOCOL"] = handler.request_version
    environ["SERVER_SOFTWARE"] = handler.server_version
    environ["REQUEST_METHOD"] = handler.command
    environ["PATH_INFO"] = unquote(path, "iso-8859-1")
    environ["QUERY_STRING"] = query
    environ["REMOTE_ADDR"] = handler.client_address[0]
    add_content(environ, headers, fields)
    add_fields(environ, fields)
    return environ


cdef bint all_latin(list fields) except -1:
    """Return whether all names and values are strings without surrogates."""
    for field in fields:
        name, value = field
        if not PyUnicode_CheckExact(name) or not PyUnicode_CheckExact(value):
            return False
        if PyUnicode_KIND(name) != 1 or PyUnicode_KIND(value) != 1:
            return False
    return True


cdef int add_content(dict environ, headers, list fields) except -1:
    kind = length = None
    for name, value in fields:
        if len(<str>name) == 12 and kind is None and (<str>name).lower() == "content-type":
            kind = value
        elif len(<str>name) == 14 and length is None and (<str>name).lower() == "content-length":
            length = value
    environ["CONTENT_TYPE"] = headers.get_content_type() if kind is None else kind
    if length:
        environ["CONTENT_LENGTH"] = length
    return 0


cdef int add_fields(dict environ, list fields) except -1:
    cdef tuple both
    for name, value in fields:
        both = names.get(name)
        if both is None:
            both = names_of(name)
        value = (<str>value).strip()
        if both[0] in environ:
            continue  # CONTENT_TYPE, or what a client has no say in
        if both[1] in environ:
            value = f"{environ[both[1]]},{value}"
        environ[both[1]] = value
    return 0


cdef tuple names_of(str name):
    upper = name.replace("-", "_").upper()
    both = upper, "HTTP_" + upper
    if len(names) < MOST_NAMES:
        names[name] = both
    return both
