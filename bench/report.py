"""Writes what was measured: tables in Markdown, and the raw runs in a file."""

import dataclasses
import datetime
import json
import platform
import re
import statistics
import subprocess
from pathlib import Path

from bench.runner import BASELINE, Series, interval

LATEST = Path(__file__).parent / "results" / "latest"
HEAD = ["workload", "contender", "op/s", "x stdlib", "95 %", "CPU us/op", "x stdlib",
        "95 %", "syscalls/op", "p50 us", "p99 us", "max us", "note"]
LOAD_BOUND = 0.95  # above this share the load generator may have been the limit
LONGEST_NOTE = 160


def middle(values, form=".2f"):
    """Format the median; "" if there are no values."""
    return format(statistics.median(values), form) if values else ""


def bounds(ratios):
    """Format the interval of the ratios; "" if there are none."""
    return "{:.2f} to {:.2f}".format(*interval(ratios)) if ratios else ""


def note(series):
    """Say that the load generator was the limit, or that packets were lost."""
    notes = []
    if series.is_load:
        busy = statistics.median(1 - run["load_idle"] / run["seconds"] for run in series.runs)
        if busy > LOAD_BOUND:
            notes.append(f"load {busy:.0%} busy: op/s is a lower bound")
    if lost := sum(run.get("errors", {}).get("lost", 0) for run in series.runs):
        notes.append(f"{lost} lost")
    return "; ".join(notes)


def why_no_runs(series):
    """Say why there are no numbers; a traceback is cut to its first and last line."""
    text = "FAILED: " + series.failure if series.failure else "not measured"
    if series.missing:
        text = "not available: " + series.missing
    first, *_, last = [line for line in text.splitlines() if line.strip(" -")] * 2
    return (first if first == last else f"{first} ... {last}")[:LONGEST_NOTE]


def row(series, base):
    """Return the cells of a row of the table, in the order of HEAD."""
    if not series.runs:
        return [series.workload, series.contender, *[""] * (len(HEAD) - 3), why_no_runs(series)]
    speed, cpu = series.ratios(base), series.cpu_ratios(base)
    latencies = ([run["latency_us"][which] for run in series.runs if series.is_load]
                 for which in ("p50", "p99", "max"))
    return [
        series.workload, series.contender,
        middle(series.values(), ",.0f") if series.is_load else middle(series.values()) + " KiB",
        middle(speed), bounds(speed),
        middle(series.cpu_us(), ".1f"), middle(cpu), bounds(cpu),
        "" if series.syscalls is None else f"{series.syscalls:.1f}",
        *(middle(values, ",.0f") for values in latencies), note(series),
    ]


def table(head, rows):
    """Format cells as a Markdown table with aligned columns."""
    rows = [[cell.replace("|", "/") for cell in cells] for cells in rows]
    widths = [max(len(cells[i]) for cells in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        + " |" for cells in lines)


def markdown(results):
    """Return the table of {workload name: {contender: Series}}."""
    return table(HEAD, [row(series, group.get(BASELINE))
                        for group in results.values() for series in group.values()])


def processor():
    """Return the name of the processor."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def circumstances(settings):
    """Return where, when and how it is measured, as a dict."""
    code = "import platform as p; print(p.python_implementation(), p.python_version())"
    version = subprocess.run([settings.python, "-c", code], capture_output=True, text=True).stdout
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "processor": processor(),
        "system": f"{platform.system()} {platform.release()}", "python": version.strip(),
        "rounds": settings.rounds, "seconds": settings.seconds,
    }


def heading(about):
    """Return the lines above a table."""
    return ("{date}, {processor}, {system}, {python}\n\n".format(**about) +
            "`{command}`: {rounds} rounds of {seconds:g} s, medians".format(**about))


def save(results, folder, about):
    """Write the raw runs into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {workload: {name: dataclasses.asdict(series) for name, series in group.items()}
           for workload, group in results.items()}
    (folder / "runs.json").write_text(json.dumps({"about": about, "runs": raw}))


def load(folder):
    """Return what was saved there, and its circumstances. OSError if nothing was."""
    saved = json.loads((folder / "runs.json").read_text())
    return {workload: {name: Series(**fields) for name, fields in group.items()}
            for workload, group in saved["runs"].items()}, saved["about"]
