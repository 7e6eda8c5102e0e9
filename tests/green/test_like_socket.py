"""A cooperative socket in a greenlet does what a socket.socket does in a thread: method by method,
with every flag, timeout and kind of socket; and so does its descriptor when it leaves."""

import _socket
import array
import contextlib
import errno
import io
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)

SOON = 0.04  # seconds until the other side does something
MUCH = 6 << 20  # more bytes than both sides of a connection buffer

KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "records": (socket.AF_UNIX, getattr(socket, "SOCK_SEQPACKET", None)),
    "datagrams": (socket.AF_UNIX, socket.SOCK_DGRAM),
}


def pair(kind):
    """Two connected sockets."""
    family, type = KINDS[kind]
    if family == socket.AF_UNIX:
        return socket.socketpair(family, type)
    if type == socket.SOCK_STREAM:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            return ours, listener.accept()[0]
    ours, theirs = socket.socket(family, type), socket.socket(family, type)
    for sock in (ours, theirs):
        sock.bind(("127.0.0.1", 0))
    ours.connect(theirs.getsockname())
    theirs.connect(ours.getsockname())
    return ours, theirs


def outcome(function, *args):
    """Return the result of a call in a form that can be compared."""
    try:
        return function(*args)
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)


@pytest.fixture
def in_threads(background):
    """`in_threads(functions)` calls each in a thread of its own: their outcomes."""
    def run(functions):
        calls = [background(outcome, function) for function in functions]
        return [call.result(30) for call in calls]

    return run


@pytest.fixture
def in_greenlets(make_green, serving):
    """`in_greenlets(functions)` calls each in a greenlet of its own, on one hub: their outcomes."""
    def run(functions):
        def handle(handler):
            number, = struct.unpack("I", handler.rfile.read(4))
            outcomes[number] = outcome(functions[number])

        outcomes = {}
        with serving(make_green(handle)) as address, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(address, 30))
                       for _ in functions]
            for number, client in enumerate(clients):
                client.sendall(struct.pack("I", number))
            for client in clients:
                assert client.recv(1) == b""
        return [outcomes[number] for number in range(len(functions))]

    return run


@pytest.fixture
def same(in_threads, in_greenlets):
    """`same(cases, call)`: call(case, make) comes to the same for each case in a thread, where
    make(sock) is a socket.socket, and in a greenlet, where it is cooperative. Returns that."""
    def check(cases, call):
        cases = list(cases)
        right = in_threads([lambda case=case: call(case, lambda sock: sock) for case in cases])
        ours = in_greenlets([lambda case=case: call(case, green.cooperative) for case in cases])
        wrong = [(case, "right:", one, "ours:", other)
                 for case, one, other in zip(cases, right, ours, strict=True) if one != other]
        assert not wrong, "\n".join(map(str, wrong))
        return {repr(case): one for case, one in zip(cases, right, strict=True)}

    return check


# Receiving.

def into(method, *args):
    def receive(sock, size, flags):
        buffer = bytearray(size)
        result = getattr(sock, method)(buffer, *args, flags=flags)
        got = result[0] if isinstance(result, tuple) else result
        return bytes(buffer[:got])

    return receive


def recvmsg_into(sock, size, flags):
    buffers = [bytearray(3), bytearray(0), array.array("H", bytes(size - 3 & ~1)), bytearray(1)]
    got, ancillary, seen, _ = sock.recvmsg_into(buffers, 0, flags)
    return b"".join(map(bytes, buffers))[:got], ancillary, seen


def raw_file(sock, size, flags):
    with sock.makefile("rb", 0) as file:
        return file.read(size)


RECEIVING = {
    "recv": lambda sock, size, flags: sock.recv(size, flags),
    "recvfrom": lambda sock, size, flags: sock.recvfrom(size, flags)[0],
    "recv_into": into("recv_into"),
    "recv_into_part": into("recv_into", 8),
    "recvfrom_into": into("recvfrom_into"),
    "recvmsg": lambda sock, size, flags: sock.recvmsg(size, 100, flags)[:3],
    "recvmsg_into": recvmsg_into,
    "makefile": raw_file,
}
FLAGS = {name: getattr(socket, name, 0) for name in (
    "MSG_WAITALL", "MSG_PEEK", "MSG_DONTWAIT", "MSG_OOB", "MSG_ERRQUEUE", "MSG_TRUNC")}
