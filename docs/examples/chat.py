"""A chat for telnet or netcat: `python chat.py [PORT]`. The first line is the name."""

import sys
import threading
from typing import Any

import socketserver_fast as socketserver


class ChatServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True  # open chats do not keep the program from ending
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self.lock = threading.Lock()
        self.members: dict[str, Member] = {}
        super().__init__(*args)

    def join(self, member: "Member") -> bool:
        """Whether the name was free; then everybody sees who has come."""
        with self.lock:
            if member.name in self.members:
                return False
            self.members[member.name] = member
        self.say(f"* {member.name} is here")
        return True

    def leave(self, member: "Member") -> None:
        with self.lock:
            del self.members[member.name]
        self.say(f"* {member.name} has left")

    def say(self, text: str) -> None:
        with self.lock:
            members = list(self.members.values())
        for member in members:
            member.tell(text)


class Member(socketserver.StreamRequestHandler):
    server: ChatServer
    disable_nagle_algorithm = True
    name = ""

    def handle(self) -> None:
        self.request.settimeout(600)  # nobody is silent for longer, nor slower to receive a line
        self.name = self.line()
        if not self.name or not self.server.join(self):
            self.tell("* that name is taken" if self.name else "* a name, please")
            return
        try:
            while text := self.line():
                self.server.say(f"<{self.name}> {text}")
        except OSError:
            pass  # gone without a goodbye, or silent for too long
        finally:
            self.server.leave(self)

    def line(self) -> str:
        """The next line, without its end; empty at the end. 1000 bytes are enough for anybody."""
        return self.rfile.readline(1000).decode(errors="replace").strip()

    def tell(self, text: str) -> None:
        try:
            self.wfile.write(text.encode() + b"\r\n")
        except OSError:
            pass  # its own thread will see that it is gone


def main() -> None:
    address = "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 2323
    with ChatServer(address, Member) as server:
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal(drain_timeout=2)


if __name__ == "__main__":
    main()
