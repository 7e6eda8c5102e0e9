"""README's chart and table, from the runs of `python -m bench --readme`.

`python -m bench.readme [FOLDER]` draws docs/speed.svg from FOLDER/runs.json and prints the table.
"""

import statistics
import sys
from pathlib import Path

from bench import results
from bench.report import table
from bench.runner import BASELINE, ratios

DOCS = Path(__file__).parent.parent / "docs"
CHART = ["threadinghttp_keep_16", "threadinghttp_close_16", "threadinghttp_static_10m",
         "threadingwsgi_close_16", "threading_keep_100", "udp_echo_64"]
CONTENDERS = ["stdlib", "fast", "patched", "patched_pool", "patched_greenlet",
              "uvloop_protocol", "gevent", "waitress", "floor"]
PEERS = ["uvloop_protocol", "gevent", "floor"]
HEAD = ["server, and which of the standard library it is compared with", "operations a second",
        "server CPU an operation", "uvloop Protocol", "gevent", "C"]
CLOSE, KEEP = "connect, echo a line, close; 16 in flight", "lines to and fro on {} kept connections"
WEB = [  # workload, words
    ("threadinghttp_keep_16", "ThreadingHTTPServer: GET of 1 KiB on 16 kept connections"),
    ("threadinghttp_close_16", "ThreadingHTTPServer: GET of 1 KiB over HTTP/1.0, 16 at a time"),
    ("threadinghttp_static_1k", "http.server: a file of 1 KiB, 16 clients"),
    ("threadinghttp_static_1m", "http.server: a file of 1 MiB, 4 clients"),
    ("threadinghttp_static_10m", "http.server: a file of 10 MiB, 4 clients"),
    ("threadinghttp_upload_1m", "ThreadingHTTPServer: POST of 1 MiB, 4 clients"),
    ("threadingwsgi_close_16", "wsgiref with threads: 1 KiB, 16 at a time"),
    ("threadingxmlrpc_close_16", "xmlrpc.server with threads: a call, 16 at a time"),
]
WORDS = {"patched": "", "patched_pool": ', threads="pool"',
         "patched_greenlet": ', threads="greenlet"'}
ROWS = [  # workload, contender, words
    *((workload, kind, f"{words}; patched{WORDS[kind]}") for workload, words in WEB
      for kind in WORDS),
    ("http_close_16", "patched", "HTTPServer without threads: GET of 1 KiB over HTTP/1.0; patched"),
    ("tcp_close_16", "fast", f"TCPServer: {CLOSE}"),
    ("threading_close_16", "fast", "ThreadingTCPServer: the same"),
    ("threading_keep_10", "fast", f"ThreadingTCPServer: {KEEP.format(10)}"),
    ("threading_keep_100", "fast", f"ThreadingTCPServer: {KEEP.format(100)}"),
    ("forking_close_16", "fast", f"ForkingTCPServer: {CLOSE}"),
    ("udp_echo_64", "fast", "UDPServer: echo of 64 bytes, 16 in flight"),
    ("threadingudp_echo_64", "fast", "ThreadingUDPServer: the same"),
    ("pool_close_16", "fast", f"ThreadPoolTCPServer, with ThreadingTCPServer: {CLOSE}"),
    ("green_close_16", "fast", f"GreenletTCPServer, with ThreadingTCPServer: {CLOSE}"),
    ("green_keep_10", "fast", f"GreenletTCPServer, with ThreadingTCPServer: {KEEP.format(10)}"),
    ("green_keep_100", "fast", f"GreenletTCPServer, with ThreadingTCPServer: {KEEP.format(100)}"),
    ("green_pipeline_10", "fast",
     "GreenletTCPServer, with ThreadingTCPServer: 10 connections, 32 lines in flight on each"),
    ("prefork_close_16", "fast",
     f"PreforkTCPServer, with ForkingTCPServer: {CLOSE}; all workers on one core"),
]
WORKLOADS = list(dict.fromkeys([*CHART, *(workload for workload, _, _ in ROWS), "tcp_shutdown_1"]))


def ratio(found):
    """A median, in bold where it is on the wrong side; nothing where nothing was measured."""
    return f"{statistics.median(found):.2f}" if found else ""


def bold_if(wrong, cell):
    """What a reader shall not overlook."""
    return f"**{cell}**" if cell and wrong(float(cell)) else cell


def row(group, contender, words):
    """Cells of HEAD, or None where the workload or the contender has no runs."""
    base, ours = group.get(BASELINE), group.get(contender)
    if not (base and ours and base.runs and ours.runs):
        return None
    return [
        words,
        bold_if(lambda value: value < 1, ratio(ratios(ours, base))),
        bold_if(lambda value: value > 1, ratio(ours.cpu_ratios(base))),
        *(ratio(ratios(group[peer], base)) if peer in group else "" for peer in PEERS),
    ]


def rows(measured):
    """The table's rows."""
    found = (row(measured.get(workload, {}), contender, words)
             for workload, contender, words in ROWS)
    return [cells for cells in found if cells]


def draw(measured, folder):
    """docs/speed.svg, as far as its workloads were measured."""
    from bench import plot

    return plot.draw({name: measured[name] for name in CHART if name in measured}, folder, "speed")


def main(folder=results.LATEST, into=DOCS):
    """Draw and print; returns the exit status."""
    try:
        measured = results.load(Path(folder))
    except OSError as error:
        print(f"no runs there ({error}): run `python -m bench --readme` first", file=sys.stderr)
        return 2
    for path in draw(measured, Path(into)):
        print(f"drawn: {path}", file=sys.stderr)
    print(Path(folder, "table.md").read_text().partition("\n\n| ")[0], end="\n\n")
    print(table(HEAD, rows(measured)))
    for contender, series in measured.get("tcp_shutdown_1", {}).items():
        if series.runs:
            print(f"\nshutdown() of an idle server, {contender}: "
                  f"{statistics.median(series.values()):.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
