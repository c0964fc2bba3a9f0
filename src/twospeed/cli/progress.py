"""Progress of everything long: bars on a terminal; elsewhere a line every ten seconds and for each new message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twospeed.cli.printing import print_note

if TYPE_CHECKING:
    from twospeed.results import OnProgress, Progress

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[OnProgress]:
    """Give what every `on_progress` takes: it shows how far a task is, on stderr. quiet: shows nothing."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bars() as bars:
            tasks: dict[str, Any] = {}

            def draw(progress: Progress) -> None:
                if progress.task not in tasks:
                    tasks[progress.task] = bars.add_task(
                        progress.task, unit=progress.unit, detail="", completed=progress.done_before
                    )
                detail = " ".join(filter(None, [_rate(progress), _detail(progress)]))
                bars.update(tasks[progress.task], completed=progress.done, total=progress.total, detail=detail)

            yield draw
    else:
        last = dict[str, float]()  # task -> seconds at its last line
        messages = dict[str, str]()  # task -> its last message

        def print_lines(progress: Progress) -> None:
            is_news = bool(progress.message) and progress.message != messages.get(progress.task)
            if is_news or progress.seconds - last.get(progress.task, 0.0) > _SECONDS_BETWEEN_LINES:
                last[progress.task], messages[progress.task] = progress.seconds, progress.message
                of_total = f" of {progress.total}" if progress.total else ""
                pace = "".join(f", {text}" for text in (_rate(progress), _left(progress)) if text)
                print_note(
                    f"{progress.task}: {progress.done}{of_total} {progress.unit}{pace} {_detail(progress)}".rstrip()
                )

        yield print_lines


def _detail(progress: Progress) -> str:
    return " ".join([*(f"{name} {value:.4g}" for name, value in progress.values.items()), progress.message]).strip()


def _rate(progress: Progress) -> str:
    rate = progress.rate
    return "" if rate is None else f"{rate:.1f}/s" if rate >= 1 else f"{rate:.2g}/s"


def _left(progress: Progress) -> str:
    if not progress.total or progress.rate is None or progress.done >= progress.total:
        return ""
    seconds = round((progress.total - progress.done) / progress.rate)
    return f"{seconds} s left" if seconds < 120 else f"{seconds // 60} min left"


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
