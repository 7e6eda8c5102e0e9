"""The measuring system itself: it must never show a number that was not measured."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import socketserver_fast

psutil = pytest.importorskip("psutil")

from bench import __main__ as command  # noqa: E402
from bench import chart, process, readme, report, runner, syscalls, workloads  # noqa: E402
from bench.contenders import CONTENDERS  # noqa: E402

ROOT = Path(__file__).parents[2]
SHORT = runner.Settings(rounds=1, seconds=0.05, warm_up=0.02, count_syscalls=False)


def test_workloads_have_the_names_by_which_they_are_found():
    names = workloads.STANDARD + workloads.QUICK + readme.WORKLOADS
    assert [workloads.find(name).name for name in names] == names
    assert set(workloads.QUICK + readme.WORKLOADS) <= set(workloads.STANDARD)


def test_every_server_class_has_a_workload():
    classes = {name for name in dir(socketserver_fast) if name.endswith("Server")}
    measured = {workloads.find(name).server for name in workloads.STANDARD}
    assert classes - {"BaseServer"} <= measured


@pytest.mark.parametrize("name", ["tcp_close", "tcp_close_x", "sctp_close_1", "udp_close_1", ""])
def test_a_name_that_means_nothing(name):
    with pytest.raises(ValueError, match=r"no workload|datagram"):
        workloads.find(name)


def test_choose_takes_patterns_and_any_size():
    chosen = [workload.name for workload in workloads.choose("udp_*,tcp_close_7,udp_echo_64")]
    assert chosen == ["udp_echo_64", "udp_echo_1400", "udp_ping_64", "tcp_close_7"]


BOUNDED = ["--warm-up", "0", "--operations", "100", "--seconds", "60", "--timeout", "30"]
EVERY_KIND = workloads.choose(
    "tcp_close_16,tcp_bulkboth_1m,unix_keep_1,udp_echo_1400,unixgram_echo_64,http_close_16,"
    "threadinghttp_keep_16,threadinghttp_static_1m,threadinghttp_upload_1m,threadingwsgi_keep_16,"
    "threadingxmlrpc_close_16,threadingtls_close_16,greentls_keep_10"
)


@pytest.mark.parametrize(("name", "contender"), [
    (workload.name, name) for workload in EVERY_KIND
    for name, contender in CONTENDERS.items() if contender.can(workload)
])
def test_every_contender_answers_rightly(contender, name):
    try:
        with SHORT.server(contender, workloads.find(name)) as server:
            assert server.run_load(BOUNDED)["finished"] == 100
    except process.NotAvailable as why:
        pytest.skip(str(why))


@pytest.fixture
def contender_is(monkeypatch):
    """Make every contender a Python program."""
    return lambda code: monkeypatch.setattr(
        process, "command_of", lambda *arguments: [sys.executable, "-c", code])


@pytest.mark.parametrize(("code", "words"), [
    ("raise SystemExit('cannot bind')", "FAILED: did not start: cannot bind"),
    ("print('{\"address\": \"tcp:127.0.0.1:1\"}', flush=True); import time; time.sleep(60)",
     "errors: connect"),
    ("print('{\"unavailable\": \"no such class\"}')", "not available: no such class"),
    ("print('{\"unavailable\": \"not installed: it\"}')", "not installed: it"),
])
def test_a_contender_that_does_not_work_has_no_numbers(contender_is, code, words):
    contender_is(code)
    results = {}
    runner.measure(workloads.find("tcp_keep_1"), ["fast"], SHORT, results)
    cells = report.markdown({"tcp_keep_1": results}).splitlines()[-1].split("|")
    assert words in cells[-2]
    assert not any(cell.strip() for cell in cells[3:-2])


def test_a_failure_in_a_later_round_takes_the_numbers_back(monkeypatch):
    runs = iter([{"operations": 1, "seconds": 1.0}])

    def once(*arguments):
        for run in runs:
            return run
        raise process.Failed("died")

    monkeypatch.setitem(runner.MEASURES, "load", once)
    results = {}
    settings = runner.Settings(rounds=3, count_syscalls=False)
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib"], settings, results)
    assert (results["stdlib"].runs, results["stdlib"].failure) == ([], "died")


def test_every_other_round_goes_backwards(monkeypatch):
    asked = []
    monkeypatch.setitem(runner.MEASURES, "load",
                        lambda contender, *others: asked.append(contender) or {})
    settings = runner.Settings(rounds=2, count_syscalls=False)
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib", "fast"], settings, {})
    assert asked == ["stdlib", "fast", "fast", "stdlib"]


def run_command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", "--into", folder, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )


def test_the_command_writes_table_and_runs(tmp_path):
    done = run_command(
        tmp_path, "--only", "tcp_keep_1,udp_echo_64,package_import_1,threading_idle_10",
        "--contenders", "stdlib,floor", "--rounds", "2", "--seconds", "0.05", "--no-syscalls",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == (tmp_path / "table.md").read_text().rstrip()
    measured, about = report.load(tmp_path)
    assert len(measured["tcp_keep_1"]["floor"].runs) == about["rounds"] == 2


@pytest.mark.skipif(bool(syscalls.why_not()), reason="strace is missing")
def test_system_calls_of_workers_that_were_there_before_are_counted():
    calls = syscalls.per_operation("fast", workloads.find("prefork_close_1"), SHORT, 50)
    assert 5 < calls < 50


@pytest.mark.parametrize(("code", "status"), [
    ("raise SystemExit('broken on purpose')", command.FAILED),
    ("print('{\"unavailable\": \"not installed: it\"}')", command.NOT_ALL_INSTALLED),
])
def test_the_status_says_what_did_not_work(contender_is, tmp_path, code, status):
    contender_is(code)
    arguments = ["--only", "tcp_keep_1", "--contenders", "fast", "--rounds", "1", "--no-syscalls"]
    assert command.main([*arguments, "--into", str(tmp_path)]) == status


def test_control_c_ends_all_children_and_keeps_what_was_measured(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-m", "bench", "--into", tmp_path, "--only", "tcp_keep_1,udp_echo_64",
         "--contenders", "floor", "--rounds", "1", "--seconds", "2", "--no-syscalls"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with running:
        next(line for line in running.stderr if "udp_echo_64" in line)
        children = []
        while len(children) < 2:  # the server and the load
            children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        printed, _ = running.communicate(timeout=30)
    assert running.returncode == command.INTERRUPTED
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert "not measured" in printed


def test_intervals_of_medians():
    assert runner.interval(range(15)) == (3, 11)
    assert runner.interval([3, 1, 2]) == (1, 3)
    assert runner.interval([1]) == (1, 1)


def series(who, *speeds):
    runs = [{"operations": speed, "seconds": 1.0, "server_cpu": 1.0} for speed in speeds]
    return runner.Series("w", who, runs)


def test_ratios_are_taken_round_by_round():
    base, ours = series("stdlib", 100, 200), series("fast", 150, 100)
    assert ours.ratios(base) == [1.5, 0.5]
    assert ours.cpu_ratios(base) == pytest.approx([2 / 3, 2])
    assert ours.ratios(None) == []


def test_nothing_is_called_faster_whose_interval_has_one():
    assert chart.compared([1.2, 0.9, 1.3]) == "no clear difference"
    assert chart.compared([0.8, 0.9, 0.7]) == "0.80 times"
    assert chart.compared([12.2, 13, 11]) == "12 times"


def test_readme_and_chart_are_made_from_the_runs(tmp_path):
    group = {"stdlib": series("stdlib", 100), "patched": series("patched", 250)}
    about = report.circumstances(SHORT) | {"command": "python -m bench --readme"}
    report.save(dict.fromkeys(readme.WORKLOADS, group), tmp_path, about)
    for folder in ("docs", "bench"):
        (tmp_path / folder).mkdir()
    for file in ("README.md", "bench/README.md"):
        (tmp_path / file).write_text("a\n<!-- figures -->\nold\n<!-- end of figures -->\nb\n")
    assert readme.main(tmp_path, tmp_path) == 0
    page = (tmp_path / "README.md").read_text()
    assert "| 100/s" in page
    assert "| 2.5 times" in page
    assert "old" not in page
    assert "| 2.50 " in (tmp_path / "bench/README.md").read_text()
    assert "250/s, 2.5 times" in (tmp_path / "docs/speed.svg").read_text()
    assert json.loads((tmp_path / "runs.json").read_text())["about"] == about


def test_total_calls_of_strace():
    summary = " 60.00 0.0003 3 9 1 recvfrom\n 40.00 0.0002 3 3 futex\n 99.0 0.5 3 12 1 total\n"
    assert syscalls.total_calls(summary) == 12
    assert syscalls.total_calls(summary, without={"futex"}) == 9
    with pytest.raises(process.Failed, match="no calls"):
        syscalls.total_calls("strace: detached")
