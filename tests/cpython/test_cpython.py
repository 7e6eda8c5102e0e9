"""CPython's own tests of the running interpreter, with the package standing in for socketserver
and, again, with the stdlib patched."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

RUN = pathlib.Path(__file__).parent / "run.py"
REQUIRED = "SOCKETSERVER_FAST_REQUIRE_CPYTHON_TESTS"
MODULES = [
    "test_socketserver",
    "test_httpservers",
    "test_xmlrpc",
    "test_docxmlrpc",
    "test_wsgiref",
    "test_logging",
    "test_httplib",
    "test_urllib2_localnet",
]

# The tests that fail because of what the package is, and why. What fails on the unmodified
# interpreter as well is found by running it, and needs no line here.
EXPECTED = {
    "stand-in": {
        # Wants each public object to say that its __module__ is "socketserver".
        "test.test_socketserver.MiscTestCase.test_all",
    },
    "patched": set(),
}


def installed(module):
    """Return whether the interpreter was installed with this module of its tests."""
    try:
        return importlib.util.find_spec(f"test.{module}") is not None
    except ModuleNotFoundError:
        return False


def require(module):
    """Skip when the interpreter has not got the module, or fail where that is forbidden."""
    if not installed("support") or not installed(module):
        complain = pytest.fail if os.environ.get(REQUIRED) == "1" else pytest.skip
        complain(f"{sys.executable} was installed without test.{module}")


def run_module(mode, module, folder):
    """Run the module in a new interpreter; return the count, the failed ids, the output."""
    folder.mkdir()
    result = folder / "result.json"
    work = folder / "work"
    work.mkdir()
    child = subprocess.run(
        [sys.executable, RUN, mode, module, result],
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=110,
    )
    assert result.exists(), f"{mode} {module} ended early ({child.returncode}):\n{child.stdout}"
    outcome = json.loads(result.read_text())
    return outcome["ran"], set(outcome["failed"]), child.stdout


@pytest.mark.timeout(240)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("mode", ["stand-in", "patched"])
def test_cpython_tests_pass(mode, module, tmp_path):
    require(module)
    ran, failed, output = run_module(mode, module, tmp_path / mode)
    print(output)
    assert ran > 0, f"no test of {module} ran"
    failed -= EXPECTED[mode]
    if failed:
        failed -= run_module("unmodified", module, tmp_path / "unmodified")[1]
    assert not failed, f"only {mode}, not on the unmodified interpreter: {sorted(failed)}"
