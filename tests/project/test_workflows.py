"""What the workflows and the pages tell people to run is in the tree."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / ".github").glob("**/*.yml")), *sorted((ROOT / ".github").glob("*.md")),
         *(path for path in sorted((ROOT / ".ci").glob("*")) if path.suffix == "")]
if not (ROOT / ".github").is_dir():
    pytest.skip("not in a source checkout", allow_module_level=True)
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}


def found(pattern):
    """Each match in a page, with the page."""
    matches = [(name, match) for name, text in TEXTS.items() for match in re.findall(pattern, text)]
    assert matches
    return matches


def test_scripts_are_there_and_may_be_run():
    scripts = found(r"(?<![\w/])\.ci/\w+(?![\w.])")
    assert [(page, name) for page, name in scripts if not os.access(ROOT / name, os.X_OK)] == []


def test_files_of_tests_are_there():
    files = found(r"(?<![\w/])tests/\w+(?:/\w+\.py)?(?![\w/])")
    assert [(page, name) for page, name in files if not (ROOT / name).exists()] == []


def test_single_tests_are_there():
    tests = found(r"(tests/\w+/\w+\.py)::(\w+)")
    assert [(page, *test) for page, test in tests
            if f"def {test[1]}(" not in (ROOT / test[0]).read_text()] == []


def test_modules_of_the_benchmark_are_there():
    modules = found(r"-m bench\.(\w+)")
    assert [(page, name) for page, name in modules
            if not (ROOT / "bench" / f"{name}.py").exists()] == []
