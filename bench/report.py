"""What was measured, as tables in Markdown."""

import statistics

from bench.runner import BASELINE, DISTURBED, ratios, spread

HEAD = ["workload", "contender", "op/s", "spread", "x stdlib", "x floor", "CPU us/op", "x stdlib",
        "syscalls/op", "p50 us", "p99 us", "p99.9 us", "max us", "note"]
VALUE_HEAD = ["workload", "contender", "value", "unit", "spread", "x stdlib", "note"]
LOAD_BOUND = 0.95  # above this share the load generator may have been the limit
LONGEST_NOTE = 160


def middle(values, form):
    """The median in a format, or nothing."""
    return format(statistics.median(values), form) if values else ""


def note(series):
    """What a reader must know of this row."""
    notes = []
    if series.load_busy() > LOAD_BOUND:
        notes.append(f"load {series.load_busy():.0%} busy: op/s is a lower bound")
    if (others := statistics.median(run["neighbours"] for run in series.runs)) > DISTURBED:
        notes.append(f"other programs took {others:.0%} of a processor")
    if lost := sum(run["errors"].get("lost", 0) for run in series.runs):
        notes.append(f"{lost} lost")
    if left := max(run["descriptors_left"] for run in series.runs):
        notes.append(f"{left} descriptors left behind")
    if any(run["stderr"] for run in series.runs):
        notes.append("wrote to stderr")
    return "; ".join(notes)


def brief(text):
    """A failure's text may be a traceback: its first and its last line say most."""
    lines = [line for line in text.splitlines() if line.strip(" -")] or [""]
    short = lines[0] if len(lines) < 2 else f"{lines[0]} ... {lines[-1]}"
    return short if len(short) <= LONGEST_NOTE else short[:LONGEST_NOTE] + "..."


def why_no_runs(series):
    """The words that stand in place of numbers."""
    if series.missing:
        return brief(series.missing if series.is_not_installed else "not available: "
                     + series.missing)
    return brief("FAILED: " + series.failure) if series.failure else "not measured"


def load_row(series, base, floor):
    """Cells of HEAD."""
    cpu = series.cpu_us()
    cheaper = series.cpu_ratios(base) if base else []
    return [
        series.workload, series.contender,
        middle(series.per_second(), ",.0f"), f"{spread(series.per_second()):.0%}",
        middle(ratios(series, base), ".2f"), middle(ratios(series, floor), ".2f"),
        middle(cpu, ".1f"), middle(cheaper, ".2f"),
        "" if series.syscalls is None else f"{series.syscalls:.1f}",
        *(f"{series.latency(which):,.0f}" for which in ("p50", "p99", "p99.9", "max")),
        note(series),
    ]


def value_row(series, base):
    """Cells of VALUE_HEAD."""
    values = series.values()
    return [series.workload, series.contender, middle(values, ",.2f"), series.runs[0]["unit"],
            f"{spread(values):.0%}", middle(ratios(series, base), ".2f"), ""]


def table(head, rows):
    """Cells to Markdown with aligned columns."""
    rows = [[cell.replace("|", "/") for cell in cells] for cells in rows]
    widths = [max(len(cells[i]) for cells in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(aligned(cells, widths) for cells in lines)


def aligned(cells, widths):
    """One line of a table."""
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def rows_of(group, head):
    """The rows of one workload that have the shape of `head`, the wordy ones too."""
    base, floor = group.get(BASELINE), group.get("floor")
    rows = []
    for series in group.values():
        if not series.runs:
            rows.append([series.workload, series.contender, *[""] * (len(head) - 3),
                         why_no_runs(series)])
        elif series.is_load:
            rows.append(load_row(series, base, floor))
        else:
            rows.append(value_row(series, base))
    return rows


def markdown(results):
    """The tables of {workload name: {contender: Series}}: loads, then single values."""
    loads, values = [], []
    for group in results.values():
        is_value = any(series.runs and not series.is_load for series in group.values())
        head, rows = (VALUE_HEAD, values) if is_value else (HEAD, loads)
        rows += rows_of(group, head)
    parts = [table(head, rows) for head, rows in ((HEAD, loads), (VALUE_HEAD, values)) if rows]
    return "\n\n".join(parts)
