"""What the four jobs share: progress, `run.json`, and results that survive Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from twospeed.environment import installed_versions
from twospeed.errors import InputError, OutputError
from twospeed.results import RunRecord

_SECONDS_BETWEEN_LINES = 10.0


class Job:
    """One run of a command over a video: counts frames, shows progress, and leaves `run.json` in its folder.

    Use as a context manager around the loop and call `advance` for each frame. On a terminal a bar is drawn on stderr;
    elsewhere a plain line appears every ten seconds; `quiet` silences both. `run.json` is written when the block is
    left, whatever the reason, and with the first frame, should the process be killed: an interrupted run says
    `"finished": false` and keeps its frames.
    """

    def __init__(
        self,
        command: str,
        *,
        model: str,
        weights_sha256: str | None,
        options: Mapping[str, Any],
        output: Path | None,
        total: int | None = None,
        quiet: bool = False,
    ):
        self.command, self.model, self.weights_sha256 = command, model, weights_sha256
        self.options, self.output, self.total, self.quiet = dict(options), output, total, quiet
        self.frames = 0
        self.started = self._last_line = time.perf_counter()
        self._ended: float | None = None
        self._bar: Any = None

    def __enter__(self) -> Job:
        self.started = self._last_line = time.perf_counter()
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self.command, total=self.total)
        return self

    def advance(self, frames: int = 1) -> None:
        """Count frames that are finished."""
        if self.frames == 0:
            self._write_record(finished=False)
        self.frames += frames
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.frames)
        elif not self.quiet and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            of_total = f" of {self.total}" if self.total else ""
            print(
                f"{self.command}: {self.frames}{of_total} frames, {self.record().frames_per_second:.1f}/s",
                file=sys.stderr,
            )

    def record(self, *, finished: bool = False) -> RunRecord:
        """Describe the run so far; once the block is left, as it was then."""
        seconds = (self._ended or time.perf_counter()) - self.started
        return RunRecord(
            command=self.command,
            model=self.model,
            weights_sha256=self.weights_sha256,
            options=self.options,
            versions=installed_versions(),
            frames=self.frames,
            seconds=round(seconds, 3),
            frames_per_second=round(self.frames / seconds, 3) if seconds > 0 else 0.0,
            finished=finished,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()
        if kind is None or self.frames > 0:
            self._write_record(finished=kind is None)

    def _write_record(self, *, finished: bool) -> None:
        if self.output is not None:
            write_json(self.output / "run.json", dataclasses.asdict(self.record(finished=finished)))

    def earlier(self) -> dict[str, Any] | None:
        """Return the record of an earlier run in the same folder, of the same settings; None where there is none.

        Raises InputError when that run was of another kind, OutputError when its record cannot be read.
        """
        path = self.output / "run.json" if self.output is not None else None
        if path is None or not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            then = {"model": record["model"], "weights_sha256": record["weights_sha256"], **record["options"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"cannot read {path} ({error}); leave --resume out to begin anew") from error
        now = {"model": self.model, "weights_sha256": self.weights_sha256, **self.options}
        now = json.loads(json.dumps(now, default=str))
        if other := [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]:
            key = other[0]
            raise InputError(
                f"{path.parent} holds a run with {key} {then.get(key)!r}, now it is {now.get(key)!r}; give the same "
                "options, leave --resume out to begin anew, or choose another -o"
            )
        return dict(record)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all. Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path} ({error.strerror}); free space, or choose another -o") from error


def make_folder(path: Path) -> Path:
    """Create an output folder. Raises OutputError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {path} ({error.strerror}); choose another -o") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"no permission to write into {path}; choose another -o")
    return path


def print_json(content: Any, stream: IO[str] | None = None) -> None:
    """Print machine-readable results, one document on stdout."""
    print(json.dumps(content, indent=2, default=str), file=stream or sys.stdout)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
