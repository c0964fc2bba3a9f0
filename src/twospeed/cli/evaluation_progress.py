"""Progress of an evaluation: a bar on a terminal, a line for each sequence elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress, Progress


def progress_shown(quiet: bool) -> AbstractContextManager[OnProgress]:
    """Return what shows progress: a bar on a terminal, a line for each sequence elsewhere, nothing when quiet."""
    if quiet:
        return nullcontext(lambda progress: None)
    if sys.stderr.isatty():
        return _Bar()
    return nullcontext(_say_line)


def _say_line(progress: Progress) -> None:
    if progress.stage == "track" and progress.frame == progress.frames:
        what = "kept from before" if progress.skipped else f"{progress.frames} frames"
        number = f"{progress.index} of {progress.sequences}"
        typer.echo(f"{progress.sequence}: {what} ({number})", err=True)


class _Bar(AbstractContextManager["OnProgress"]):
    """A bar over all sequences, with the name of the one at hand and its frame."""

    def __enter__(self) -> OnProgress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._bar.start()
        return self._advance

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _advance(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(progress.stage, total=progress.sequences, detail="")
        part = progress.frame / progress.frames if progress.frames else 1.0
        self._bar.update(
            self._tasks[progress.stage],
            completed=progress.index - 1 + part,
            detail=f"{progress.sequence} {progress.frame}/{progress.frames}",
        )
