"""Defines the workloads. A name `<server>_<shape>_<size>` never changes its meaning."""

import dataclasses
import fnmatch

from bench.web import exchange

MODELS = {  # name part: what the class's name begins with, and the nearest that the stdlib has
    "": ("", None),
    "threading": ("Threading", None),
    "forking": ("Forking", None),
    "pool": ("ThreadPool", "Threading"),
    "green": ("Greenlet", "Threading"),
    "prefork": ("Prefork", "Forking"),
    "preforkgreen": ("PreforkGreenlet", "Threading"),
}
KINDS = {"tcp": "TCPServer", "tls": "TCPServer", "udp": "UDPServer"}
PAGES = ("HTTPServer", "ThreadingHTTPServer", "WSGIServer", "ThreadingWSGIServer",
         "ThreadingXMLRPCServer")


# {name part: (class, transport, the class that the stdlib runs in its place)}
SERVERS = {model + ("" if model and kind == "tcp" else kind): (
    begins + ends, kind, nearest and nearest + ends)
    for model, (begins, nearest) in MODELS.items() for kind, ends in KINDS.items()}
SERVERS |= {name.lower().removesuffix("server"): (name, "tcp", None) for name in PAGES}
LARGE = 1 << 20  # a file from this size on is asked for by four clients at a time, not by 16
WEB = {"http", "http11", "static", "upload", "wsgi", "xmlrpc"}
LEAST_WORKERS = 16  # of a pool
MOST_THREADS = 2000  # with more of them a machine does little else


@dataclasses.dataclass(frozen=True)
class Workload:
    """Says what the server does and what the load generator is told."""

    name: str
    server: str  # class name
    stand_in: str | None  # the stdlib's class where it lacks `server`
    transport: str  # tcp, tls or udp
    work: str  # lines, packets, or one of WEB: what the handler does
    load: tuple[str, ...]  # options of the load generator; empty: only the idle connections
    idle: int  # connections held beside it
    size: int
    request: bytes = b""  # of HTTP: what is sent
    answer: bytes = b""  # and the body that must come back
    workers: int = LEAST_WORKERS  # max_workers of a pool: kept connections wait for none


def number(text):
    """Parse 16, 64k or 1m."""
    unit = {"k": 1024, "m": 1024 * 1024}.get(text[-1:], 1)
    return int(text[:-1] if unit > 1 else text) * unit


def shape_options(server, shape, size):
    """Return the load generator's options for a shape; KeyError for an unknown one."""
    n, connections = str(size), ["--connections", str(size)]
    files = ["--connections", "4" if size >= LARGE else "16"]
    return {
        "close": [*connections, "--close"],
        "keep": connections,
        "pipeline": [*connections, "--window", "32"],
        "crowd": ["--connections", "10"],
        "crowdclose": ["--connections", "16", "--close"],
        "bulkboth": ["--size", n, "--connections", "1" if server == "tcp" else "4"],
        "static": files,
        "upload": files,
        "echo": ["--size", n, "--window", "16"],
        "ping": ["--size", n],
        "idle": [],
    }[shape]


def handler_work(server, shape):
    """Return the kind of handler that the server gets."""
    for name in ("wsgi", "xmlrpc"):
        if server.endswith(name):
            return name
    if server.endswith("http"):
        return {"close": "http", "keep": "http11"}.get(shape, shape)
    return {"echo": "packets", "ping": "packets"}.get(shape, "lines")


def find(name):
    """Return the workload of that name; ValueError for an unknown one."""
    try:
        server, shape, size = name.split("_")
        size = number(size)
        class_name, transport, stand_in = SERVERS[server]
        options = shape_options(server, shape, size)
    except (ValueError, KeyError):
        raise ValueError(f"no workload is called {name!r}") from None
    work = handler_work(server, shape)
    if (work == "packets") != (transport == "udp"):
        raise ValueError(f"{name!r}: echo and ping are the shapes of datagram servers")
    idle = size if shape in ("idle", "crowd", "crowdclose") else 0
    if idle > MOST_THREADS:
        stand_in = None
    request, answer = exchange(work, shape, size) if work in WEB else (b"", b"")
    kept = size if shape in ("keep", "pipeline", "idle") else 0
    return Workload(name, class_name, stand_in, transport, work, tuple(options), idle, size,
                    request, answer, max(kept, LEAST_WORKERS))


PARALLEL = ("pool", "green", "prefork")
STANDARD = [
    *(f"tcp_{shape}" for shape in ("close_16", "close_100", "keep_1", "pipeline_1")),
    *(f"threading_{shape}" for shape in (
        "close_16", "close_100", "keep_1", "keep_10", "keep_100", "keep_1000", "pipeline_10",
        "crowd_1000", "crowdclose_1000", "bulkboth_64k", "bulkboth_1m")),
    *(f"forking_{shape}" for shape in ("close_16", "keep_10")),
    *(f"{server}_{shape}" for server in PARALLEL for shape in (
        "close_1", "close_16", "close_100", "keep_1", "keep_10", "pipeline_10")),
    *(f"green_{shape}" for shape in (
        "keep_100", "keep_1000", "crowd_1000", "crowd_10000", "bulkboth_64k")),
    *(f"pool_{shape}" for shape in ("keep_100", "bulkboth_64k")),
    *(f"{model}tls_{shape}" for model in ("threading", "pool", "green")
      for shape in ("close_16", "keep_10")),
    *(f"preforkgreen_{shape}" for shape in ("close_16", "keep_100")),
    *(f"{model}udp_echo_{size}" for model in ("", "threading", *PARALLEL) for size in (64, 1400)),
    "udp_ping_64",
    "forkingudp_echo_64",
    "http_close_16",
    *(f"threadinghttp_{shape}_{n}" for shape in ("close", "keep") for n in (16, 100)),
    *(f"threadinghttp_static_{size}" for size in ("1k", "1m", "10m")),
    *(f"threadinghttp_upload_{size}" for size in ("1k", "1m")),
    "wsgi_close_16",
    *(f"threadingwsgi_{shape}_16" for shape in ("close", "keep")),
    "threadingxmlrpc_close_16",
    *(f"{server}_idle_1000" for server in ("threading", "pool", "green")),
    "forking_idle_10",
    "green_idle_10000",
]
QUICK = [
    "tcp_close_16", "threading_close_16", "threading_keep_10", "pool_close_16", "green_keep_100",
    "udp_echo_64", "threadinghttp_close_16", "threadinghttp_keep_16", "threading_idle_1000",
]


def choose(patterns):
    """Return the workloads of comma-separated names or patterns (`threading_*`), in order."""
    chosen = []
    for pattern in patterns.split(","):
        chosen += fnmatch.filter(STANDARD, pattern) or [pattern]
    return [find(name) for name in dict.fromkeys(chosen)]
