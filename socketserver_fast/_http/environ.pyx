# cython: language_level=3, freethreading_compatible=True
"""The environ of a WSGI request.

Hot is all of it: it was a third of the instructions of such a request (bench: wsgi_close).
"""

from urllib.parse import unquote
import email._policybase

from cpython.dict cimport PyDict_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_KIND

from socketserver_fast._http.head cimport is_plain

cdef enum:
    MOST_NAMES = 256

cdef object compat32 = email._policybase.compat32
cdef dict names = {}  # of header fields: what they are called in an environ, twice


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
