"""For the site: output of commands for `<!-- output: COMMAND -->`, and shell that wraps well."""

import re
import shlex
import subprocess
import sys

SHELL = re.compile(r'(<div class="language-sh highlight">.*?<code>)(.*?)(?=</code>)', re.DOTALL)
OPTION = re.compile(r"(?<=[ >])--?[a-z][a-z-]*")


def on_page_markdown(markdown, **_):
    """Put the output of each command in its place."""
    return re.sub(r"^<!-- output: python (.*) -->$", output, markdown, flags=re.MULTILINE)


def output(match):
    """A block with what the command prints."""
    printed = subprocess.run([sys.executable, *shlex.split(match[1])], env={"COLUMNS": "84"},
                             stdout=subprocess.PIPE, text=True, check=True)
    return f"```text\n{printed.stdout.rstrip()}\n```"


def on_page_content(html, **_):
    """Mark each line of shell, and the options, which a browser would break at their hyphens."""
    return SHELL.sub(lambda block: block[1] + marked(block[2]), html)


def marked(code):
    """The code with its lines and options as elements, for site.css."""
    code = OPTION.sub(r'<span class="option">\g<0></span>', code)
    return "".join(f'<span class="line">{line}</span>' for line in code.splitlines(keepends=True))
