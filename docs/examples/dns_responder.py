"""Answers DNS questions for IPv4 addresses: `python dns_responder.py PORT NAME=ADDRESS...`."""

import socket
import struct
import sys

import socketserver_fast as socketserver

HEADER = struct.Struct("!6H")  # id, flags, and how many questions, answers, authorities, others
ANSWER = struct.Struct("!HHHLH4s")  # name (as a pointer), type, class, seconds, length, address
A, IN = 1, 1
QUERY_BITS, ANSWER_BITS = 0x7900, 0x8400  # opcode and recursion desired; an authoritative answer
FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED = 1, 3, 4


class Responder(socketserver.UDPServer):
    max_packet_size = 512  # RFC 1035, section 4.2.1
    addresses: dict[str, bytes]


class Question(socketserver.DatagramRequestHandler):
    server: Responder

    def handle(self) -> None:
        if len(self.packet) < HEADER.size or self.packet[2] & 0x80:
            return  # not a question; an answer to it might go round in circles
        try:
            name, kind, end = question(self.packet)
        except (IndexError, struct.error, UnicodeDecodeError):
            self.answer(FORMAT_ERROR, b"")
            return
        asked = self.packet[HEADER.size : end]
        address = self.server.addresses.get(name)
        if self.packet[2] & 0x78:
            self.answer(NOT_IMPLEMENTED, b"")
        elif address is None:
            self.answer(NO_SUCH_NAME, asked)
        elif kind == (A, IN):
            record = ANSWER.pack(0xC000 | HEADER.size, A, IN, 60, 4, address)
            self.answer(0, asked, record)
        else:
            self.answer(0, asked)  # there is such a name, without such a record

    def answer(self, code: int, asked: bytes, *records: bytes) -> None:
        identity, flags = struct.unpack_from("!HH", self.packet)
        flags = flags & QUERY_BITS | ANSWER_BITS | code
        self.wfile.write(HEADER.pack(identity, flags, bool(asked), len(records), 0, 0))
        self.wfile.write(asked + b"".join(records))

    def finish(self) -> None:
        if self.wfile.tell():  # without this, silence would be an empty packet
            super().finish()


def question(packet: bytes) -> tuple[str, tuple[int, int], int]:
    """The name that the first question asks for, its type and class, and where it ends."""
    labels, at = [], HEADER.size
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    kind, category = struct.unpack_from("!HH", packet, at + 1)
    return ".".join(labels).lower(), (kind, category), at + 5


def main() -> None:
    pairs = [pair.split("=") for pair in sys.argv[2:]]
    with Responder(("127.0.0.1", int(sys.argv[1])), Question) as server:
        server.addresses = {name.lower(): socket.inet_aton(address) for name, address in pairs}
        print("listening on", *server.server_address, flush=True)
        server.serve_until_signal()


if __name__ == "__main__":
    main()
