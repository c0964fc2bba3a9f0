"""The result of an evaluation: scores, and all that is needed to believe and repeat them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from twospeed.environment import commit_of_this_code, installed_versions, machine_name
from twospeed.files import csv_text, make_folder, write_text

Kind = Literal["share", "count", "seconds", "number"]


@dataclass(frozen=True, slots=True)
class Table:
    """Scores as people read them: one row of numbers for each name. NaN and None are shown as a dash.

    kinds: what each column holds; empty when all are shares (fractions in 0..1, shown as percentages). title: a line
    above it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    kinds: tuple[Kind, ...] = ()
    title: str = ""

    def text(self) -> str:
        """Return the table in aligned columns, fractions as percentages with one decimal."""
        names = [name for name, _ in self.rows]
        width = max(len(name) for name in ["", *names])
        every: Kind = "share"
        kinds = self.kinds or (every,) * len(self.columns)
        widths = [max(11, len(column) + 2) for column in self.columns]
        head = " " * width + "".join(f"{column:>{w}}" for column, w in zip(self.columns, widths, strict=True))
        lines = [
            f"{name:<{width}}"
            + "".join(f"{_shown(value, kind):>{w}}" for value, kind, w in zip(values, kinds, widths, strict=True))
            for name, values in self.rows
        ]
        return "\n".join([*([self.title] if self.title else []), head, *lines])

    def csv(self) -> str:
        """Return the table as CSV: plain numbers, fractions as they are, empty where there is none."""
        rows = [[name, *("" if _missing(v) else repr(v) for v in values)] for name, values in self.rows]
        return csv_text([["name", *self.columns], *rows])


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _shown(value: float | None, kind: Kind) -> str:
    if value is None or math.isnan(value):
        return "–"
    return {"share": f"{100 * value:.1f}", "count": f"{value:,.0f}", "seconds": f"{value:.1f}",
            "number": f"{value:.2f}"}[kind]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one evaluation.

    scores: as they stand at the top level of the JSON file, fractions in 0..1, names as others read them.
    protocol: one sentence on what was counted. coverage: how much of the set was scored ("14 of 20
    sequences"). model: name of what was evaluated, or where its predictions lay. weights_sha256: of each
    model's weights file. parameters: of the network, where that was counted. notes: what a reader should know
    before comparing. settings, speed: options of the run and what it took (empty when files were scored).
    machine, versions, commit: filled in for the machine at hand.
    """

    benchmark: str
    scores: Mapping[str, Any]
    table: Table
    more_tables: tuple[Table, ...] = ()
    protocol: str
    coverage: str
    model: str
    weights_sha256: tuple[str | None, ...] = ()
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, Any] = field(default_factory=dict)
    machine: str = field(default_factory=lambda: machine_name())
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    commit: str | None = field(default_factory=lambda: commit_of_this_code())

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers; what is not a number (NaN) becomes None."""
        checksums = list(self.weights_sha256)
        names = ("benchmark", "protocol", "coverage", "model", "weights_sha256", "parameters", "settings", "speed",
                 "notes", "machine", "versions", "commit")  # fmt: skip
        document = {**self.scores, **{name: getattr(self, name) for name in names}}
        document["weights_sha256"] = checksums[0] if len(checksums) == 1 else checksums or None
        plain: dict[str, Any] = _plain(document)
        return plain

    def write_json(self, path: Path) -> None:
        """Write the JSON file whole or not at all. Raises OutputError when that fails."""
        make_folder(path.parent)
        write_text(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def text(self) -> str:
        """Return what is shown to people: a head line, the table, then protocol, speed and notes."""
        tables = [text for table in (self.table, *self.more_tables) for text in (table.text(), "")]
        lines = [f"{self.benchmark} · {self.model} · {self.coverage}", "", *tables, self.protocol]
        if self.speed:
            lines.append(
                f"{self.speed['frames']} frames in {self.speed['seconds']:.1f} s, "
                f"{self.speed['frames_per_second']:.2f} frames/s ({self.speed['clock']})"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) or type(value).__module__ == "numpy":
        number = float(value)
        return None if math.isnan(number) else number
    return value
