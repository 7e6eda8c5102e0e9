"""bench is tested from a checkout, on Linux and with a C compiler; elsewhere there is none."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CC", "cc").split()[0])
if not (ROOT / "bench").is_dir() or sys.platform != "linux" or not COMPILER:
    collect_ignore_glob = ["test_*.py"]
sys.path.append(str(ROOT))  # behind the installed package, which is what is tested
