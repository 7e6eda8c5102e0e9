"""The workloads: a name `<server>_<shape>_<size>` says all of it, and never changes its meaning."""

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
KINDS = {"tcp": "TCPServer", "unix": "UnixStreamServer", "udp": "UDPServer",
         "unixgram": "UnixDatagramServer"}


PAGES = ("HTTPServer", "ThreadingHTTPServer", "WSGIServer", "ThreadingWSGIServer",
         "ThreadingXMLRPCServer")


def servers():
    """{name part: (class, how it is reached, the class that the stdlib runs in its place)}."""
    named = {
        model + ("" if model and kind == "tcp" else kind): (
            begins + ends, kind, nearest and nearest + ends
        )
        for model, (begins, nearest) in MODELS.items() for kind, ends in KINDS.items()
    }
    named |= {name.lower().removesuffix("server"): (name, "tcp", None) for name in PAGES}
    return named | {"package": ("none", "tcp", None)}  # no server: what an import costs


SERVERS = servers()
SYNCHRONOUS = {"tcp", "unix", "http", "wsgi"}
LARGE = 1 << 20  # a file from this size on is asked for by four clients at a time, not by 16
WEB = {"http", "http11", "static", "upload", "wsgi", "xmlrpc"}
LEAST_WORKERS = 16  # of a pool
HELD = {"idle", "open", "crowd", "crowd100", "crowdclose"}
MOST_THREADS = 2000  # with more of them a machine does little else
OWN_MEASURE = {"idle", "open", "start", "shutdown", "drain", "import"}


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the server does and what the load generator is told."""

    name: str
    server: str  # class name
    stand_in: str | None  # the stdlib's class where it lacks `server`
    transport: str  # tcp, unix, udp, unixgram
    measure: str  # "load" or one of OWN_MEASURE: see measures.py
    work: str  # lines, sleep, bulk, packets, or one of WEB: what the handler does
    load: tuple[str, ...]  # options of the load generator
    size: int
    request: bytes = b""  # of HTTP: what is said
    answer: bytes = b""  # and the body that must come back
    workers: int = LEAST_WORKERS  # max_workers of a pool: kept connections wait for none


def number(text):
    """16, 64k or 1m."""
    unit = {"k": 1024, "m": 1024 * 1024}.get(text[-1:], 1)
    return int(text[:-1] if unit > 1 else text) * unit


def shape_options(server, shape, size):
    """The load generator's options for a shape, or KeyError."""
    several = "1" if server in SYNCHRONOUS else "4"
    echo = ["--size", str(size), "--window", "8" if "unixgram" in server else "16"]
    one = ["--operations", "1", "--warm-up", "0"]
    files = ["--connections", "4" if size >= LARGE else "16"]
    return {
        "close": ["--connections", str(size), "--per-connection", "1"],
        "keep": ["--connections", str(size)],
        "sleep": ["--connections", str(size)],
        "pipeline": ["--connections", str(size), "--window", "32"],
        "crowd": ["--connections", "10", "--idle", str(size)],
        "crowd100": ["--connections", "100", "--idle", str(size)],
        "crowdclose": ["--connections", "16", "--per-connection", "1", "--idle", str(size)],
        "slow": ["--connections", "10", "--slow", str(size)],
        "bulkup": ["--traffic", "up", "--size", str(size), "--connections", several],
        "bulkdown": ["--traffic", "down", "--size", str(size), "--connections", several],
        "bulkboth": ["--traffic", "echo", "--size", str(size), "--connections", several],
        "static": files,
        "upload": files,
        "echo": echo,
        "ping": ["--size", str(size)],
        "idle": ["--connections", "0", "--idle", str(size), "--hold"],
        "open": ["--connections", "0", "--idle", str(size), "--hold"],
        "start": one,
        "shutdown": one,
        "drain": one,
        "import": one,
    }[shape]


def handler_work(server, shape):
    """Which handler the server gets."""
    if server.endswith(("wsgi", "xmlrpc")):
        return "wsgi" if server.endswith("wsgi") else "xmlrpc"
    if server.endswith("http"):
        return {"close": "http", "keep": "http11"}.get(shape, shape)
    if shape in ("echo", "ping"):
        return "packets"
    return {"bulkup": "bulk", "bulkdown": "bulk", "sleep": "sleep"}.get(shape, "lines")


def workers_for(shape, size):
    """How many workers a pool has."""
    kept = shape in ("keep", "pipeline", "sleep", "drain", "idle", "open")
    return max(size, LEAST_WORKERS) if kept else LEAST_WORKERS


