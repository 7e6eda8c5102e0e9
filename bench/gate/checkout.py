"""Make a folder from which the package can be imported: from a Git revision, or the work tree."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from bench.process import ROOT, Failed


def run(*command):
    """Run to the end; stdout, or Failed with what was said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace")
        raise Failed(f"{' '.join(map(str, command))}: {said.strip()}")
    return done.stdout


def source_of_revision(revision, folder):
    """The files of a revision."""
    archive = folder / "source.tar"
    run("git", "archive", "-o", str(archive), revision)
    with tarfile.open(archive) as files:
        files.extractall(folder / "source", filter="data")
    return folder / "source"


def source_of_work_tree(folder):
    """The files as they are now, without what was built from them."""
    names = run("git", "ls-files", "-coz", "--exclude-standard").decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder / "source"


def built(what, folder):
    """A folder to put on the import path: `what` is such a folder, a revision, or "." for here."""
    if what != "." and Path(what, "socketserver_fast").is_dir():
        return Path(what).resolve()
    folder.mkdir()
    source = source_of_work_tree(folder) if what == "." else source_of_revision(what, folder)
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
        "--disable-pip-version-check", "--target", str(folder / "built"), str(source))
    return folder / "built"