FLAGS.update({"0": 0, "MSG_PEEK|MSG_WAITALL": socket.MSG_PEEK | socket.MSG_WAITALL,
              "MSG_DONTWAIT|MSG_WAITALL": socket.MSG_DONTWAIT | socket.MSG_WAITALL})
TIMEOUTS = [None, 10, SOON, 0, "SO_RCVTIMEO"]


def set_timeout(sock, timeout):
    if timeout in ("SO_RCVTIMEO", "SO_SNDTIMEO"):
        limit = struct.pack("ll", 0, int(SOON * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, timeout), limit)
    else:
        sock.settimeout(timeout)


SITUATIONS = {
    "silent": ([], []),
    "late": ([], [b"abcdefghij"]),
    "pieces": ([b"abcde"], [b"fghij"]),
    "ended": ([b"abc"], [None]),
    "ended_before": ([b"abc", None], []),
}


def act(sock, actions):
    for data in actions:
        if data is None:
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.send(data)


def receive(kind, method, case, make):
    flag, timeout, situation = case
    before, later = SITUATIONS[situation]
    ours, theirs = pair(kind)
    with make(ours) as sock, theirs:
        set_timeout(sock, timeout)
        act(theirs, before)
        timer = threading.Timer(SOON, act, (theirs, later))
        if waits(kind, flag, timeout, situation):
            timer.start()
        result = outcome(RECEIVING[method], sock, 10, FLAGS[flag])
        if flag == "MSG_TRUNC" and kind == "tcp":  # which gives the number only
            result = len(result) if isinstance(result, bytes) else result[1:]
        if timer.ident:
            timer.join()
        else:
            act(theirs, later)
        sock.settimeout(0)
        return result, outcome(sock.recv, 100)


def at_once(kind, flag):
    """Return whether a call with this flag never waits."""
    return ("MSG_DONTWAIT" in flag or (flag == "MSG_OOB" and kind != "udp")
            or (flag == "MSG_ERRQUEUE" and kind in ("tcp", "udp")))


def waits(kind, flag, timeout, situation):
    """Return whether the call returns only after the other side has done something more."""
    if timeout == 10:
        return situation == "late"
    return timeout is None and not at_once(kind, flag) and (
        situation == "late" or ("MSG_WAITALL" in flag and situation in ("pieces", "ended")))


def would_wait_for_ever(kind, flag, timeout, situation):
    """Return whether the right thing would be not to return, or not soon."""
    if timeout and timeout != "SO_RCVTIMEO" and flag == "MSG_ERRQUEUE":
        return True  # CPython asks again and again
    if timeout == 10 or (timeout is None and not at_once(kind, flag)):
        return situation == "silent"
    return False


@pytest.mark.parametrize("method", RECEIVING)
@pytest.mark.parametrize("kind", KINDS)
def test_receiving(same, kind, method):
    cases = [
        case for case in itertools.product(FLAGS, TIMEOUTS, SITUATIONS)
        if not would_wait_for_ever(kind, *case)
        and not (KINDS[kind][1] == socket.SOCK_DGRAM and "ended" in case[2])
        and not (method == "makefile" and case[0] != "0")]
    results = same(cases, lambda case, make: receive(kind, method, case, make))
    assert len(set(map(str, results.values()))) > 2


# Sending. How much goes into the buffers is the system's business.

def raw_write(sock, data, flags):
    with sock.makefile("wb", 0) as file:
        return file.write(data)


SENDING = {
    "send": lambda sock, data, flags: sock.send(data, flags),
    "sendall": lambda sock, data, flags: sock.sendall(data, flags),
    "sendto": lambda sock, data, flags: sock.sendto(data, flags, sock.getpeername()),
    "sendmsg": lambda sock, data, flags: sock.sendmsg(
        [data[:1], b"", memoryview(data)[1:4001].cast("I"), data[4001:]], [], flags),
    "makefile": raw_write,
}


