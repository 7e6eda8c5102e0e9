"""Lets the commands of the documentation run as they stand: free ports instead of those they name.

It is on the PYTHONPATH of test_commands.py, so that it works in child processes as well. Which port
stands for which is written to the file `ports` of the folder that a command begins in.
"""

import os
import pathlib
import socket

DOCUMENTED = {5000, 5514, 8000, 8080, 9100}
NOTES = os.environ["DOCUMENTED_PORTS"]
original = socket.socket.bind


def bind(self, address):
    """socket.bind() for any port but the one that was asked for."""
    if not isinstance(address, tuple) or address[1] not in DOCUMENTED:
        return original(self, address)
    original(self, (address[0], 0, *address[2:]))
    with pathlib.Path(NOTES).open("a") as notes:
        print(address[1], self.getsockname()[1], file=notes)
    return None


socket.socket.bind = bind
