"""Progress of an evaluation: a bar on a terminal; elsewhere a line for each part that is finished."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from twospeed.results import OnProgress, Progress


@contextmanager
def progress_shown(quiet: bool) -> Iterator[OnProgress]:
    """Give what shows progress: a bar on a terminal, a line for each finished part elsewhere, nothing when quiet."""
    if quiet:
        yield lambda progress: None
    elif not sys.stderr.isatty():
        yield _print_line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        console = Console(stderr=True)
        with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
            tasks: dict[str, Any] = {}

            def draw(progress: Progress) -> None:
                if progress.task not in tasks:
                    tasks[progress.task] = bars.add_task(f"{progress.task} ({progress.unit})", total=progress.total)
                bars.update(tasks[progress.task], completed=progress.done, total=progress.total)

            yield draw


def _print_line(progress: Progress) -> None:
    if progress.message:
        typer.echo(progress.message, err=True)