def send(kind, method, case, make):
    flags, timeout, reader = case
    ours, theirs = pair(kind)
    data = bytes(range(250)) * (MUCH // 250)
    with make(ours) as sock, theirs:
        set_timeout(sock, timeout)
        timer = threading.Timer(SOON, drain, (theirs, received := []))
        if reader:
            timer.start()
        result = outcome(SENDING[method], sock, data, flags)
        sock.close()
        if reader:
            timer.join()
            assert data.startswith(b"".join(received))
            received = sum(map(len, received))
            if isinstance(result, int):
                assert result == received
    if isinstance(result, int):
        result = "all" if result == len(data) else "part"
    return result, received == len(data)


def drain(sock, received):
    while data := sock.recv(1 << 20):
        received.append(data)


@pytest.mark.parametrize("method", SENDING)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_sending_much(same, kind, method):
    cases = [
        case for case in itertools.product(
            [0, socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL],
            [None, 10, SOON, 0, "SO_SNDTIMEO"], [True, False])
        if not (case[1] is None and not case[2] and case[0] != socket.MSG_DONTWAIT)
        and not (case[1] in (SOON, "SO_SNDTIMEO") and case[2])
        and not (case[1] == 10 and not case[2])
        and not (case[0] == socket.MSG_DONTWAIT and case[2])  # it depends on who is faster
        and not (method == "sendto" and kind == "unix")
        and not (method == "makefile" and case[0])]
    if cases:
        results = same(cases, lambda case, make: send(kind, method, case, make))
        assert results[repr((0, None, True))][1]


@pytest.mark.parametrize("kind", ["records", "datagrams", "udp"])
def test_sending_records(same, kind):
    """Each is sent as a whole or not at all."""
    def call(case, make):
        method, timeout, reader = case
        ours, theirs = pair(kind)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20000)
        with make(ours) as sock, theirs:
            set_timeout(sock, timeout)
            timer = threading.Timer(SOON, receive_all, (theirs, received := []))
            if reader:
                timer.start()
            results = [outcome(SENDING[method], sock, b"%03d" % number + bytes(5000), 0)
                       for number in range(20)]
            if reader:
                sock.settimeout(10)
                sock.send(b"end")
                timer.join()
            # With a timeout sendall() tries first, and so gets a few more records rid of.
            return results if reader else len(set(map(str, results))), received

    def receive_all(sock, received):
        while (record := sock.recv(10000)) != b"end":
            received.append((record[:3], len(record)))

    cases = [case for case in itertools.product(
        ["send", "sendall", "sendmsg", "makefile"], [None, 10, SOON, 0, "SO_SNDTIMEO"],
        [True, False])
        if (case[1] not in (None, 10) or case[2] or kind == "udp")
        and (case[1] not in (0, SOON, "SO_SNDTIMEO") or not case[2])]
    same(cases, call)


