"""Clients that went away: what handle_error() says of them."""

import logging
import socket

import pytest

pytestmark = pytest.mark.parametrize("implementation", ["fast"], indirect=True)


@pytest.mark.parametrize("error", [
    BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError])
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer"])
def test_disconnects_are_logged_quietly(make_server, connect, started, caplog, capfd, name, error):
    def handle(self):
        raise error("gone")

    caplog.set_level(logging.DEBUG, "socketserver_fast")
    server = make_server(name, handler=handle, log_disconnects=False)
    started(server)
    client = connect(server)
    assert client.recv(9) == b""
    assert server.drain(10) is True
    [record] = caplog.records
    assert record.levelname == "DEBUG"
    assert str(client.getsockname()) in record.getMessage()
    assert error.__name__ in record.getMessage()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
@pytest.mark.parametrize("quiet", [True, False])
def test_path_of_a_client_cannot_forge_a_line(make_server, unix_path, caplog, capsys, quiet):
    def handle(self):
        raise ConnectionResetError("gone")

    caplog.set_level(logging.DEBUG, "socketserver_fast")
    server = make_server("UnixDatagramServer", handler=handle, log_disconnects=not quiet)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.bind(unix_path() + "\nforged")
        client.sendto(b"packet", server.server_address)
        server.handle_request()
    said = caplog.messages if quiet else capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("forged") or "\n" in line] == []
    assert [line for line in said if "\\nforged" in line] != []


@pytest.mark.parametrize(("quiet", "error"), [(True, ValueError), (False, BrokenPipeError)])
def test_other_errors_are_printed(make_server, connect, capsys, quiet, error):
    def handle(self):
        raise error("this one")

    attributes = {"log_disconnects": False} if quiet else {}
    server = make_server("TCPServer", handler=handle, **attributes)
    connect(server)
    server.handle_request()
    assert "this one" in capsys.readouterr().err
