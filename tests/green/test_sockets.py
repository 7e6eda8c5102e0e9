"""Cooperative sockets: every call parks its greenlet, with the results of a blocking socket."""

import os
import socket
import ssl
import subprocess
import threading
import time

import pytest

import socketserver_fast

green = pytest.importorskip("socketserver_fast.green", exc_type=ImportError)

LARGE = 8 << 20  # more than both sides of a connection buffer


@pytest.fixture
def running(make_green, background, connect):
    """`running(function, …)` calls each function(connected socket) in a greenlet of its own, all on
    one hub; returns their results and the client's ends of the connections."""

    def run(*functions):
        results = {}

        def handle(handler):
            number = int(handler.request.recv(1))
            try:
                results[number] = functions[number](handler.request)
            except BaseException as error:
                results[number] = error
            handler.server.done += 1
            if handler.server.done == len(functions):
                handler.server.shutdown()

        handler = type("Handler", (socketserver_fast.BaseRequestHandler,), {"handle": handle})
        server = make_green(handler, done=0)
        served = background(server.serve_forever, 10)
        clients = [connect(server, b"%d" % number) for number in range(len(functions))]

        def finish():
            served.result(20)
            for error in results.values():
                if isinstance(error, BaseException):
                    raise error
            return [results[number] for number in range(len(functions))]

        return clients, finish

    return run


def test_requests_are_cooperative_sockets(running):
    def look(sock):
        return isinstance(sock, socket.socket), sock.gettimeout(), sock.getblocking(), type(sock)

    (client,), finish = running(look)
    [(is_socket, timeout, blocking, kind)] = finish()
    assert (is_socket, timeout, blocking) == (True, None, True)
    assert kind is type(green.cooperative(client))


def receive_by(name):
    buffer = bytearray(5)
    return {
        "recv": lambda sock: sock.recv(5),
        "recv_flags": lambda sock: sock.recv(5, socket.MSG_WAITALL),
        "recv_into": lambda sock: bytes(buffer[:sock.recv_into(buffer)]),
        "recvfrom": lambda sock: sock.recvfrom(5)[0],
        "recvfrom_into": lambda sock: bytes(buffer[:sock.recvfrom_into(buffer, 5)[0]]),
        "recvmsg": lambda sock: sock.recvmsg(5)[0],
        "recvmsg_into": lambda sock: bytes(buffer[:sock.recvmsg_into([buffer])[0]]),
        "makefile": lambda sock: read_file(sock, "rb"),
        "makefile_text": lambda sock: read_file(sock, "r").encode(),
        "makefile_unbuffered": lambda sock: read_file(sock, "rb", buffering=0),
    }[name]


def read_file(sock, *args, **kwargs):
    with sock.makefile(*args, **kwargs) as file:
        return file.read(5)


@pytest.mark.parametrize("name", [
    "recv", "recv_flags", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into",
    "makefile", "makefile_text", "makefile_unbuffered"])
def test_receiving_parks(running, receive, name):
    """Another greenlet of the thread goes on meanwhile, and what comes is what was sent."""
    def answer(sock):
        sock.sendall(sock.recv(4))

    (waiting, quick), finish = running(receive_by(name), answer)
    quick.sendall(b"ping")
    assert receive(quick, 4) == b"ping"
    waiting.sendall(b"hello")
    assert finish() == [b"hello", None]


