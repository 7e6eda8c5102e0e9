"""The times: stdlib, base and head in turn, several rounds, each relative to the round's stdlib."""

import dataclasses

from bench import workloads
from bench.runner import Settings, load

TIMED = ["tcp_close_16", "threading_keep_10", "udp_echo_64"]


def figures(run):
    """Seconds and server CPU seconds of one operation, as far as they were measured."""
    found = {"time": run["seconds"] / run["operations"]}
    if run["server_cpu"] is not None:
        found["CPU time"] = run["server_cpu"] / run["operations"]
    return found


def one_round(workload, base, head, settings):
    """{figure: (base, head)}, both as parts of the stdlib's of this round."""
    measured = [
        figures(load(contender, workload, dataclasses.replace(settings, path=path)))
        for contender, path in (("stdlib", None), ("fast", base), ("fast", head))
    ]
    stdlib, *both = measured
    return {figure: [run[figure] / stdlib[figure] for run in both] for figure in stdlib}


def relative_times(name, base, head, rounds, seconds):
    """{figure: ([base of each round], [head of each round])}."""
    workload, settings = workloads.find(name), Settings(seconds=seconds)
    collected = {}
    for turn in range(rounds):
        order = (base, head) if turn % 2 == 0 else (head, base)
        for figure, pair in one_round(workload, *order, settings).items():
            pair = pair if turn % 2 == 0 else pair[::-1]
            for values, value in zip(collected.setdefault(figure, ([], [])), pair, strict=True):
                values.append(value)
    return {f"{figure} of {name}, x stdlib": pair for figure, pair in collected.items()}
