"""Nothing is left of thousands of requests; each case is growth.py in a fresh process."""

import json
import pathlib
import re
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="counts in /dev/fd")

SCRIPT = pathlib.Path(__file__).parent / "growth.py"
CASES = re.findall(r"^def leak_(\w+)", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("case", CASES)
def test_leaks_none(python, case):
    out, err = python(SCRIPT, f"leak_{case}").communicate(timeout=60)
    assert err == ""
    descriptors, threads, children, blocks_per_round, kib = json.loads(out)
    assert (descriptors, threads, children) == (0, 0, 0)
    assert blocks_per_round < 0.2
    assert kib < 4096
