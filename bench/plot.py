"""The charts: bars of speed and CPU, curves of latency; grey text, to suit any background."""

import collections
import math
import statistics

import matplotlib as mpl
from matplotlib import pyplot

TEXT = "#808080"  # has contrast enough on white and on black
COLUMNS = 3
COLOURS = {
    "stdlib": "#9aa0a6", "fast": "#e8710a", "patched": "#f2a65a",
    "patched_pool": "#d9a441", "patched_greenlet": "#c9b458", "floor": "#5f6368",
    "floor_threads": "#80868b",
    "asyncio_streams": "#4f8fd0", "asyncio_protocol": "#2f6fb0", "uvloop_streams": "#5aab8c",
    "uvloop_protocol": "#338a68", "gevent": "#a377c2", "cheroot": "#c26a8d", "waitress": "#a3a34f",
}
NINES = [0.5, 0.9, 0.99, 0.999, 0.9999]
STYLE = {
    "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": TEXT, "xtick.color": TEXT,
    "ytick.color": TEXT, "axes.titlecolor": TEXT, "savefig.transparent": True, "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
    "svg.hashsalt": "bench", "legend.frameon": False, "font.family": "sans-serif",
}


def loads(measured):
    """{workload: {contender: Series}} with runs of the load generator only."""
    groups = {name: {who: series for who, series in group.items() if series.is_load}
              for name, group in measured.items()}
    return {name: group for name, group in groups.items() if group}


def panels(groups, height):
    """A figure with one panel for each workload: pairs of axes and group."""
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, height * rows), squeeze=False, layout="constrained"
    )
    for unused in axes.flat[len(groups):]:
        unused.set_visible(False)
    for axis, name in zip(axes.flat, groups, strict=False):
        axis.set_title(name, loc="left")
    return figure, zip(axes.flat, groups.values(), strict=False)


def bars(groups, values, form, title):
    """Horizontal bars of the medians of `values(series)`, with the range as a thin line."""
    most = max(len(group) for group in groups.values())
    figure, pairs = panels(groups, 0.6 + 0.24 * most)
    for axis, group in pairs:
        shown = [series for series in group.values() if values(series)]
        for place, series in enumerate(shown):
            draw_bar(axis, place, series.contender, values(series), form)
        axis.set_yticks(range(len(shown)), [series.contender for series in shown])
        axis.set_ylim(most - 0.5, -0.5)
        axis.margins(x=0.25)
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def draw_bar(axis, place, contender, values, form):
    """One bar, its range and its number."""
    middle = statistics.median(values)
    axis.barh(place, middle, color=COLOURS.get(contender, TEXT))
    axis.hlines(place, min(values), max(values), color=TEXT, linewidth=1)
    axis.annotate(format(middle, form), (max(values), place), (4, 0), va="center",
                  textcoords="offset points", fontsize=8)


def merged(series):
    """The histograms of all runs as sorted pairs of microseconds and count."""
    counts = collections.Counter()
    for run in series.runs:
        counts.update(dict(map(tuple, run["histogram_us"])))
    return sorted(counts.items())


def latency_curve(histogram):
    """Points (how rare, microseconds): rarity 1 is the slowest tenth, 2 the slowest hundredth."""
    total, seen, points = sum(count for _, count in histogram), 0, []
    for us, count in histogram:
        points.append((-math.log10(1 - seen / total), us))
        seen += count
    return points


def latencies(groups):
    """Latency over rarity, both logarithmic."""
    figure, pairs = panels(groups, 2.6)
    for axis, group in pairs:
        for series in group.values():
            rarity, us = zip(*latency_curve(merged(series)), strict=True)
            axis.plot(rarity, us, color=COLOURS.get(series.contender, TEXT), linewidth=1.2,
                      label=series.contender)
        axis.set_yscale("log")
        axis.set_xlim(0, 4)
        axis.set_xticks([-math.log10(1 - share) for share in NINES],
                        [f"{share * 100:g}%" for share in NINES])
        axis.set_ylabel("latency, us")
    name_colours(figure)
    figure.suptitle("Latency that a share of the operations did not exceed", x=0.01, ha="left")
    return figure


def name_colours(figure):
    """One legend for all panels."""
    named = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=6, fontsize=8)


CHARTS = {
    "speed": lambda groups: bars(groups, lambda series: series.per_second(), ",.0f",
                                 "Operations per second (longer is better)"),
    "cpu": lambda groups: bars(groups, lambda series: series.cpu_us(), ",.1f",
                               "Server CPU microseconds per operation (shorter is better)"),
    "latency": latencies,
}


def draw(measured, folder, *only):
    """Write the charts, or `only` these, into the folder; returns their paths."""
    groups = loads(measured)
    if not groups:
        return []
    pyplot.switch_backend("Agg")  # no screen is needed
    with mpl.rc_context(STYLE):
        return [save(CHARTS[name](groups), folder / f"{name}.svg") for name in only or CHARTS]


def save(figure, path):
    """Write and forget a figure."""
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