def test_sendfile(same, tmp_path):
    SIZE = 1 << 20
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * (SIZE // 250))

    def call(case, make):
        offset, count, timeout, mode = case
        ours, theirs = pair("tcp")
        with make(ours) as sock, theirs, path.open(*mode) as file:
            sock.settimeout(timeout)
            thread = threading.Thread(target=drain, args=(theirs, received := []))
            thread.start()
            result = outcome(sock.sendfile, file, offset, count)
            position = file.tell()
            sock.close()
            thread.join()
            return result, position, sum(map(len, received))

    cases = list(itertools.product(
        [0, 5, SIZE + 10], [None, 0, 7, 200000, SIZE * 2, -1, "1"], [None], [("rb",)]))
    cases += itertools.product([0, 5], [None, 7], [10, 0], [("rb",), ("rb", 0), ("r",)])
    same(cases, call)


def test_sendfile_that_times_out_leaves_the_file_behind_what_was_sent(same, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(4_000_000))

    def call(timeout, make):
        ours, theirs = socket.socketpair()
        with theirs, path.open("rb") as file:
            with make(ours) as sock:
                sock.settimeout(timeout)
                error = outcome(sock.sendfile, file)
            received = 0
            while data := theirs.recv(65536):
                received += len(data)
            return error, file.tell() == received

    assert next(iter(same([0.02], call).values()))[1]


def test_sendfile_of_what_is_no_file(same):
    def call(case, make):
        ours, theirs = pair("unix")
        with make(ours) as sock, theirs:
            reading, writing = os.pipe()
            os.write(writing, b"through a pipe")
            os.close(writing)
            theirs.settimeout(0)
            with os.fdopen(reading, "rb") as file, io.BytesIO(b"in memory") as memory:
                return (outcome(sock.sendfile, memory, 3), outcome(sock.sendfile, file),
                        outcome(theirs.recv, 100))

    same([1], call)


class Index:
    """Stands for a number, as the stdlib's sockets take it too."""

    def __init__(self, number, action=None):
        self.number, self.action = number, action

    def __index__(self):
        if self.action is not None:
            self.action()
        return self.number


RECEIVERS = {
    "recv": lambda sock, size, flags: sock.recv(size, flags),
    "recv without flags": lambda sock, size, flags: sock.recv(size),
    "recv_into": lambda sock, size, flags: sock.recv_into(bytearray(8), size, flags),
    "recvfrom": lambda sock, size, flags: sock.recvfrom(size, flags)[0],
    "recvfrom_into": lambda sock, size, flags: sock.recvfrom_into(bytearray(8), size, flags)[0],
    "recvmsg": lambda sock, size, flags: sock.recvmsg(size, 0, flags)[0],
    "recvmsg_into": lambda sock, size, flags: sock.recvmsg_into([bytearray(3)], size, flags)[0],
    "send": lambda sock, size, flags: sock.send(b"x", flags),
    "sendall": lambda sock, size, flags: sock.sendall(b"x", flags),
}


@pytest.mark.parametrize("closes", [False, True])
def test_arguments_that_stand_for_numbers(same, closes):
    """Converted before anything else is done: the conversion may close the socket."""
    def call(case, make):
        name, of_size, of_flags = case
        ours, theirs = pair("unix")
        with make(ours) as sock, theirs:
            theirs.send(b"data")
            close = sock.close if closes else None
            size = Index(3, close) if of_size else 3
            flags = Index(int(socket.MSG_WAITALL), close) if of_flags else 0
            return outcome(RECEIVERS[name], sock, size, flags)

    same([(name, of_size, of_flags) for name in RECEIVERS
          for of_size in (False, True) for of_flags in (False, True)], call)


def test_wrong_arguments(same):
    def call(case, make):
        method, args = case
        ours, theirs = pair("unix")
        with make(ours) as sock, theirs:
            theirs.send(b"data")
            result = outcome(getattr(sock, method), *args)
            return result[0] if isinstance(result, tuple) else result

    data = "text", None, 5, memoryview(b"abcdef")[::2], b""
    cases = [("send", (one,)) for one in data] + [("sendall", (one,)) for one in data]
    cases += [("sendto", (one, "x")) for one in data] + [("sendmsg", (one,)) for one in data]
    cases += [(name, (size,)) for name in ("recv", "recvfrom", "recvmsg")
              for size in (-1, "1", None, 1.5, 0, True)]
    cases += [(name, args) for name in ("recv_into", "recvfrom_into") for args in (
        (b"bytes",), (bytearray(3), 4), (bytearray(3), -1), (bytearray(0),), ("x",),
        (bytearray(3), 3, "flags"), (bytearray(4), 2))]
    cases += [(name, (1, "flags")) for name in ("recv", "recvfrom")]
    cases += [("send", (b"x", "flags")), ("sendall", (b"x", "flags")), ("sendall", (b"x", 1 << 40)),
              ("sendto", (b"x",)), ("connect", ()), ("accept", ()), ("settimeout", ("soon",)),
              ("recvmsg_into", (b"x",)), ("recvmsg_into", ([b"x"],)), ("recvmsg", (1, -1))]
    same(cases, call)


def test_after_close_and_detach(same):
    calls = [("recv", 1), ("recv", 1, socket.MSG_WAITALL), ("recv_into", bytearray(1)),
             ("recvfrom", 1), ("recvmsg", 1), ("send", b"x"), ("sendall", b"x"),
             ("sendall", b"x", socket.MSG_NOSIGNAL), ("sendmsg", (b"x",)),
             ("sendto", b"x", ("127.0.0.1", 1)), ("accept",), ("connect", ("127.0.0.1", 1)),
             ("connect_ex", ("127.0.0.1", 1)), ("settimeout", 1), ("gettimeout",), ("dup",),
             ("setblocking", False), ("getblocking",), ("fileno",), ("shutdown", 2), ("detach",),
             ("getsockopt", 1, 1), ("setsockopt", 1, 2, 1)]

    def call(case, make):
        (method, *args), end, timeout = calls[case[0]], case[1], case[2]
        ours, theirs = pair("tcp")
        sock = make(ours)
        sock.settimeout(timeout)
        if end == "close":
            sock.close()
        else:
            os.close(sock.detach())
        theirs.close()
        return outcome(getattr(sock, method), *args)

    same(itertools.product(range(len(calls)), ["close", "detach"], [None, 5, 0]), call)


# Connections.

def test_accept(same):
    def call(case, make):
        timeout, when = case
        with make(socket.create_server(("127.0.0.1", 0))) as listener, socket.socket() as client:
            listener.settimeout(timeout)
            timer = threading.Timer(
                0 if when == "before" else SOON / 2, client.connect, (listener.getsockname(),))
            timer.start()
            if when == "before":
                timer.join()
            result = outcome(listener.accept)
            timer.join()
            if isinstance(result[0], socket.socket):
                with result[0] as connection:
                    return (connection.gettimeout(), os.get_blocking(connection.fileno()),
                            os.get_inheritable(connection.fileno()), isinstance(result[1], tuple))
            return result

    results = same(itertools.product([None, 10, SOON, 0], ["before", "later"]), call)
    assert results[repr((None, "later"))] == (None, True, False, True)


@pytest.mark.parametrize("how", ["connect", "connect_ex"])
def test_connect(same, how):
    """Refused, again, and once more where somebody listens."""
    def call(timeout, make):
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with make(socket.socket()) as sock:
                sock.settimeout(timeout)
                addresses = [unused, unused, listener, listener, listener]
                results = [outcome(getattr(sock, how), one.getsockname()) for one in addresses]
                blocking = os.get_blocking(sock.fileno())
            return results if timeout != 0 else [], blocking

    same([None, 10, 0], call)


@pytest.mark.skipif(sys.platform != "linux", reason="others drop, where Linux lets clients wait")
def test_connect_that_waits(same, unix_path):
    def call(case, make):
        family, how, timeout, room = case
        unix = family == socket.AF_UNIX
        address = unix_path() if unix else ("127.0.0.1", 0)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family))
            listener.bind(address)
            listener.listen(0)
            for _ in range(3):
                client = stack.enter_context(socket.socket(family))
                client.setblocking(False)
                client.connect_ex(listener.getsockname())
            sock = stack.enter_context(make(socket.socket(family)))
            set_timeout(sock, timeout)
            timer = threading.Timer(SOON / 2, take, (listener, stack))
            if room:
                timer.start()
            result = outcome(getattr(sock, how), listener.getsockname())
            if room:
                timer.join()
            return result

    def take(listener, stack):
        for _ in range(1):
            stack.enter_context(listener.accept()[0])

    cases = [(socket.AF_UNIX, how, timeout, room) for how in ("connect", "connect_ex")
             for timeout, room in ((None, True), (10, True), (SOON, False), (0, False),
                                   ("SO_SNDTIMEO", False), ("SO_SNDTIMEO", True))]
    cases += [(socket.AF_INET, how, timeout, False) for how in ("connect", "connect_ex")
              for timeout in (SOON, 0, "SO_SNDTIMEO")]
    same(cases, call)


