"""What bench makes of its runs: ratios, charts, README's table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "bench").is_dir() or not hasattr(os, "fork"):
    pytest.skip("bench needs a source checkout on a POSIX system", allow_module_level=True)
pytest.importorskip("psutil")
pyperf = pytest.importorskip("pyperf")
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested

from bench import readme, repeat, results, runner, workloads  # noqa: E402


def run(seconds, cpu=0.5):
    """A run of the load generator, as far as the reports look at it."""
    return {
        "operations": 10, "seconds": seconds, "server_cpu": cpu, "errors": {}, "load_idle": 0.5,
        "neighbours": 0.0, "descriptors_left": 0, "stderr": "", "histogram_us": [[10.0, 5]],
        "latency_us": {"p50": 10.0, "p99": 10.0, "p99.9": 10.0, "max": 10.0},
    }


def group(name, **seconds):
    """{contender: Series} with two runs each."""
    return {who: runner.Series(name, who, [run(each), run(each)]) for who, each in seconds.items()}


def test_ratios_are_taken_round_by_round():
    base = runner.Series("w", "stdlib", [run(1.0), run(2.0)])
    ours = runner.Series("w", "fast", [{**run(1.0, 1.0), "operations": 20},
                                       {**run(2.0, 1.0), "operations": 20}])
    assert runner.ratios(ours, base) == [2.0, 2.0]
    assert ours.cpu_ratios(base) == [1.0, 1.0]
    assert runner.ratios(ours, None) == []


def test_repeat_says_how_far_apart_the_ratios_are():
    first = {"w": group("w", stdlib=1.0, fast=0.5, gone=1.0)}
    second = {"w": group("w", stdlib=1.0, fast=0.4)}
    apart, key, low, high = repeat.differences([first, second])[0]
    assert (round(apart, 6), key, low, high) == (0.25, ("w", "fast", "speed"), 2.0, 2.5)
    assert repeat.markdown([first, second]).endswith("largest difference: 25.0% (w fast speed)")
    assert "no ratio" in repeat.markdown([first, {}])


@pytest.fixture
def saved(tmp_path):
    """The folder of a measurement for README."""
    measured = {name: group(name, stdlib=1.0, fast=2.0, gevent=0.5) for name in readme.WORKLOADS}
    results.save(measured, tmp_path, runner.Settings(), "python -m bench --readme")
    return tmp_path


def test_what_was_saved_is_loaded(saved):
    loaded = results.load(saved)["tcp_close_16"]
    assert loaded == group("tcp_close_16", stdlib=1.0, fast=2.0, gevent=0.5)


def test_readme_names_workloads_that_are():
    assert [workload.name for workload in map(workloads.find, readme.WORKLOADS)] == readme.WORKLOADS
    assert set(readme.WORKLOADS) <= set(workloads.STANDARD)


def test_readme_table_and_chart_are_made_from_the_runs(saved, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert readme.main(saved, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "`python -m bench --readme`" in printed
    assert "| **0.50** " in printed  # slower than the stdlib: not to be overlooked
    assert "| 2.00 " in printed
    chart = (tmp_path / "speed.svg").read_text()
    assert all(name in chart for name in readme.CHART)


def test_readme_without_runs(tmp_path, capsys):
    assert readme.main(tmp_path / "none") == 2
    assert "python -m bench --readme" in capsys.readouterr().err


def test_plot_draws_every_chart(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import plot

    measured = {"tcp_keep_1": group("tcp_keep_1", stdlib=1.0, fast=1.0), "tcp_keep_2": {}}
    drawn = plot.draw(measured, tmp_path)
    assert [path.name for path in drawn] == ["speed.svg", "cpu.svg", "latency.svg"]
    assert all("tcp_keep_1" in path.read_text() for path in drawn)


@pytest.mark.parametrize("impl", ["stdlib", "fast", "patched"])
def test_pieces_are_timed_by_pyperf(tmp_path, impl):
    done = subprocess.run(
        [sys.executable, "-m", "bench.pyperf_pieces", "--impl", impl, "--debug-single-value",
         "-o", tmp_path / "out.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )
    assert done.returncode == 0, done.stderr
    names = pyperf.BenchmarkSuite.load(str(tmp_path / "out.json")).get_benchmark_names()
    assert {"readline", "handler", "datagram"} <= set(names)
    assert ("patch" in names) == (impl == "fast")
