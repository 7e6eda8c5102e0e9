"""The measuring system itself: it must never show a number that was not measured."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import socketserver_fast

ROOT = Path(__file__).parents[2]
if not (ROOT / "bench").is_dir() or not hasattr(os, "fork"):
    pytest.skip("bench needs a source checkout on a POSIX system", allow_module_level=True)
if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
    pytest.skip("bench needs a C compiler", allow_module_level=True)
psutil = pytest.importorskip("psutil")
pyperf = pytest.importorskip("pyperf")
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested

from bench import __main__ as command  # noqa: E402
from bench import measures, process, report, runner, syscalls, workloads  # noqa: E402
from bench.contenders import CONTENDERS  # noqa: E402

SHORT = runner.Settings(rounds=1, seconds=0.05, warm_up=0.02, count_syscalls=False)


def test_names_of_workloads():
    found = [workloads.find(name) for name in workloads.STANDARD]
    assert [workload.name for workload in found] == workloads.STANDARD
    assert len(set(workloads.STANDARD)) == len(workloads.STANDARD)
    assert set(workloads.QUICK) <= set(workloads.STANDARD)


def test_every_server_class_has_a_workload():
    classes = {name for name in dir(socketserver_fast) if name.endswith("Server")}
    measured = {workloads.find(name).server for name in workloads.STANDARD}
    assert classes - {"BaseServer"} <= measured


@pytest.mark.parametrize("name", [
    "tcp_close", "tcp_close_x", "sctp_close_1", "tcp_opened_1", "udp_close_1", "tcp_echo_64", "",
])
def test_a_name_that_means_nothing(name):
    with pytest.raises(ValueError, match=r"no workload|datagram"):
        workloads.find(name)


def test_choose_takes_patterns_and_any_size():
    chosen = [workload.name for workload in workloads.choose("udp_*,tcp_close_7,udp_echo_64")]
    assert chosen == ["udp_echo_64", "udp_echo_1400", "udp_ping_64", "tcp_close_7"]


BOUNDED = ["--warm-up", "0", "--operations", "100", "--seconds", "60", "--timeout", "30"]
EVERY_KIND = workloads.choose(
    "tcp_close_16,tcp_bulkup_1m,tcp_bulkdown_64k,tcp_bulkboth_1m,unix_keep_1,udp_echo_1400,"
    "unixgram_echo_64,http_close_16,threadinghttp_keep_16,threadinghttp_static_1m,"
    "threadinghttp_upload_1m,threadingwsgi_keep_16,threadingxmlrpc_close_16"
)


@pytest.mark.parametrize(("name", "contender"), [
    (workload.name, name) for workload in EVERY_KIND
    for name, contender in CONTENDERS.items() if contender.can(workload)
])
def test_every_contender_answers_rightly(contender, name):
    workload = workloads.find(name)
    try:
        with measures.server_for(contender, workload, SHORT) as server:
            run = measures.run_checked(server, workload, BOUNDED)
    except process.NotAvailable as why:
        pytest.skip(str(why))
    assert run["finished"] == 100


@pytest.fixture
def contender_is(monkeypatch):
    """Make the contender "fast" a Python program."""

    def replace(code):
        monkeypatch.setattr(
            process, "command_of", lambda *arguments: [sys.executable, "-c", code]
        )

    return replace


def measured_fast():
    results = {}
    runner.measure(workloads.find("tcp_keep_1"), ["fast"], SHORT, results)
    return results


@pytest.mark.parametrize(("code", "words"), [
    ("import sys; sys.exit('cannot bind')", "cannot bind"),
    ("print('{\"address\": \"tcp:127.0.0.1:1\"}', flush=True); import time; time.sleep(60)",
     "errors: connect"),
    ("print('{\"address\": \"tcp:127.0.0.1:1\"}', flush=True); raise SystemExit('gone')",
     "gone"),
    ("print('{\"unavailable\": \"no such class\"}')", "not available: no such class"),
    ("print('{\"unavailable\": \"not installed: it\"}')", "not installed: it"),
])
def test_a_contender_that_does_not_work_is_reported_without_numbers(contender_is, code, words):
    contender_is(code)
    results = {"tcp_keep_1": measured_fast()}
    series = results["tcp_keep_1"]["fast"]
    assert series.runs == []
    row = report.markdown(results).splitlines()[-1]
    assert words in (series.failure or report.why_no_runs(series))
    assert row.startswith("| tcp_keep_1 | fast")
    assert not any(cell.strip() for cell in row.split("|")[3:-2])


LEAKING = """
import json, os, socket
listener = socket.create_server(("127.0.0.1", 0))
print(json.dumps({"address": "tcp:127.0.0.1:%d" % listener.getsockname()[1]}), flush=True)
while True:
    connection, _ = listener.accept()
    os.dup(listener.fileno())
    while data := connection.recv(64):
        connection.sendall(data)
    connection.close()