def find(name):
    """The workload of that name; ValueError when the name means nothing."""
    try:
        server, shape, size = name.split("_")
        size = number(size)
        class_name, transport, stand_in = SERVERS[server]
        options = shape_options(server, shape, size)
    except (ValueError, KeyError):
        raise ValueError(f"no workload is called {name!r}") from None
    if shape in HELD and size > MOST_THREADS and "Threading" in (stand_in or ""):
        stand_in = None
    work = handler_work(server, shape)
    if (work == "packets") != (transport in ("udp", "unixgram")):
        raise ValueError(f"{name!r}: echo and ping are the shapes of datagram servers")
    request = answer = b""
    if work in WEB:
        options = ["--traffic", "http", *options]
        request, answer = exchange(work, shape, size)
    measure = shape if shape in OWN_MEASURE else "load"
    return Workload(name, class_name, stand_in, transport, measure, work, tuple(options), size,
                    request, answer, workers_for(shape, size))


CONNECTIONS = (1, 10, 16, 100, 1000)
PARALLEL = ("pool", "green", "prefork")
BODIES = [f"bulk{way}_{size}" for way in ("up", "down", "both") for size in ("1k", "64k", "1m")]
STANDARD = [
    *(f"tcp_close_{n}" for n in CONNECTIONS),
    "tcp_keep_1",
    "tcp_pipeline_1",
    *(f"tcp_{shape}" for shape in BODIES),
    *(f"threading_close_{n}" for n in CONNECTIONS),
    *(f"threading_keep_{n}" for n in (1, 10, 100, 1000)),
    *(f"threading_{shape}" for shape in (
        "pipeline_10", "crowd_1000", "crowdclose_1000", "slow_100", "sleep_64", *BODIES)),
    *(f"forking_{shape}" for shape in ("close_1", "close_16", "keep_10")),
    *(f"{server}_close_{n}" for server in PARALLEL for n in CONNECTIONS),
    *(f"{server}_keep_{n}" for server in PARALLEL for n in (1, 10)),
    *(f"{server}_pipeline_10" for server in PARALLEL),
    *(f"green_{shape}" for shape in (
        "keep_100", "keep_1000", "crowd_1000", "crowd100_10000", "slow_100", *BODIES)),
    "pool_sleep_64",
    "pool_bulkboth_64k",
    *(f"preforkgreen_{shape}" for shape in ("close_16", "keep_100")),
    *(f"unix_{shape}" for shape in ("close_16", "keep_1", "bulkboth_64k")),
    *(f"{model}unix_{shape}" for model in ("threading", "pool", "green")
      for shape in ("close_16", "keep_10")),
    *(f"{model}unix_close_16" for model in ("forking", "prefork")),
    *(f"{model}udp_echo_{size}" for model in ("", "threading", *PARALLEL) for size in (64, 1400)),
    "udp_ping_64",
    "forkingudp_echo_64",
    *(f"{model}unixgram_echo_64" for model in ("", "threading", "forking", *PARALLEL)),
    "http_close_16",
    *(f"threadinghttp_{shape}_{n}" for shape in ("close", "keep") for n in (16, 100)),
    *(f"threadinghttp_static_{size}" for size in ("1k", "1m", "10m")),
    *(f"threadinghttp_upload_{size}" for size in ("1k", "1m")),
    "wsgi_close_16",
    *(f"threadingwsgi_{shape}_16" for shape in ("close", "keep")),
    "threadingxmlrpc_close_16",
    *(f"{server}_idle_1000" for server in ("threading", "pool", "green")),
    "forking_idle_10",
    *(f"green_{shape}_10000" for shape in ("idle", "open")),
    *(f"{server}_shutdown_1" for server in ("tcp", "threading", *PARALLEL)),
    *(f"{server}_drain_200" for server in ("threading", "pool", "green")),
    *(f"{server}_start_1" for server in ("tcp", *PARALLEL)),
    "package_import_1",
]
QUICK = [
    "tcp_close_16", "threading_close_16", "threading_keep_10", "pool_close_16", "green_keep_100",
    "udp_echo_64", "threadinghttp_close_16", "threadinghttp_keep_16", "threading_idle_1000",
    "tcp_shutdown_1", "package_import_1",
]


def choose(patterns):
    """The workloads that comma-separated names or patterns (`threading_*`) mean, in order."""
    chosen = []
    for pattern in patterns.split(","):
        chosen += fnmatch.filter(STANDARD, pattern) or [pattern]
    return [find(name) for name in dict.fromkeys(chosen)]
