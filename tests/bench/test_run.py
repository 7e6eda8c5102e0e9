"""The measuring system itself: it must never show a number that was not measured."""

import signal
import subprocess
import sys

import psutil
import pytest

import socketserver_fast
from bench import __main__ as command
from bench import chart, process, readme, report, runner, workloads
from bench.contenders import CONTENDERS

SHORT = runner.Settings(rounds=1, seconds=0.05, count_syscalls=False)


def test_workloads_have_the_names_by_which_they_are_found():
    names = workloads.STANDARD + workloads.QUICK + readme.WORKLOADS
    assert [workloads.find(name).name for name in names] == names
    assert set(workloads.QUICK + readme.WORKLOADS) <= set(workloads.STANDARD)
    chosen = [workload.name for workload in workloads.choose("udp_*,tcp_close_7,udp_echo_64")]
    assert chosen == ["udp_echo_64", "udp_echo_1400", "udp_ping_64", "tcp_close_7"]
    classes = {name for name in dir(socketserver_fast) if name.endswith(("TCPServer", "UDPServer"))}
    assert classes <= {workloads.find(name).server for name in names}
    for name in ("tcp_close", "tcp_close_x", "udp_close_1"):
        with pytest.raises(ValueError, match=r"no workload|datagram"):
            workloads.find(name)


EVERY_KIND = workloads.choose(
    "tcp_close_16,tcp_bulkboth_1m,udp_echo_1400,http_close_16,threadinghttp_keep_16,"
    "threadinghttp_static_1m,threadinghttp_upload_1m,threadingwsgi_keep_16,threadingxmlrpc_close_16,"
    "threadingtls_close_16,greentls_keep_10"
)


@pytest.mark.parametrize(("name", "contender"), [
    (workload.name, name) for workload in EVERY_KIND
    for name, contender in CONTENDERS.items() if contender.can(workload)
])
def test_every_contender_answers_rightly(contender, name):
    try:
        with SHORT.server(contender, workloads.find(name)) as server:
            run = server.run_load(["--warm-up", "0", "--operations", "100", "--seconds", "60"])
            assert run["finished"] == 100
    except process.NotAvailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize(("code", "status", "words"), [
    ("raise SystemExit('cannot bind')", command.FAILED, "did not start: cannot bind"),
    ("print('listening', flush=True); import time; time.sleep(60)", command.FAILED, "errors: conn"),
    ("print('no such class')", command.NOT_ALL_AVAILABLE, "not available: no such class"),
])
def test_a_contender_that_does_not_work_has_no_numbers(
    monkeypatch, tmp_path, capsys, code, status, words
):
    started = [sys.executable, "-c", code, "bench.contenders.serve"]
    monkeypatch.setattr(process, "command_of", lambda *arguments: started)
    arguments = ["--only", "tcp_keep_1", "--contenders", "fast", "--rounds", "1", "--no-syscalls"]
    assert command.main([*arguments, "--into", str(tmp_path)]) == status
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert words in last.split("|")[-2]
    assert not "".join(last.split("|")[3:-2]).strip()


def test_rounds_alternate_and_a_failure_takes_the_numbers_back(monkeypatch):
    asked, results = [], {}

    def once(contender, workload, settings):
        asked.append(contender)
        if len(asked) == 3:
            raise process.Failed("died")
        return {"operations": 1, "seconds": 1.0}

    monkeypatch.setattr(runner, "load", once)
    settings, workload = runner.Settings(2, count_syscalls=False), workloads.find("tcp_keep_1")
    runner.measure(workload, ["stdlib", "fast"], settings, results)
    assert (asked, results["fast"].runs) == (["stdlib", "fast", "fast", "stdlib"], [])


def start(folder, *arguments):
    return subprocess.Popen([sys.executable, "-m", "bench", "--into", folder, *arguments],
                            cwd=process.ROOT, stdout=-1, stderr=-1, text=True)


def test_the_command_writes_table_and_runs(tmp_path):
    running = start(tmp_path, "--only", "udp_echo_64,threading_idle_10,threading_crowd_5",
                    "--contenders", "stdlib,patched", "--rounds", "2", "--seconds", "0.05")
    printed, errors = running.communicate(timeout=100)
    assert running.returncode == 0, errors
    assert printed.rstrip() == (tmp_path / "table.md").read_text().rstrip()
    runs = report.load(tmp_path)[0]["udp_echo_64"]["stdlib"].runs
    assert printed.count(" KiB ") == len(runs) == 2


def test_control_c_ends_all_children_and_keeps_what_was_measured(tmp_path):
    with start(tmp_path, "--only", "tcp_keep_1,udp_echo_64", "--contenders", "stdlib",
               "--rounds", "1", "--seconds", "2", "--no-syscalls") as running:
        next(line for line in running.stderr if "udp_echo_64" in line)
        bench = psutil.Process(running.pid)
        while len(children := bench.children(recursive=True)) < 2:  # the server and the load
            pass
        running.send_signal(signal.SIGINT)
        printed, _ = running.communicate(timeout=30)
    assert running.returncode == command.INTERRUPTED
    assert "not measured" in printed
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.fixture
def group():
    """Two rounds."""
    rest = {"seconds": 1.0, "server_cpu": 1.0, "load_idle": 0.5,
            "latency_us": {"p50": 1, "p99": 2, "max": 3}}
    return {who: runner.Series("w", who, [{"operations": speed, **rest} for speed in speeds])
            for who, *speeds in (("stdlib", 100, 200), ("patched", 150, 600))}


def test_ratios_are_taken_round_by_round(group):
    assert group["patched"].ratios(group["stdlib"]) == [1.5, 3]
    assert group["patched"].cpu_ratios(group["stdlib"]) == pytest.approx([2 / 3, 1 / 3])
    assert runner.interval(range(15)) == (3, 11)
    assert runner.interval([3, 1, 2]) == (1, 3)
    assert chart.compared([1.2, 0.9, 1.3]) == "unclear"
    assert chart.compared([0.8, 0.9, 0.7]) == "0.80 times"


def test_readme_and_chart_are_made_from_the_runs(tmp_path, group):
    about = report.circumstances(SHORT) | {"command": "python -m bench --readme"}
    report.save(dict.fromkeys(readme.WORKLOADS, group), tmp_path, about)
    for file in ("README.md", "bench/figures.md", "docs/speed.svg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("a\n<!-- figures -->\nold\n<!-- end of figures -->\nb\n")
    assert readme.main(tmp_path, tmp_path) == 0
    for file, words in (("README.md", "2.2 times"), ("bench/figures.md", "| 2.25 "),
                        ("docs/speed.svg", "375/s, 2.2 times")):
        text = (tmp_path / file).read_text()
        assert (words in text, "old" in text) == (True, False), text
