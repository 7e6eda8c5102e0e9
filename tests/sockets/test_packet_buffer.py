"""PacketBuffer, the file of a datagram, gives what io.BytesIO gives for any sequence of calls.

Left out on purpose: pickling and copying, and __init__ called again."""

import array
import contextlib
import io
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketserver_fast._sockets.datagram import PacketBuffer

KINDS = {"BytesIO": io.BytesIO, "PacketBuffer": PacketBuffer}


@pytest.fixture(params=KINDS)
def buffer_class(request):
    """The class to be tested: the stdlib's, or ours."""
    return KINDS[request.param]


def outcome(call, *args):
    """Return the result of a call, made comparable, or the type of its error."""
    try:
        result = call(*args)
    except Exception as error:
        return type(error)
    if isinstance(result, memoryview):
        with result:
            return "view", bytes(result), result.readonly
    if isinstance(result, io.BufferedIOBase):
        return "itself", result is getattr(call, "__self__", result)
    return result


class Index:
    """An integer to those who ask for one."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __repr__(self):
        return f"Index({self.value})"


DATA = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\n", b"line\n", b"\r\n", b"rest"]), max_size=6).map(b"".join),
    st.sampled_from([b"x" * 8192, b"x" * 65536]),
)
BYTES_LIKE = st.one_of(
    DATA,
    DATA.map(bytearray),
    DATA.map(memoryview),
    st.sampled_from([array.array("i", [1, 2]), memoryview(b"abcdef")[::2], "text", None, 5, []]),
)
SIZE = st.one_of(
    st.integers(-3, 50),
    st.sampled_from([None, True, 1.5, "3", 8192, 2**31, 2**63, 2**70, Index(3), Index(-1)]),
)
# truncate() and seek() do not allocate, but a write behind the end fills the gap.
PLACE = st.one_of(st.integers(-5, 200), st.sampled_from([None, "1", 1.5, 2**70, Index(4)]))
WHENCE = st.sampled_from([0, 1, 2, 3, -1, None, "0"])
WRITABLE_SIZE = st.integers(0, 70)


def call(name, *args):
    return st.tuples(st.just(name), *args)


ONE_ARGUMENT = {
    "read": SIZE,
    "read1": SIZE,
    "readline": SIZE,
    "readlines": SIZE,
    "seek": PLACE,
    "truncate": PLACE,
    "write": BYTES_LIKE,
    "writelines": st.one_of(st.lists(BYTES_LIKE, max_size=3), st.none()),
    "readinto": WRITABLE_SIZE.map(bytearray),
    "readinto1": WRITABLE_SIZE.map(bytearray),
}
NO_ARGUMENT = [
    "read", "read1", "readline", "readlines", "tell", "truncate", "getvalue", "getbuffer", "flush",
    "readable", "writable", "seekable", "isatty", "fileno", "detach", "__iter__", "__next__",
    "__enter__", "write", "writelines", "seek", "readinto",
]  # fmt: skip
CALLS = st.lists(
    st.one_of(
        st.one_of([call(name, argument) for name, argument in ONE_ARGUMENT.items()]),
        st.sampled_from(NO_ARGUMENT).map(lambda name: (name,)),
        call("seek", PLACE, WHENCE),
        st.sampled_from([("readinto", b"read-only"), ("readinto", None), ("read", 1, 2)]),
        st.sampled_from([("close",), ("__exit__", None, None, None)]),
    ),
    max_size=12,
)


def fresh(argument):
    """A copy of what a call may change."""
    return bytearray(argument) if isinstance(argument, bytearray) else argument


def trace(buffer, calls):
    """The outcome of each call, with what it wrote into its argument, and the state at the end."""
    for name, *args in calls:
        args = [fresh(argument) for argument in args]
        yield name, outcome(getattr(buffer, name), *args), args
    yield outcome(buffer.getvalue), outcome(buffer.tell), buffer.closed


@settings(deadline=None, max_examples=1000)
@given(DATA, CALLS)
def test_any_calls_give_what_bytesio_gives(initial, calls):
    theirs, ours = (list(trace(kind(initial), calls)) for kind in KINDS.values())
    assert ours == theirs


@pytest.mark.parametrize(
    "args",
    [(), (b"ab",), (bytearray(b"ab"),), (memoryview(b"ab"),), (None,), ("ab",), (5,), (b"", b"")],
    ids=repr,
)
def test_constructor_takes_and_refuses_the_same(args):
    theirs, ours = (outcome(lambda k=kind: k(*args).getvalue()) for kind in KINDS.values())
    assert ours == theirs


def test_constructor_takes_the_keyword_and_copies(buffer_class):
    data = bytearray(b"ab")
    buffer = buffer_class(initial_bytes=data)
    data[0] = 0
    assert buffer.read() == b"ab"


def test_the_given_bytes_are_never_changed(buffer_class):
    data = bytes([97]) * 20
    buffer = buffer_class(data)
    buffer.write(b"b")
    with buffer.getbuffer() as view:
        view[-1] = 99
    assert buffer.getvalue() == b"b" + b"a" * 18 + b"c"
    assert data == b"a" * 20


def test_getvalue_is_not_changed_by_later_writes(buffer_class):
    buffer = buffer_class()
    first = b"first"
    buffer.write(first)
    value = buffer.getvalue()
    buffer.seek(0)
    buffer.write(b"F")
    buffer.seek(0, 2)
    buffer.write(b" and more")
    assert (first, value) == (b"first", b"first")
    assert buffer.getvalue() == b"First and more"


@pytest.mark.parametrize("action", ["write", "truncate", "close"])
def test_an_exported_view_forbids_to_resize(buffer_class, action):
    buffer = buffer_class(b"abc")
    buffer.seek(3)
    with buffer.getbuffer() as view:
        arguments = {"write": (b"x",), "truncate": (1,), "close": ()}[action]
        assert outcome(getattr(buffer, action), *arguments) is BufferError
        view[0] = 65
    assert buffer.getvalue() == b"Abc"


def test_has_every_public_attribute(buffer_class):
    buffer = buffer_class(b"abc")
    public = {name for name in dir(io.BytesIO) if not name.startswith("_")}
    assert all(hasattr(buffer, name) for name in public)
    assert isinstance(buffer, io.BufferedIOBase)
    assert isinstance(buffer, io.IOBase)
    assert not hasattr(buffer, "name")
    assert not hasattr(buffer, "mode")


def test_takes_attributes_and_weak_references(buffer_class):
    buffer = buffer_class()
    buffer.anything = 1
    assert buffer.anything == 1
    assert weakref.ref(buffer)() is buffer


def test_iteration_and_with(buffer_class):
    with buffer_class(b"one\ntwo\nthree") as buffer:
        assert iter(buffer) is buffer
        assert [line for line in buffer] == [b"one\n", b"two\n", b"three"]  # noqa: C416
    assert buffer.closed
    for name in ["read", "write", "getvalue", "getbuffer", "tell", "__next__", "__enter__"]:
        assert outcome(getattr(buffer, name), *[b""] * (name == "write")) is ValueError
    buffer.close()


def test_a_method_kept_from_before_goes_on_with_the_same_file(buffer_class):
    buffer = buffer_class(b"one\ntwo\n")
    read, readline, tell = buffer.read, buffer.readline, buffer.tell
    assert (readline(), tell()) == (b"one\n", 4)
    buffer.write(b"T")
    assert (read(1), readline(), tell()) == (b"w", b"o\n", 8)
    assert buffer.getvalue() == b"one\nTwo\n"


def test_text_wrappers_read_and_write_it(buffer_class):
    reply = buffer_class()
    with io.TextIOWrapper(reply, encoding="utf-8", newline="") as text:
        text.write("grün\n" * 3000)
        text.flush()
        value = reply.getvalue()
    assert reply.closed
    with io.TextIOWrapper(buffer_class(value), encoding="utf-8") as text:
        assert text.readline() == "grün\n"
        assert text.read() == "grün\n" * 2999


def test_a_position_beyond_everything_is_refused(buffer_class):
    buffer = buffer_class(b"abc")
    buffer.seek(2**63 - 1)
    assert buffer.read() == b""
    assert outcome(buffer.write, b"x") in (OverflowError, MemoryError)
    assert buffer.getvalue() == b"abc"


def test_class_is_final():
    with pytest.raises(TypeError):
        type("Buffer", (PacketBuffer,), {})


def test_a_buffered_reader_takes_it(buffer_class):
    with contextlib.closing(io.BufferedReader(buffer_class(b"one\ntwo\n"))) as reader:
        assert reader.readlines() == [b"one\n", b"two\n"]
