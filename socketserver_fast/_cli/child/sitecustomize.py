"""Patches a Python process that was started by a program under `python -m socketserver_fast`.

The command puts this folder on PYTHONPATH, so that the interpreter imports this module when it
starts. What it would have imported instead comes afterwards, and sys.path is as it would have been.
"""

import importlib
import os
import sys

# By hand: every Python process that the program starts would wait for the import of pathlib.
HERE = __file__.rpartition(os.sep)[0]
INSTALLED = HERE.rsplit(os.sep, 3)[0]


def patch_as_parent():
    """Do what the command did, unless this is another Python, for which nothing is compiled."""
    tag, _, model = os.environ.get("SOCKETSERVER_FAST_PATCH", "").partition(" ")
    if tag != sys.implementation.cache_tag:
        return
    sys.path.append(INSTALLED)  # it may have been run from a folder that is not on the path
    try:
        command = importlib.import_module("socketserver_fast.__main__")
    finally:
        sys.path.remove(INSTALLED)
    command.patching.patch(**command.threads_settings(model or None))


while HERE in sys.path:
    sys.path.remove(HERE)
this = sys.modules.pop("sitecustomize")
try:
    importlib.import_module("sitecustomize")
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
finally:
    sys.modules.setdefault("sitecustomize", this)
    patch_as_parent()
