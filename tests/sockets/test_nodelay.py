"""TCP_NODELAY comes by itself, when a handler writes twice without a read in between; and only
then, and never where the handler or its class says False."""

import io
import itertools
import socket
import socketserver as stdlib

import pytest

import socketserver_fast
from socketserver_fast._sockets import wait

native = pytest.mark.skipif(not wait.native, reason="sees its reads in a native build only")
BASES = ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer", "GreenletTCPServer"]


@pytest.fixture(autouse=True)
def patched():
    """The stdlib's classes are patched."""
    socketserver_fast.patch()
    yield
    socketserver_fast.unpatch()


@pytest.fixture(params=[*BASES, "stdlib.TCPServer", "stdlib.ThreadingTCPServer"])
def module_and_base(request):
    """Each server class, with the module of its handlers."""
    if request.param.startswith("stdlib."):
        return stdlib, getattr(stdlib, request.param.removeprefix("stdlib."))
    return socketserver_fast, getattr(socketserver_fast, request.param)


def has_nodelay(connection):
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def handler_of(module, **attributes):
    """A handler that writes to each request as many times as it says, and then notes on its server
    whether TCP_NODELAY is set."""

    def handle(self):
        for line in self.rfile:
            self.server.seen.append(has_nodelay(self.connection))
            for _ in range(int(line)):
                self.wfile.write(b"x")
                if not hasattr(self.wfile, "_sock"):
                    self.wfile.flush()
                self.server.seen.append(has_nodelay(self.connection))

    return type("Handler", (module.StreamRequestHandler,), {"handle": handle, **attributes})


def seen_of(server, serving, receive, *counts):
    """Ask for so many writes, request by request; return what the handler saw of each."""
    server.seen = []
    found = []
    with serving(server) as address, socket.create_connection(address, timeout=10) as client:
        for count in counts:
            client.sendall(b"%d\n" % count)
            receive(client, count)
            found.append(count + 1)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    seen = iter(server.seen)
    return [list(itertools.islice(seen, count)) for count in found]


def serve(module_and_base, serving, receive, *counts, **attributes):
    module, base = module_and_base
    server = base(("127.0.0.1", 0), handler_of(module, **attributes))
    return seen_of(server, serving, receive, *counts)


@native
def test_one_write_to_a_request_never_sets_it(module_and_base, serving, receive):
    assert serve(module_and_base, serving, receive, 1, 1, 1) == [[False, False]] * 3


@native
def test_two_writes_to_the_first_request_set_it_when_it_reads_again(
    module_and_base, serving, receive
):
    seen = serve(module_and_base, serving, receive, 2, 1)
    assert seen == [[False, False, False], [True, True]]


@native
def test_the_second_write_to_a_later_request_sets_it(module_and_base, serving, receive):
    seen = serve(module_and_base, serving, receive, 1, 2)
    assert seen == [[False, False], [False, False, True]]


@native
def test_a_third_write_sets_it(module_and_base, serving, receive):
    assert serve(module_and_base, serving, receive, 4) == [[False, False, False, True, True]]


def test_true_sets_it_at_once(module_and_base, serving, receive):
    seen = serve(module_and_base, serving, receive, 1, disable_nagle_algorithm=True)
    assert seen == [[True, True]]


def test_a_class_that_says_false_never_gets_it(module_and_base, serving, receive):
    seen = serve(module_and_base, serving, receive, 3, 3, disable_nagle_algorithm=False)
    assert not any(itertools.chain(*seen))


def refuse_in_init(self, *args):
    self.disable_nagle_algorithm = False
    next(cls for cls in type(self).__mro__[1:] if "__init__" in vars(cls)).__init__(self, *args)


def refuse_in_setup(self):
    self.disable_nagle_algorithm = False
    next(cls for cls in type(self).__mro__[1:] if "setup" in vars(cls)).setup(self)