def send_by(name, tmp_path):
    data = bytes(range(256)) * (LARGE // 256)

    def send(sock):
        sent = 0
        while sent < LARGE:
            sent += sock.send(memoryview(data)[sent:])

    def sendmsg(sock):
        sent = 0
        while sent < LARGE:
            sent += sock.sendmsg([memoryview(data)[sent:], b""])

    def sendfile(sock):
        path = tmp_path / "large"
        path.write_bytes(b"skip" + data)
        with path.open("rb") as file:
            assert sock.sendfile(file, 4) == LARGE
            assert file.tell() == LARGE + 4

    def makefile(sock):
        with sock.makefile("wb") as file:
            file.write(data)

    return data, {
        "send": send,
        "sendall": lambda sock: sock.sendall(data),
        "sendall_flags": lambda sock: sock.sendall(data, socket.MSG_NOSIGNAL),
        "sendall_view": lambda sock: sock.sendall(memoryview(data).cast("I")),
        "sendmsg": sendmsg,
        "sendfile": sendfile,
        "makefile": makefile,
    }[name]


@pytest.mark.parametrize("name", [
    "send", "sendall", "sendall_flags", "sendall_view", "sendmsg", "sendfile", "makefile"])
def test_sending_parks(running, receive, tmp_path, name):
    data, function = send_by(name, tmp_path)

    def answer(sock):
        sock.sendall(sock.recv(4))

    (waiting, quick), finish = running(function, answer)
    quick.sendall(b"ping")
    assert receive(quick, 4) == b"ping"
    assert receive(waiting, LARGE) == data
    finish()


def test_accept_and_connect_park(running, receive):
    listener = green.cooperative(socket.create_server(("127.0.0.1", 0)))
    listening = threading.Event()

    def accept(sock):
        listening.set()
        connection, address = listener.accept()
        with connection:
            assert type(connection) is type(sock)
            assert address[0] == "127.0.0.1"
            connection.sendall(connection.recv(4) + b"!")

    def connect(sock):
        sock.recv(1)
        with green.create_connection(listener.getsockname(), 5) as connection:
            assert connection.gettimeout() == 5
            connection.sendall(b"ping")
            return connection.recv(10)

    (_, connecting), finish = running(accept, connect)
    assert listening.wait(10)
    connecting.sendall(b"x")
    assert finish() == [None, b"ping!"]
    listener.close()


def test_a_connection_that_somebody_else_takes_holds_up_nobody(
    make_green, serving, receive, eventually
):
    """The listener is shared, and get_request() is not the original."""

    def handle(self):
        while data := self.request.recv(99):
            self.request.sendall(data)

    handler = type("Handler", (socketserver_fast.BaseRequestHandler,), {"handle": handle})
    server = make_green(handler)
    get_request, taken = server.get_request, []
    with socket.fromfd(server.fileno(), socket.AF_INET, socket.SOCK_STREAM) as shared:

        def overtaken():
            if first_is_served and not taken:
                taken.append(shared.accept()[0])
            return get_request()

        first_is_served = []
        server.get_request = overtaken
        with serving(server) as address:
            with socket.create_connection(address, 10) as first:
                first.sendall(b"one")
                assert receive(first, 3) == b"one"
                first_is_served.append(True)
                with socket.create_connection(address, 10) as lost:
                    lost.sendall(b"to somebody else")
                    eventually(lambda: taken)
                    first.sendall(b"two")
                    assert receive(first, 3) == b"two"
                    taken[0].close()


def test_connect_refused_and_timed_out(running):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()

        def connect(sock):
            with pytest.raises(ConnectionRefusedError):
                green.create_connection(address)

        running(connect)[1]()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        filling = [socket.socket() for _ in range(4)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(full.getsockname())

        def wait(sock):
            with pytest.raises(TimeoutError):
                green.create_connection(full.getsockname(), 0.1)

        running(wait)[1]()
        for one in filling:
            one.close()


def test_timeouts_of_every_kind(running):
    def wait(sock):
        for function in (lambda: sock.recv(1), lambda: sock.recv_into(bytearray(1)),
                         lambda: sock.recvmsg(1), lambda: sock.sendall(bytes(LARGE))):
            sock.settimeout(0.02)
            started = time.monotonic()
            with pytest.raises(TimeoutError, match="timed out"):
                function()
            assert time.monotonic() - started >= 0.02
        for wrong in (-1, "soon"):
            with pytest.raises((ValueError, TypeError)):
                sock.settimeout(wrong)
        assert sock.timeout == 0.02

    running(wait)[1]()


def test_a_descriptor_goes_on_blocking_where_there_is_a_default_timeout(running):
    def connect(sock):
        with socket.create_server(("127.0.0.1", 0)) as listener, green.Socket() as client:
            client.settimeout(None)
            client.connect(listener.getsockname())
            return os.get_blocking(client.fileno())

    finish = running(connect)[1]
    socket.setdefaulttimeout(5)
    try:
        assert finish() == [True]
    finally:
        socket.setdefaulttimeout(None)


def test_close_by_another_greenlet_wakes_those_that_wait(running):
    sockets = []

    def wait(sock):
        sockets.append(sock)
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.recv(1)

    def write(sock):
        sockets.append(sock)
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.sendall(bytes(4 * LARGE))

    def close(sock):
        while len(sockets) < 2:
            green.sleep(0.001)
        for other in sockets:
            other.close()

    _, finish = running(wait, write, close)
    finish()


def test_two_greenlets_read_one_socket(running):
    shared = []

    def first(sock):
        shared.append(sock)
        data = sock.recv(1)
        while len(shared) < 5:  # the others have theirs
            green.sleep(0.001)
        return data

    def second(sock):
        while not shared:
            green.sleep(0.001)
        shared.append(None)
        data = shared[0].recv(1)
        shared.append(None)
        return data

    def third(sock):
        while len(shared) < 2:
            green.sleep(0.001)
        shared.append(None)
        data = shared[0].recv(1)
        shared.append(None)
        return data

    clients, finish = running(first, second, third)
    for byte in (b"a", b"b", b"c"):
        clients[0].sendall(byte)
    assert sorted(finish()) == [b"a", b"b", b"c"]


def test_detach_dup_and_shutdown(running, receive):
    def handle(sock):
        copy = sock.dup()
        assert type(copy) is type(sock)
        copy.sendall(b"dup")
        copy.close()
        again = type(sock)(fileno=sock.detach())
        assert sock.fileno() == -1
        again.sendall(b"detached")
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.recv(1)
        assert again.recv(1) == b"x"
        again.shutdown(socket.SHUT_WR)
        assert again.recv(1) == b""
        again.close()

    (client,), finish = running(handle)
    assert receive(client, 11) == b"dupdetached"
    client.sendall(b"x")
    assert client.recv(1) == b""
    client.shutdown(socket.SHUT_WR)
    finish()


def test_other_threads_use_the_socket_of_a_handler(running, receive):
    """There the calls block, as they would on an ordinary socket."""
    def handle(sock):
        def serve():
            sock.sendall(sock.recv(4))
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError):
                sock.recv(1)

        def in_two_threads():
            thread = threading.Thread(target=serve)
            thread.start()
            thread.join()

        green.run_in_thread(in_two_threads)

    (client,), finish = running(handle)
    client.sendall(b"ping")
    assert receive(client, 4) == b"ping"
    finish()


def test_sendall_of_a_subclass():
    class Logged(green.Socket):
        pass

    ours, peer = socket.socketpair()
    with peer, Logged(fileno=ours.detach()) as sock:
        sock.sendall(b"sent")
        assert peer.recv(9) == b"sent"


def test_helpers_outside_of_a_hub():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = green.create_connection(listener.getsockname(), 0.02)
        with connection, listener.accept()[0] as other:
            with pytest.raises(TimeoutError):
                connection.recv(1)
            other.sendall(b"hello")
            assert connection.recv(5) == b"hello"
    green.sleep(0)
    assert green.run_in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="non-negative"):
        green.sleep(-1)


