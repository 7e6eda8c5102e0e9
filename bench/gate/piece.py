"""Do pieces of a request, to be counted from outside or from inside.

`python -m bench.gate.piece LIBRARY NAME=LOOPS ...` runs under callgrind;
`python -m bench.gate.piece LIBRARY --blocks NAME ...` prints counts of memory blocks as JSON.
"""

import gc
import json
import socket
import sys

from bench.contenders import library_of
from bench.pieces import PIECES

REQUESTS = 1000


def run_pieces(library, arguments):
    """Each piece as often as it is told."""
    for argument in arguments:
        name, loops = argument.split("=")
        PIECES[name](library)(int(loops))


def held_in_handler(library):
    """Memory blocks that one request holds while its handler runs."""
    seen = []

    class Handler(library.StreamRequestHandler):
        def handle(self):
            seen.append(sys.getallocatedblocks())

    here, there = socket.socketpair()
    with here, there:
        for _ in range(REQUESTS):  # the last is free of what the first ones leave in caches
            seen.clear()
            before = sys.getallocatedblocks()
            Handler(here, None, None)
    return seen[0] - before


def left_by(run):
    """Memory blocks that REQUESTS requests leave behind."""
    run(REQUESTS)
    gc.collect()
    before = sys.getallocatedblocks()
    run(REQUESTS)
    gc.collect()
    return sys.getallocatedblocks() - before


def blocks(library, names):
    """All counts of memory blocks."""
    left = {f"blocks left by {REQUESTS} x {name}": left_by(PIECES[name](library))
            for name in names}
    return {"blocks held by a request": held_in_handler(library), **left}


def main(name, *arguments):
    """Run, or count and print."""
    library = library_of(name)
    if arguments[:1] == ("--blocks",):
        print(json.dumps(blocks(library, arguments[1:])))
    else:
        run_pieces(library, arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