# Descriptors that leave.

@pytest.mark.parametrize("timeout", [None, SOON, 0])
def test_descriptor_blocks_as_that_of_a_socket(same, timeout):
    def call(case, make):
        ours, theirs = pair("tcp")
        sock = make(ours)
        sock.settimeout(timeout)
        theirs.send(b"x")
        outcome(sock.recv, 1)
        outcome(sock.recv, 1, socket.MSG_DONTWAIT)
        outcome(sock.send, b"x")
        raw = socket.fromfd(sock.fileno(), sock.family, sock.type)
        with theirs, sock.dup() as copy, raw:
            blocking = [os.get_blocking(one.fileno()) for one in (sock, copy, raw)]
            timeouts = [one.gettimeout() for one in (sock, copy, raw)]
            descriptor = sock.detach()
            blocking.append(os.get_blocking(descriptor))
            os.close(descriptor)
        return blocking, timeouts

    same([1], call)


def test_child_process_reads_all_of_a_request(make_green, serving):
    """A CGI script reads its standard input like that."""
    script = ("import os; data = b''\n"
              "while part := os.read(0, 100000): data += part\nprint(len(data))")

    def handle(handler):
        assert handler.request.recv(1) == b"x"
        handler.wfile.write(green.run_in_thread(
            subprocess.run, [sys.executable, "-c", script], stdin=handler.request.fileno(),
            stdout=-1, check=True).stdout)

    with serving(make_green(handle)) as address, socket.create_connection(address, 30) as client:
        client.sendall(b"x")
        for _ in range(5):
            time.sleep(0.01)
            client.sendall(bytes(100000))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).strip() == b"500000"


