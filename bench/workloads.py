"""The workloads: a name `<server>_<shape>_<size>` says all of it, and never changes its meaning."""

import dataclasses
import fnmatch

# Name part: the class of the stdlib or of the package, how it is reached, and the class that the
# stdlib runs against a class it lacks.
SERVERS = {
    "tcp": ("TCPServer", "tcp", None),
    "threading": ("ThreadingTCPServer", "tcp", None),
    "forking": ("ForkingTCPServer", "tcp", None),
    "pool": ("ThreadPoolTCPServer", "tcp", "ThreadingTCPServer"),
    "prefork": ("PreforkTCPServer", "tcp", "ForkingTCPServer"),
    "green": ("GreenletTCPServer", "tcp", "ThreadingTCPServer"),
    "unix": ("UnixStreamServer", "unix", None),
    "threadingunix": ("ThreadingUnixStreamServer", "unix", None),
    "forkingunix": ("ForkingUnixStreamServer", "unix", None),
    "udp": ("UDPServer", "udp", None),
    "threadingudp": ("ThreadingUDPServer", "udp", None),
    "forkingudp": ("ForkingUDPServer", "udp", None),
    "unixgram": ("UnixDatagramServer", "unixgram", None),
    "threadingunixgram": ("ThreadingUnixDatagramServer", "unixgram", None),
    "forkingunixgram": ("ForkingUnixDatagramServer", "unixgram", None),
    "http": ("HTTPServer", "tcp", None),
    "threadinghttp": ("ThreadingHTTPServer", "tcp", None),
    "wsgi": ("WSGIServer", "tcp", None),
    "package": ("none", "tcp", None),  # no server: what an import costs
}
SYNCHRONOUS = {"tcp", "unix", "http", "wsgi"}
GET = ["--traffic", "http", "--size", "1024"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the server does and what the load generator is told."""

    name: str
    server: str  # class name
    stand_in: str | None  # the stdlib's class where it lacks `server`
    transport: str  # tcp, unix, udp, unixgram
    measure: str  # load, idle, start, shutdown, import: see measures.py
    work: str  # lines, bulk, packets, http, wsgi: what the handler does
    load: tuple[str, ...]  # options of the load generator


def number(text):
    """16, 64k or 1m."""
    unit = {"k": 1024, "m": 1024 * 1024}.get(text[-1:], 1)
    return int(text[:-1] if unit > 1 else text) * unit


def shape_options(server, shape, size):
    """The load generator's options for a shape, or KeyError."""
    several = "1" if server in SYNCHRONOUS else "4"
    echo = ["--size", str(size), "--window", "8" if "unixgram" in server else "16"]
    one = ["--operations", "1", "--warm-up", "0"]
    return {
        "close": ["--connections", str(size), "--per-connection", "1"],
        "keep": ["--connections", str(size)],
        "pipeline": ["--connections", str(size), "--window", "32"],
        "crowd": ["--connections", "10", "--idle", str(size)],
        "slow": ["--connections", "10", "--slow", str(size)],
        "bulkup": ["--traffic", "up", "--size", str(size), "--connections", several],
        "bulkdown": ["--traffic", "down", "--size", str(size), "--connections", several],
        "bulkboth": ["--traffic", "echo", "--size", str(size), "--connections", several],
        "echo": echo,
        "idle": ["--connections", "0", "--idle", str(size), "--hold"],
        "start": one,
        "shutdown": one,
        "import": one,
    }[shape]


def handler_work(server, shape):
    """Which handler the server gets."""
    if server.endswith(("http", "wsgi")):
        return "wsgi" if server == "wsgi" else "http"
    if shape == "echo":
        return "packets"
    return "bulk" if shape in ("bulkup", "bulkdown") else "lines"


def find(name):
    """The workload of that name; ValueError when the name means nothing."""
    try:
        server, shape, size = name.split("_")
        class_name, transport, stand_in = SERVERS[server]
        options = shape_options(server, shape, number(size))
    except (ValueError, KeyError):
        raise ValueError(f"no workload is called {name!r}") from None
    work = handler_work(server, shape)
    if (work == "packets") != (transport in ("udp", "unixgram")):
        raise ValueError(f"{name!r}: datagram servers take the shape echo, and only they do")
    if work in ("http", "wsgi"):
        options = GET + options
    measure = shape if shape in ("idle", "start", "shutdown", "import") else "load"
    return Workload(name, class_name, stand_in, transport, measure, work, tuple(options))


CONNECTIONS = (1, 10, 16, 100, 1000)
PARALLEL = ("pool", "green", "prefork")
STANDARD = [
    *(f"tcp_close_{n}" for n in CONNECTIONS),
    "tcp_keep_1",
    "tcp_pipeline_1",
    *(f"tcp_bulk{way}_{size}" for way in ("up", "down", "both") for size in ("1k", "64k", "1m")),
    *(f"threading_close_{n}" for n in CONNECTIONS),
    *(f"threading_keep_{n}" for n in (1, 10, 100, 1000)),
    "threading_pipeline_10",
    "threading_crowd_1000",
    "threading_slow_100",
    "threading_bulkboth_64k",
    *(f"forking_{shape}" for shape in ("close_1", "close_16", "keep_10")),
    *(f"{server}_close_{n}" for server in PARALLEL for n in CONNECTIONS),
    *(f"{server}_keep_{n}" for server in PARALLEL for n in (1, 10)),
    *(f"green_{shape}" for shape in ("keep_100", "keep_1000", "crowd_1000", "slow_100")),
    *(f"{server}_pipeline_10" for server in PARALLEL),
    *(f"unix_{shape}" for shape in ("close_16", "keep_1", "bulkboth_64k")),
    *(f"threadingunix_{shape}" for shape in ("close_16", "keep_10")),
    "forkingunix_close_16",
    *(f"udp_echo_{size}" for size in (64, 1400)),
    *(f"threadingudp_echo_{size}" for size in (64, 1400)),
    "forkingudp_echo_64",
    "unixgram_echo_64",
    "threadingunixgram_echo_64",
    "forkingunixgram_echo_64",
    "http_close_16",
    *(f"threadinghttp_{shape}" for shape in ("close_16", "keep_10")),
    "wsgi_close_16",
    *(f"{server}_idle_1000" for server in ("threading", "green")),
    "forking_idle_10",
    "tcp_shutdown_1",
    "threading_shutdown_1",
    "tcp_start_1",
    "package_import_1",
]
QUICK = [
    "tcp_close_16", "threading_close_16", "threading_keep_10", "pool_close_16", "green_keep_100",
    "udp_echo_64", "http_close_16", "threading_idle_1000", "tcp_shutdown_1", "package_import_1",
]


def choose(patterns):
    """The workloads that comma-separated names or patterns (`threading_*`) mean, in order."""
    chosen = []
    for pattern in patterns.split(","):
        chosen += fnmatch.filter(STANDARD, pattern) or [pattern]
    return [find(name) for name in dict.fromkeys(chosen)]