"""


def test_descriptors_left_behind_are_reported(contender_is, monkeypatch):
    monkeypatch.setattr(measures, "SETTLE", 0.1)
    contender_is(LEAKING)
    results = {"tcp_keep_1": measured_fast()}
    assert results["tcp_keep_1"]["fast"].runs[0]["descriptors_left"] == 1
    assert "1 descriptors left behind" in report.markdown(results)


def test_an_interpreter_that_is_not_there():
    settings = runner.Settings(rounds=1, python="/nonexistent/python", count_syscalls=False)
    results = {}
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib"], settings, results)
    assert "did not start" in results["stdlib"].failure


def test_a_failure_in_a_later_round_takes_the_numbers_back(monkeypatch):
    answers = iter([{"operations": 1, "seconds": 1.0}])

    def once(*arguments):
        for answer in answers:
            return answer
        raise process.Failed("died")

    monkeypatch.setitem(runner.MEASURES, "load", once)
    results = {}
    settings = runner.Settings(rounds=3, count_syscalls=False)
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib"], settings, results)
    assert (results["stdlib"].runs, results["stdlib"].failure) == ([], "died")


@pytest.fixture
def load_is(monkeypatch):
    """Make every run of a load one of these, in order; who was measured."""
    asked = []

    def replace(*neighbours):
        shares = iter(neighbours)

        def once(contender, workload, settings):
            asked.append(contender)
            return {"operations": 1, "seconds": 1.0, "neighbours": next(shares)}

        monkeypatch.setitem(runner.MEASURES, "load", once)
        return asked

    return replace


def test_a_disturbed_run_is_made_again_and_the_best_counts(load_is):
    asked = load_is(0.5, 0.2, 0.3, 0.5, 0.0)
    settings = runner.Settings(rounds=2, count_syscalls=False)
    results = {}
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib"], settings, results)
    assert [run["neighbours"] for run in results["stdlib"].runs] == [0.2, 0.0]
    assert len(asked) == 5


def test_every_other_round_goes_backwards(load_is):
    asked = load_is(*[0.0] * 4)
    settings = runner.Settings(rounds=2, count_syscalls=False)
    runner.measure(workloads.find("tcp_keep_1"), ["stdlib", "fast"], settings, {})
    assert asked == ["stdlib", "fast", "fast", "stdlib"]


def run_command(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", "--into", tmp_path, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )


def test_the_command_writes_table_and_pyperf_files(tmp_path):
    done = run_command(
        tmp_path, "--only", "tcp_keep_1,udp_echo_64,package_import_1,threading_idle_10",
        "--contenders", "stdlib,floor", "--rounds", "2", "--seconds", "0.05", "--no-syscalls",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == (tmp_path / "table.md").read_text().rstrip()
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "stdlib.json"))
    assert {"tcp_keep_1", "tcp_keep_1_cpu", "udp_echo_64", "package_import_1"} <= set(
        suite.get_benchmark_names()
    )
    assert suite.get_benchmark("tcp_keep_1").get_nvalue() == 2
    raw = json.loads((tmp_path / "runs.json").read_text())
    assert len(raw["tcp_keep_1"]["floor"]["runs"]) == 2


def test_what_is_measured_without_rounds_of_load(tmp_path):
    names = ["threading_drain_3", "threading_open_5", "tcp_shutdown_1", "tcp_start_1"]
    done = run_command(tmp_path, "--only", ",".join(names), "--contenders", "stdlib,fast",
                       "--rounds", "1", "--no-syscalls")
    assert done.returncode == 0, done.stderr
    for name in names:
        assert done.stdout.count(f"| {name} ") == 2
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "fast.json"))
    assert set(suite.get_benchmark_names()) == set(names)


def test_repeat_measures_again_and_says_how_far_apart(tmp_path):
    done = run_command(
        tmp_path, "--only", "tcp_keep_1", "--contenders", "stdlib,floor", "--rounds", "1",
        "--seconds", "0.05", "--no-syscalls", "--repeat", "2",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("largest difference: ")
    assert (tmp_path / "repeat2" / "runs.json").is_file()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
def test_system_calls_of_workers_that_were_there_before_are_counted():
    calls = syscalls.per_operation("fast", workloads.find("prefork_close_1"), SHORT, 50)
    assert 5 < calls < 50


def test_the_command_says_by_its_status_that_a_contender_failed(contender_is, tmp_path, capsys):
    contender_is("raise SystemExit('broken on purpose')")
    status = command.main([
        "--only", "tcp_keep_1", "--contenders", "fast", "--rounds", "1", "--no-syscalls",
        "--into", str(tmp_path),
    ])
    said = capsys.readouterr()
    assert status == 1
    assert "tcp_keep_1 fast: did not start: broken on purpose" in said.err
    assert "FAILED" in said.out


def test_the_command_says_by_its_status_that_a_contender_is_not_installed(
    contender_is, tmp_path, capsys
):
    contender_is("print('{\"unavailable\": \"not installed: it\"}')")
    status = command.main([
        "--only", "tcp_keep_1", "--contenders", "fast", "--rounds", "1", "--no-syscalls",
        "--into", str(tmp_path),
    ])
    assert status == command.NOT_ALL_INSTALLED
    assert "not installed: it" in capsys.readouterr().out


def test_the_command_refuses_unknown_names(tmp_path):
    assert run_command(tmp_path, "--only", "tcp_cloze_16").returncode == 2
    assert run_command(tmp_path, "--contenders", "stdlibb").returncode == 2


def test_control_c_ends_all_children_and_keeps_what_was_measured(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-m", "bench", "--into", tmp_path, "--only", "tcp_keep_1,udp_echo_64",
         "--contenders", "floor", "--rounds", "1", "--seconds", "2", "--no-syscalls"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with running:
        for line in running.stderr:
            if "udp_echo_64" in line:
                break
        children = []
        while len(children) < 2:  # the server and the load
            children = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        printed, _ = running.communicate(timeout=30)
    assert running.returncode == command.INTERRUPTED
    _, alive = psutil.wait_procs(children, timeout=10)  # the system reaps the children's children
    assert not alive
    assert "tcp_keep_1" in printed
    assert "not measured" in printed


SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           3         9         1 recvfrom
 40.00    0.000200           3         3           futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           3        12         1 total
"""


def test_total_calls_of_strace():
    assert syscalls.total_calls(SUMMARY) == 12
    assert syscalls.total_calls(SUMMARY, without={"futex"}) == 9
    with pytest.raises(process.Failed, match="no calls"):
        syscalls.total_calls("strace: detached")
