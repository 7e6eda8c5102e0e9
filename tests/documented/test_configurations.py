"""The blocks of the documentation that other programs read are what those programs accept."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
if not DOCS.is_dir():
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)


def blocks(page, language):
    """The blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(),
                      re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_accepts_the_location_of_the_recipe(tmp_path):
    [location] = blocks("recipes.md", "nginx")
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:8080;\n{location}}} }}\n")
    done = subprocess.run(
        ["nginx", "-t", "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf"],
        capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_knows_every_setting_of_the_units(tmp_path):
    for page in ("deploying.md", "recipes.md"):
        for number, unit in enumerate(blocks(page, "ini")):
            kind = "socket" if "[Socket]" in unit else "service"
            path = tmp_path / f"{page[:4]}{number}.{kind}"
            path.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit))
            if kind == "socket":
                path.with_suffix(".service").write_text("[Service]\nExecStart=/bin/true\n")
            done = subprocess.run(
                ["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=60)
            said = [line for line in done.stderr.splitlines() if path.name in line]
            assert [line for line in said if "Unknown" in line or "Failed to parse" in line] == []


def test_settings_of_the_units_are_written_as_systemd_writes_them():
    units = "\n".join(blocks("deploying.md", "ini") + blocks("recipes.md", "ini"))
    lines = [line for line in units.splitlines() if line and not line.startswith(("#", "["))]
    assert lines
    assert [line for line in lines if not re.match(r"[A-Z][A-Za-z]+=\S", line)] == []


def test_prometheus_configuration_has_the_port_of_the_option():
    [configuration] = blocks("serving.md", "yaml")
    target = json.loads(re.search(r"targets: (\[.*\])", configuration)[1])[0]
    assert f"--metrics {target}" in (DOCS / "serving.md").read_text()
