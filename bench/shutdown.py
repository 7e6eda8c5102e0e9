"""How long shutdown() takes: `python -m bench.shutdown CONTENDER CLASS` prints JSON.

The times are milliseconds. The stdlib notices a shutdown at the end of its poll interval of 0.5 s,
so it is asked at moments spread evenly over the interval.
"""

import json
import sys
import threading
import time

from bench.contenders import Unavailable
from bench.contenders.classes import lines, server_class
from bench.libraries import library_of
from bench.serve import Task

MOMENTS = [0.05 + 0.5 * i / 8 for i in range(8)]  # seconds after the start of serve_forever


def shutdown_ms(server, moment):
    """Serve, wait for the moment, shut down."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    time.sleep(moment)
    begin = time.perf_counter()
    server.shutdown()
    took = time.perf_counter() - begin
    thread.join()
    return took * 1e3


def main(contender, name):
    """Print the times, or why there are none."""
    try:
        library = library_of(contender)
        cls = server_class(library, name)
    except (ImportError, Unavailable) as missing:
        print(json.dumps({"unavailable": str(missing)}))
        return
    task = Task(name, "tcp", "lines")
    times = []
    for moment in MOMENTS:
        with cls(task.address, lines(library, task)) as server:
            times.append(shutdown_ms(server, moment))
    print(json.dumps(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