@pytest.mark.parametrize("method", [{"__init__": refuse_in_init}, {"setup": refuse_in_setup}])
def test_an_instance_that_says_false_never_gets_it(module_and_base, serving, receive, method):
    # The first one leaves what is remembered of classes as a handler without a decision does.
    assert serve(module_and_base, serving, receive, 3)[0][-1]
    assert not any(itertools.chain(*serve(module_and_base, serving, receive, 3, 3, **method)))


def test_a_class_may_decide_later(module_and_base, serving, receive):
    module, base = module_and_base
    handler = handler_of(module)
    assert seen_of(base(("127.0.0.1", 0), handler), serving, receive, 3)[0][-1]
    handler.disable_nagle_algorithm = False
    assert not any(seen_of(base(("127.0.0.1", 0), handler), serving, receive, 3)[0])


@native
@pytest.mark.parametrize("size", [-1, 100])
def test_a_buffered_wfile_gets_it_with_its_second_send(module_and_base, serving, receive, size):
    seen = serve(module_and_base, serving, receive, 1, 2, 1, wbufsize=size)
    assert seen == [[False, False], [False, False, True], [True, True]]


@pytest.mark.parametrize("size", [-1, 100])
def test_a_buffered_wfile_that_refuses_never_gets_it(module_and_base, serving, receive, size):
    seen = serve(
        module_and_base, serving, receive, 2, 2, wbufsize=size, disable_nagle_algorithm=False
    )
    assert not any(itertools.chain(*seen))


@pytest.mark.parametrize("module", [stdlib, socketserver_fast])
def test_a_buffered_wfile_is_the_file_that_it_was(module):
    ours, peer = socket.socketpair()
    with ours, peer:
        handler = handler_of(module, wbufsize=-1, handle=lambda self: None, finish=lambda _: 0)
        wfile = handler(ours, None, None).wfile
        assert type(wfile) is io.BufferedWriter
        assert isinstance(wfile.raw, socket.SocketIO)
        assert wfile.write(b"one") == 3
        wfile.flush()
        wfile.write(b"two")
        wfile.flush()  # a Unix socket has no such option
        assert peer.recv(100) == b"onetwo"
        wfile.close()
        assert wfile.raw.closed


class Wrapped(socket.socket):
    """Is not a plain socket: like an SSLSocket, it is written to by its methods."""


@pytest.mark.parametrize("module", [stdlib, socketserver_fast])
def test_a_socket_with_methods_of_its_own_gets_it_with_the_second_write(module, serving, receive):
    def get_request(self):
        connection, address = base.get_request(self)
        return Wrapped(fileno=connection.detach()), address

    base = module.TCPServer
    server = type("Server", (base,), {"get_request": get_request})
    server = server(("127.0.0.1", 0), handler_of(module))
    assert seen_of(server, serving, receive, 1, 2) == [[False, False], [False, True, True]]


def test_unix_sockets_are_left_alone(make_green, unix_path):
    pair = socket.socketpair()
    with pair[0], pair[1]:
        handler = socketserver_fast.StreamRequestHandler(pair[0], None, None)
        for _ in range(4):
            assert handler.wfile.write(b"x") == 1
        assert pair[1].recv(100) == b"xxxx"


@native
def test_a_file_counts_as_a_write(serving, receive, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    seen = []

    class Handler(socketserver_fast.StreamRequestHandler):
        def handle(self):
            for _ in self.rfile:
                self.wfile.write(b"head")
                with path.open("rb") as file:
                    socketserver_fast.send_file(self.wfile, file)
                seen.append(has_nodelay(self.connection))

    with (
        socketserver_fast.TCPServer(("127.0.0.1", 0), Handler) as server,
        serving(server) as address,
        socket.create_connection(address, timeout=10) as client,
    ):
        for _ in range(2):
            client.sendall(b"\n")
            receive(client, 100_004)
    assert seen == [False, True]


@native
def test_a_client_that_is_gone_is_no_error_before_the_write(serving):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        client.close()
    handler = socketserver_fast.StreamRequestHandler.__new__(
        socketserver_fast.StreamRequestHandler
    )
    handler.request = server
    handler.setup()
    server.shutdown(socket.SHUT_WR)
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            handler.wfile.write(b"x")
    handler.finish()
    server.close()
