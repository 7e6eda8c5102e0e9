"""Write the figures of `python -m bench --readme` into README.md, bench/figures.md and the chart.

`python -m bench.readme [FOLDER]` takes them from FOLDER/runs.json, draws docs/speed.svg, and
replaces what stands in README.md between `<!-- figures -->` and `<!-- end of figures -->`.
"""

import re
import sys
from pathlib import Path

from bench import chart, report
from bench.runner import BASELINE

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)
CONTENDERS = {BASELINE: "stdlib", "patched": "patched", "patched_pool": "on a pool",
              "patched_greenlet": "greenlets"}
ROWS = {  # workload: title
    "threadinghttp_keep_16": "HTTP, kept connections",
    "threadinghttp_close_16": "HTTP/1.0",
    "http_close_16": "HTTP/1.0 without threads",
    "threadinghttp_static_1k": "A file of 1 KiB",
    "threadinghttp_static_10m": "A file of 10 MiB",
    "threadingwsgi_close_16": "WSGI",
    "threading_keep_100": "Lines on kept connections",
    "udp_echo_64": "Datagrams",
}
NOT_DRAWN = {"http_close_16", "threadinghttp_static_1k"}
WORKLOADS = list(ROWS)
HEAD = ["", "standard library", *list(CONTENDERS.values())[1:]]


def groups(measured):
    """Yield (workload, {contender: Series}) for README's rows that have runs."""
    for name in WORKLOADS:
        group = {who: series for who, series in measured.get(name, {}).items() if series.runs}
        if BASELINE in group:
            yield name, group


def short_table(measured):
    """Return README's table: how many times as fast."""
    rows = []
    for name, group in groups(measured):
        base = group[BASELINE]
        cells = (chart.compared(group[who].ratios(base)) if who in group else ""
                 for who in list(CONTENDERS)[1:])
        rows.append([ROWS[name], report.middle(base.values(), ",.0f") + "/s", *cells])
    return report.table(HEAD, rows)


def picture(measured, about):
    """Return the chart."""
    panels = [(ROWS[name], [(CONTENDERS[who], group[who]) for who in CONTENDERS if who in group])
              for name, group in groups(measured) if name not in NOT_DRAWN]
    footer = ["Operations a second of 16, 4 (files) or 100 (lines) clients; whiskers: 95 %.",
              where(about), f"{about['rounds']} rounds of {about['seconds']:g} s, {about['date']}."]
    return chart.draw(panels, footer)


def where(about):
    """Return Python, machine and system."""
    return "{python}, {processor}, {system}.".format(**about)


def main(folder=report.LATEST, root=ROOT):
    """Draw and write; returns the exit status."""
    try:
        measured, about = report.load(Path(folder))
    except OSError as error:
        print(f"no runs there ({error}): run `python -m bench --readme` first", file=sys.stderr)
        return 2
    Path(root, "docs", "speed.svg").write_text(picture(measured, about))
    page = Path(root, "README.md")
    text = f"\n{short_table(measured)}\n\n{where(about)}\n\n"
    page.write_text(MARKED.sub(lambda match: text, page.read_text()))
    figures = f"# Figures\n\n{report.heading(about)}.\n\n{report.markdown(measured)}\n"
    Path(root, "bench", "figures.md").write_text(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
