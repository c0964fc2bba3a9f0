"""What a training logs in its folder: configuration, origin, and metrics as lines, tables and curves (see `run`)."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from twospeed.environment import commit_of_this_code, installed_versions, machine_name
from twospeed.errors import InputError
from twospeed.files import csv_text, disk_errors, make_folder, parse_json, write_json, write_text

Value = int | float | str


class RunLog:
    """Writes metrics while a training runs; to be closed. Raises OutputError where the disk refuses.

    resume_step: None starts a new log. A number continues one: rows written
    after that step (between the last checkpoint and the interruption) are removed, so that the curve has each
    step once. active: False writes nothing (all ranks but the first).
    """

    def __init__(self, path: Path, config: Any, *, resume_step: int | None = None, active: bool = True) -> None:
        self.path = path
        self.active = active
        self._fields: dict[str, list[str]] = {}
        self._tensorboard: Any = None
        if not active:
            return
        make_folder(path)
        if resume_step is None:
            write_json(path / "config.json", resolved(config))
            write_json(path / "origin.json", origin())
        else:
            with disk_errors(path):
                self._drop_after(resume_step)
        self._tensorboard = _tensorboard(path / "tensorboard", resume_step)

    def close(self) -> None:
        """Close the curves of TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def log(self, kind: str, step: int, **values: Value) -> None:
        """Append one row to metrics.jsonl, <kind>.csv and TensorBoard; rows of a kind have the same fields."""
        if not self.active:
            return
        row: dict[str, Value] = {"step": step, **values}
        table = self.path / f"{kind}.csv"
        known = self._fields.get(kind)
        if known is not None and known != list(row):
            raise ValueError(f"rows of {kind!r} have the fields {known}, got {list(row)}")
        self._fields[kind] = list(row)
        with disk_errors(self.path):
            known = _header(table)
            if known not in (None, list(row)):  # an earlier version of the recipe logged other numbers: leave them out
                rows = csv.DictReader(table.read_text("utf-8", "replace").splitlines())
                write_text(table, csv_text([row, *([old.get(name, "") for name in row] for old in rows)]))
            with (self.path / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps({"kind": kind, **row}) + "\n")
            with table.open("a", newline="") as file:
                file.write(csv_text([*([row] if known is None else []), row.values()]))
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def _drop_after(self, step: int) -> None:
        lines = self.path / "metrics.jsonl"
        if not lines.exists():
            return
        found = [row for line in lines.read_text("utf-8", "replace").splitlines() if (row := _row(line)) is not None]
        kept = [row for row in found if row["step"] <= step]
        write_text(lines, "".join(json.dumps(row) + "\n" for row in kept))
        rows: dict[str, list[dict[str, Value]]] = {}
        for row in kept:
            rows.setdefault(row.pop("kind"), []).append(row)
        for table in self.path.glob("*.csv"):
            if table.stem not in rows and (_header(table) or [])[:1] == ["step"]:  # others are not ours
                table.unlink()
        for kind, entries in rows.items():
            write_text(self.path / f"{kind}.csv", csv_text([entries[0], *(row.values() for row in entries)]))


def resolved(config: Any) -> dict[str, Any]:
    """Return a recipe's configuration as JSON values: nested dataclasses, paths as text, tuples as lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    result: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return result


def origin() -> dict[str, Any]:
    """Return where a result comes from: command, commit (None for an installed wheel), versions, machine."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "command": sys.argv, "commit": commit_of_this_code(), "started": started, "versions": installed_versions(),
        "machine": machine_name(),
    }  # fmt: skip


def _tensorboard(path: Path, resume_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path), purge_step=None if resume_step is None else resume_step + 1)


def _header(table: Path) -> list[str] | None:
    if not table.exists():
        return None
    with table.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n").split(",")


def _row(line: str) -> dict[str, Any] | None:
    """Read a row, None for one that is none: the last of an interrupted run may be cut, and files may be damaged."""
    try:
        row = parse_json(line, "metrics.jsonl")
        sound = type(row["step"]) is int and re.fullmatch(r"\w+", row["kind"])  # the kind names a file
    except (InputError, KeyError, TypeError):
        return None
    return row if sound else None
