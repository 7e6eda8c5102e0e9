"""The progress display: a bar of rich where it is installed and this is a terminal, else lines."""

import contextlib
import sys


@contextlib.contextmanager
def display(total):
    """`with display(runs) as step:` and `step(workload, contender)` before each run."""
    with contextlib.ExitStack() as stack:
        step = bar(stack, total) if sys.stderr.isatty() else None
        yield step or plain(total)


def plain(total):
    """One line for each run."""
    count = iter(range(1, total + 1))

    def step(workload, contender):
        print(f"{next(count)}/{total} {workload} {contender}", file=sys.stderr)

    return step


def bar(stack, total):
    """A bar, or None without rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        return None
    progress = stack.enter_context(Progress(
        "{task.description:40}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ))
    task = progress.add_task("", total=total)

    def step(workload, contender):
        progress.update(task, advance=1, description=f"{workload} {contender}")

    return step
