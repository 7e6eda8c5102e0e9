"""For the site: what a command says of itself stands in a page as `<!-- output: COMMAND -->`."""

import re
import shlex
import subprocess
import sys


def on_page_markdown(markdown, **_):
    """Put the output of each command in its place."""
    return re.sub(r"^<!-- output: python (.*) -->$", output, markdown, flags=re.MULTILINE)


def output(match):
    """A block with what the command prints."""
    printed = subprocess.run([sys.executable, *shlex.split(match[1])], env={"COLUMNS": "92"},
                             capture_output=True, text=True, check=True)
    return f"```text\n{printed.stdout.rstrip()}\n```"
