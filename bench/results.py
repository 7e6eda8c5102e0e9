"""What is kept of a measurement: the raw runs, a pyperf suite per contender, the table."""

import contextlib
import dataclasses
import datetime
import json
import platform
import subprocess
from pathlib import Path

import pyperf

from bench.contenders import CONTENDERS
from bench.report import markdown
from bench.runner import Series

LATEST = Path(__file__).parent / "results" / "latest"
SCALE = {"ms": ("second", 1e-3), "us": ("second", 1e-6), "KiB": ("byte", 1024.0)}  # pyperf's units


def processor():
    """The name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def python_version(python):
    """What the servers ran on."""
    code = "import platform as p; print(p.python_implementation(), p.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def circumstances(settings, command):
    """Where, when and how: the lines that stand above the table."""
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{now}, {processor()}, {platform.system()} {platform.release()}, "
        f"{python_version(settings.python)}\n\n`{command}`: {settings.rounds} rounds of "
        f"{settings.seconds:g} s, medians; spread is half the range; backlog 1024, "
        "TCP_NODELAY on everywhere"
    )


def pyperf_runs(values, name, unit, python):
    """A pyperf benchmark, each round a run with one value; none of values that pyperf refuses."""
    if values and min(values) > 0:
        metadata = {"name": name, "unit": unit, "loops": 1, "python_version": python}
        yield pyperf.Benchmark(
            [pyperf.Run([value], metadata=metadata, collect_metadata=False) for value in values]
        )


def benchmarks(series, python):
    """The pyperf benchmarks of a series: time per operation and CPU per operation, or the value."""
    if series.is_load:
        yield from pyperf_runs(series.values(), series.workload, "second", python)
        cpu = [us / 1e6 for us in series.cpu_us()]
        yield from pyperf_runs(cpu, series.workload + "_cpu", "second", python)
        return
    unit, scale = SCALE[series.runs[0]["unit"].split()[0]]
    values = [value * scale for value in series.values()]
    yield from pyperf_runs(values, series.workload, unit, python)


def save_pyperf(results, folder, python):
    """`<contender>.json`, to be compared by `pyperf compare_to`."""
    suites = {}
    for contender in CONTENDERS:
        (folder / f"{contender}.json").unlink(missing_ok=True)
    for group in results.values():
        for series in group.values():
            if series.runs:
                suites.setdefault(series.contender, []).extend(benchmarks(series, python))
    for contender, members in suites.items():
        if members:
            suite = pyperf.BenchmarkSuite(members)
            suite.dump(str(folder / f"{contender}.json"), replace=True)


def load(folder):
    """{workload: {contender: Series}} as it was saved there; OSError when it was not."""
    raw = json.loads((folder / "runs.json").read_text())
    return {workload: {name: Series(**fields) for name, fields in group.items()}
            for workload, group in raw.items()}


def save_runs(results, folder):
    """Write the raw runs."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {workload: {name: dataclasses.asdict(series) for name, series in group.items()}
           for workload, group in results.items()}
    (folder / "runs.json").write_text(json.dumps(raw))


def save(results, folder, settings, command):
    """Write everything into the folder; returns the text of table.md."""
    save_runs(results, folder)
    text = circumstances(settings, command) + "\n\n" + markdown(results) + "\n"
    (folder / "table.md").write_text(text)
    save_pyperf(results, folder, python_version(settings.python))
    return text