def test_copies_are_independent_of_the_hub(make_green, serving, connect, receive):
    """A copy that stays open after the connection was closed does not disturb the next one with
    its number."""
    copies = []

    def handle(handler):
        line = handler.rfile.readline()
        if line == b"copy\n":
            copies.append(os.dup(handler.request.fileno()))
            handler.wfile.write(handler.rfile.readline())
            return
        handler.wfile.write(line)

    server = make_green(handle)
    with serving(server):
        first = connect(server, b"copy\n")
        first.sendall(b"line\n")
        assert receive(first, 5) == b"line\n"
        assert first.recv(1) == b""  # shut down, but not closed: there is the copy
        silent = connect(server)
        before = time.process_time()
        first.close()
        assert receive(connect(server, b"other\n"), 6) == b"other\n"
        time.sleep(0.1)
        assert time.process_time() - before < 0.09
        silent.sendall(b"line\n")
        assert receive(silent, 5) == b"line\n"
        for copy in copies:
            os.close(copy)


def test_number_that_was_closed_behind_the_back(make_green, serving, connect, receive):
    """os.close() of a watched descriptor, which another socket then gets."""
    def handle(handler):
        ours, theirs = socket.socketpair()
        sock = green.cooperative(ours)
        sock.settimeout(SOON)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # watched now
        os.close(sock.fileno())
        other, peer = socket.socketpair()
        assert other.fileno() == sock.fileno()
        sock.detach()
        with theirs, peer, green.cooperative(other) as again:
            again.settimeout(10)
            timer = threading.Timer(SOON, peer.sendall, (b"data",))
            timer.start()
            handler.wfile.write(again.recv(4))

    server = make_green(handle)
    with serving(server):
        assert receive(connect(server), 4) == b"data"


def test_number_of_an_accepted_connection_that_was_closed_behind_the_back(
    make_green, serving, connect, receive
):
    """A greenlet waits for a descriptor that is closed; the next connection gets its number."""
    sockets, errors = [], []

    def wait(handler):
        ours, theirs = socket.socketpair()
        sockets.append(green.cooperative(ours))
        handler.wfile.write(b"x")
        with theirs:
            errors.append(outcome(sockets[0].recv, 1))

    def close(handler):
        sockets.append(_socket.socket.detach(sockets[0]))
        os.close(sockets[1])
        late.connect(server.server_address)

    def say_number(handler):
        handler.wfile.write(b"%03d" % handler.request.fileno())

    roles = iter([wait, close, say_number])
    server = make_green(lambda handler: next(roles)(handler))
    with serving(server), socket.socket() as late:
        late.settimeout(10)
        waiting = connect(server)
        assert receive(waiting, 1) == b"x"
        assert connect(server).recv(1) == b""
        assert receive(late, 3) == b"%03d" % sockets[1]
        assert waiting.recv(1) == b""
    assert errors[0][:2] == ("OSError", errno.EBADF)
