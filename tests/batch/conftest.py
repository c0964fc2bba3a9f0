"""What several tests of batches share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from twospeed.batch.worker import Outcome, Task, Work, execute
from twospeed.cli import batch as commands

# As RayEngine sets it; it is read when Ray is imported, which tests do earlier
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


class InThisProcess:
    """An engine whose worker is this process, which has torch loaded: processes have tests of their own."""

    slots = 1

    def __init__(self, work: Work, values: object) -> None:
        self._work, self._tasks = work, list[Task]()

    @property
    def free(self) -> int:
        return 1 - len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [execute(self._work, self._tasks.pop())] if self._tasks else []

    def close(self) -> None: ...


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(commands, "_engine", InThisProcess)


def same(single: Path, batch: Path, *leave_out: str) -> None:
    """Check that two folders hold the same files, byte for byte, except for times in the record and the report."""
    files = {path.relative_to(single) for path in single.rglob("*") if path.is_file()}
    assert files == {path.relative_to(batch) for path in batch.rglob("*") if path.is_file()}
    assert len(files) > 4
    for file in files - {Path("run.json"), Path("report.html"), *map(Path, leave_out)}:
        assert (single / file).read_bytes() == (batch / file).read_bytes(), file
    records = [json.loads((folder / "run.json").read_text()) for folder in (single, batch)]
    for record in records:
        for name in ("report.html", *leave_out):
            record["files"].pop(name, None)
        for varying in ("seconds", "frames_per_second"):
            del record[varying]
    assert records[0] == records[1]
