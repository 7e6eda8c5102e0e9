"""Binds a server to its address as dual_stack, unix_mode and owns_unix_path say.

    use_family    before the socket is made
    bind          instead of socket.bind()
    remove        before the socket is closed
"""

import contextlib
import errno
import io
import os
import socket
import stat
import time

LONGEST_LOCK = 5.0  # seconds to wait for another server that binds in the same folder
RETRY = 0.01  # seconds


def use_family(server):
    """Set a dual_stack server's family to AF_INET6. OSError if the system has no such sockets."""
    if server.address_family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError("dual_stack is for IP servers: set it to False")
    if not socket.has_dualstack_ipv6():
        raise OSError(errno.EAFNOSUPPORT, "this system has no sockets for IPv6 and IPv4 at once: "
                      "set dual_stack to False, and address_family to the one that it has")
    server.address_family = socket.AF_INET6


def bind(server):
    """Call server.socket.bind(server.server_address), and do what the attributes ask for."""
    if server.dual_stack:
        _accept_both(server)
    if server.unix_mode is None and not server.owns_unix_path:
        server.socket.bind(server.server_address)
        return
    _check(server)
    if not server.owns_unix_path or _is_abstract(server.server_address):
        _bind_with_mode(server)
        return
    with _locked(os.path.dirname(server.server_address) or os.curdir):
        _remove_stale(server)
        _bind_with_mode(server)
        if server.socket_type != socket.SOCK_DGRAM:
            # Until it listens, the next server with this path would take it for stale.
            server.socket.listen(server.request_queue_size)


def _accept_both(server):
    host = server.server_address[0]
    if host not in ("", "::"):
        raise ValueError(f'a dual_stack server has the host "" or "::", all addresses of the '
                         f'machine, not {host!r}')
    server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def _check(server):
    """Raise ValueError for attributes that the address cannot have."""
    mode = server.unix_mode
    if server.address_family != getattr(socket, "AF_UNIX", None):
        raise ValueError("unix_mode and owns_unix_path are for servers of AF_UNIX")
    if mode is None:
        return
    if not isinstance(mode, int) or not 0 <= mode <= 0o777:
        raise ValueError(f"unix_mode must be permissions such as 0o660, not {mode!r}")
    if _is_abstract(server.server_address):
        raise ValueError("an abstract address has no permissions, everybody may connect to it: "
                         "set unix_mode to None, or take a path")


def _is_abstract(address):
    return os.fsencode(address)[:1] in (b"", b"\0")


def _bind_with_mode(server):
    """Bind so that the file never has more permissions than unix_mode."""
    if server.unix_mode is None:
        _bind_and_remember(server)
        return
    with _restricted(server.socket, server.unix_mode):
        _bind_and_remember(server)
    os.chmod(server.server_address, server.unix_mode)  # what the umask took away


@contextlib.contextmanager
def _restricted(sock, mode):
    """Have bind() make a file with no more than these permissions."""
    umask = None
    try:
        os.fchmod(sock.fileno(), mode)  # on Linux the file gets the permissions of the socket
    except OSError:
        umask = os.umask(~mode & 0o777)
    try:
        yield
    finally:
        if umask is not None:
            os.umask(umask)


def _bind_and_remember(server):
    server.socket.bind(server.server_address)
    if server.owns_unix_path and not _is_abstract(server.server_address):
        vars(server)["_own_path"] = _OwnPath(server.server_address)


def _remove_stale(server):
    """Remove the file of a server that is gone. Anything else there makes bind() fail."""
    path = server.server_address
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, server.socket_type) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass  # busy, of another type, or not ours to ask


@contextlib.contextmanager
def _locked(folder):
    """Let one server at a time look for a stale file in a folder and bind there."""
    import fcntl

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LONGEST_LOCK
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY)
        yield
    finally:
        os.close(fd)


class _OwnPath:
    """The file of a Unix socket that this process has bound.

    Another server may have replaced it by the time that it is removed. On Linux the file is held
    open until then, so that its inode number is not used again; elsewhere the birth time differs.
    """

    def __init__(self, path):
        self.path = os.path.abspath(path)
        self.process = os.getpid()
        self.identity = self.look()
        self.file = None
        if hasattr(os, "O_PATH"):
            self.file = io.FileIO(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))

    def look(self):
        """Return what identifies the file that is there now."""
        info = os.lstat(self.path)
        return info.st_dev, info.st_ino, getattr(info, "st_birthtime", None)

    def remove(self):
        """Remove the file if it is still the one that was bound, and by this process."""
        with contextlib.suppress(FileNotFoundError):
            if os.getpid() == self.process and self.look() == self.identity:
                os.unlink(self.path)
        if self.file is not None:
            self.file.close()


def remove(server):
    """Remove the file that bind() has made, if the server owns it."""
    own = vars(server).pop("_own_path", None)
    if own is not None:
        own.remove()
