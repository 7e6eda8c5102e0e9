"""Draws docs/speed.svg: bars of what people run, the standard library against this package.

It is drawn 420 pixels wide, so that its text has the size of other text on a telephone. It has a
background of its own, since a picture in a page does not know the colour of the page.
"""

import statistics
from html import escape

from bench.runner import interval

WIDTH, LEFT, BAR, LABEL = 420, 86, 150, 248  # where bars begin, their longest, where labels begin
TITLE, LINE, GAP = 24, 17, 6  # heights
STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1f2328}
.panel{fill:#fff}.title{font-weight:600}.small{font-size:11px;fill:#59636e}
.stdlib{fill:#a5adb6}.ours{fill:#d9690b}.whisker{stroke:#1f2328;fill:none}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.panel{fill:#161b22}.small{fill:#a9b2bc}
.stdlib{fill:#6e7781}.ours{fill:#f0883e}.whisker{stroke:#f0f6fc}}
"""


def compared(ratios):
    """Say how many times as fast; "unclear" where the interval shows no difference."""
    low, high = interval(ratios)
    if low <= 1 <= high:
        return "unclear"
    middle = statistics.median(ratios)
    return f"{middle:.{0 if middle >= 10 else 1 if middle >= 2 else 2}f} times"


def text(x, y, words, kind=""):
    """Draw a line of text."""
    return f'<text x="{x}" y="{y}"{kind and f" class={kind!r}"}>{escape(words)}</text>'


def bar(y, name, series, base, longest):
    """Draw a bar from zero, its interval as a thin line, and its number."""
    scale, middle = BAR / longest, statistics.median(series.values())
    low, high = (LEFT + value * scale for value in interval(series.values()))
    number = f"{middle:,.0f}/s" + ("" if series is base else f", {compared(series.ratios(base))}")
    return [
        text(LEFT - 6, y + 11, name, "name"),
        f'<rect class="{"stdlib" if series is base else "ours"}" x="{LEFT}" y="{y + 1}" '
        f'width="{middle * scale:.1f}" height="13"/>',
        f'<path class="whisker" d="M{low:.1f} {y + 4}v7m0-3.5H{high:.1f}m0-3.5v7"/>',
        text(LABEL, y + 11, number),
    ]


def panel(y, title, named):
    """Draw a workload: its title and a bar for each (name, series), the first the baseline."""
    base = named[0][1]
    longest = max(interval(series.values())[1] for _, series in named)
    drawn = [text(12, y + 15, title, "title")]
    for place, (name, series) in enumerate(named):
        drawn += bar(y + TITLE + place * LINE, name, series, base, longest)
    return drawn, y + TITLE + len(named) * LINE + GAP


def draw(panels, footer):
    """Return the SVG of [(title, [(name, series)])], with lines of small print below."""
    drawn, y = [], 6
    for title, named in panels:
        lines, y = panel(y, title, named)
        drawn += lines
    for line in footer:
        y += 15
        drawn.append(text(12, y, line, "small"))
    y += 12
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}">',
        f"<style>{STYLE}.name{{text-anchor:end}}</style>",
        f'<rect class="panel" width="{WIDTH}" height="{y}" rx="8"/>', *drawn, "</svg>", ""])