def test_sleep_lets_others_run(running, receive):
    def slow(sock):
        started = time.monotonic()
        green.sleep(0.1)
        assert time.monotonic() - started >= 0.1

    def quick(sock):
        green.sleep(0)
        sock.sendall(b"quick")

    (_, client), finish = running(slow, quick)
    assert receive(client, 5) == b"quick"
    finish()


def test_run_in_thread_lets_others_run(running, receive):
    release = threading.Event()

    def slow(sock):
        assert green.run_in_thread(release.wait, 10)
        assert green.run_in_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            green.run_in_thread(divmod, 1, 0)
        return "done"

    def quick(sock):
        sock.sendall(b"quick")

    (_, client), finish = running(slow, quick)
    assert receive(client, 5) == b"quick"
    release.set()
    assert finish() == ["done", None]


def test_cooperative_leaves_other_objects_alone():
    for thing in (None, (b"packet", None), object()):
        assert green.cooperative(thing) is thing


# TLS.

@pytest.fixture
def tls_server(make_green, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def handle(handler):
        with context.wrap_socket(handler.request, server_side=True) as sock:
            with sock.makefile("rb") as file:
                for line in file:
                    sock.sendall(line)

    return make_green(handle)


def test_tls_in_a_handler_with_a_real_client(tls_server, serving, certificate, connect):
    with serving(tls_server) as (host, port), connect(tls_server):  # this one never says hello
        command = ["openssl", "s_client", "-quiet", "-verify_return_error",
                   "-CAfile", str(certificate[0]), "-connect", f"{host}:{port}"]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as client:
            try:
                for line in (b"one\n", b"two\n"):
                    client.stdin.write(line)
                    client.stdin.flush()
                    assert client.stdout.readline() == line
            finally:
                client.terminate()


def test_tls_of_many_clients_and_large_data(tls_server, serving, certificate, background, receive):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    line = os.urandom(2 << 20).replace(b"\n", b" ") + b"\n"

    def talk(address):
        with socket.create_connection(address, 20) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(line)
                assert receive(sock, len(line)) == line
                return type(sock)

    with serving(tls_server) as address:
        talks = [background(talk, address) for _ in range(4)]
        assert [talk.result(20) for talk in talks] == [ssl.SSLSocket] * 4


def test_tls_timeout_and_client_that_hangs_up(
        make_green, serving, certificate, connect, eventually):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    seen = []

    def handle(handler):
        handler.request.settimeout(0.2)
        try:
            context.wrap_socket(handler.request, server_side=True)
        except OSError as error:
            seen.append(type(error))

    server = make_green(handle)
    with serving(server):
        connect(server, b"\x16\x03").close()
        eventually(lambda: len(seen) == 1)
        silent = connect(server)
        assert silent.recv(1) == b""
    assert issubclass(seen[0], OSError)
    assert seen[1] is TimeoutError


def test_tls_made_by_get_request(make_green, serving, certificate, receive):
    """As programs do it, with the handshake left to the handler."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    def get_request(self):
        request, address = self.socket.accept()
        return context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False), address

    server = make_green(get_request=get_request)
    with serving(server) as address, socket.create_connection(address, 20):
        with socket.create_connection(address, 20) as raw:
            with trusting.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(b"line\n")
                assert receive(sock, 5) == b"line\n"


def test_stream_handler_over_tls(make_green, serving, certificate, receive):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    class Handler(socketserver_fast.StreamRequestHandler):
        def setup(self):
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

        def finish(self):
            super().finish()
            self.request.close()

    with serving(make_green(Handler)) as address, socket.create_connection(address, 20) as raw:
        with trusting.wrap_socket(raw, server_hostname="localhost") as sock:
            sock.sendall(b"line\n")
            assert receive(sock, 5) == b"line\n"


@pytest.mark.parametrize("how", ["wrapped_listener", "get_request", "get_request_of_listener"])
def test_silent_client_of_a_tls_handshake_in_accept(
        make_green, serving, certificate, connect, receive, background, how):
    """Others connect and are served meanwhile, and the end does not wait for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))

    def wrap_in_get_request(self):
        request, address = self.socket.accept()
        return context.wrap_socket(request, server_side=True), address

    hooks = {"get_request": wrap_in_get_request,
             "get_request_of_listener": lambda self: self.socket.accept()}
    server = make_green(**({"get_request": hooks[how]} if how in hooks else {}))
    if how != "get_request":
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served = background(server.serve_forever)
    silent = [connect(server) for _ in range(3)]
    for _ in range(3):
        with socket.create_connection(server.server_address, 20) as raw:
            with trusting.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(b"line\n")
                assert receive(sock, 5) == b"line\n"
    connect(server, b"this is no TLS\n").close()
    server.shutdown()
    served.result(10)
    for client in silent:
        assert client.recv(1) == b""
    server.server_close()


def test_tls_client_that_connects_after_it_was_wrapped(running, certificate):
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = green.cooperative(socket.create_server(("127.0.0.1", 0)))

    def serve(sock):
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.sendall(connection.recv(4))
            plain = connection.unwrap()
            assert os.get_blocking(plain.fileno())
            plain.sendall(plain.recv(5))

    def talk(sock):
        with trusting.wrap_socket(green.Socket(), server_hostname="localhost") as connection:
            connection.connect(listener.getsockname())
            connection.settimeout(5)
            assert connection.gettimeout() == 5
            connection.sendall(b"ping")
            answer = connection.recv(4)
            plain = connection.unwrap()
            plain.sendall(b"plain")
            return answer + plain.recv(5)

    _, finish = running(serve, talk)
    assert finish() == [None, b"pingplain"]
    listener.close()
