"""bench is tested from a checkout, on Linux and with a C compiler; elsewhere there is none."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CC", "cc").split()[0]
collect_ignore_glob = []
if not (ROOT / "bench").is_dir() or sys.platform != "linux" or not shutil.which(COMPILER):
    collect_ignore_glob.append("test_*.py")
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested
