"""A paper's table with our numbers beside its own, and for every empty cell what would fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twospeed.errors import InputError
from twospeed.files import csv_text, read_json
from twospeed.papers.facts import Format, Paper, PaperRun, PaperTable, Row, two_digits


@dataclass(frozen=True)
class FilledTable:
    """A table and our numbers: by (row, column), in the unit that the paper prints.

    missing: lines on empty cells. measured: a line for each run that gave numbers: on what, how much of it, and how.
    """

    paper: Paper
    table: PaperTable
    ours: Mapping[tuple[str, str], float]
    missing: tuple[str, ...]
    measured: tuple[str, ...] = ()

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads and rows of text: each of the paper's columns, with ours after those that can have it."""
        heads, places = [""], []
        for index, (name, _) in enumerate(self.table.columns):
            heads.append(name)
            places.append((index, False))
            if any(row.ours and row.ours[index] for row in self.table.rows):
                heads.append("ours")
                places.append((index, True))
        rows = [[row.name, *(self._cell(row, index, own) for index, own in places)] for row in self.table.rows]
        return heads, rows

    def _cell(self, row: Row, index: int, own: bool) -> str:
        if not own:
            return row.paper[index] or "–"
        name, how = self.table.columns[index]
        value = self.ours.get((row.name, name))
        if value is not None:
            return _printed(value, how)
        return "–" if row.ours and row.ours[index] else ""

    def text(self) -> str:
        """Return the table in aligned columns, then what would fill its empty cells."""
        heads, rows = self._cells()
        widths = [max(len(line[column]) for line in [heads, *rows]) for column in range(len(heads))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in [heads, *rows]
            if self.table.columns
        ]
        head = f"{self.paper.name} {self.table.name}: {self.table.title} ({self.table.source})"
        below = [part for part in (self.measured, self.missing) if part]
        return "\n".join(
            [head, "", *(line.rstrip() for line in lines), *(line for part in below for line in ("", *part))]
        )

    def curves(self) -> list[tuple[str, list[tuple[str, float, float]]]]:
        """Return accuracy against throughput for `plot_trade_off`: rows with one name before "(" are one curve.

        Of each the paper's points and ours. Raises InputError for a table without these two columns, or points.
        """
        names = [name for name, _ in self.table.columns]
        if not {"Avg. mIoU", "FPS"} <= set(names):
            raise InputError(
                f"{self.paper.name} {self.table.name} has no columns Avg. mIoU and FPS to draw; gsvnet's table1 has",
                option="plot",
            )
        found: dict[str, list[tuple[str, float, float]]] = {}
        for row in self.table.rows:
            name, _, setting = row.name.partition(" (")
            printed = [_in_print(row.paper[names.index(column)]) for column in ("FPS", "Avg. mIoU")]
            ours = [self.ours.get((row.name, column)) for column in ("FPS", "Avg. mIoU")]
            for whose, (speed, score) in (("paper", printed), ("ours", ours)):
                if speed is not None and score is not None:
                    found.setdefault(f"{name}, {whose}", []).append((setting.rstrip(")"), speed, score / 100))
        if not found:
            raise InputError(
                f"{self.paper.name} {self.table.name} has no numbers to draw: the paper prints none, no run gave ours",
                option="plot",
            )
        return list(found.items())

    def csv(self) -> str:
        """Return the table as CSV, cells as they are printed, empty where there is no number."""
        heads, rows = self._cells()
        names = [f"ours, {heads[i - 1]}" if head == "ours" else head or "name" for i, head in enumerate(heads)]
        return csv_text([names, *([("" if cell in ("–", "-") else cell) for cell in row] for row in rows)])

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the paper's cells as it prints them, ours as numbers in the same unit."""
        return {
            "paper": self.paper.name,
            "table": self.table.name,
            "title": self.table.title,
            "source": self.table.source,
            "rows": {
                row.name: {
                    name: {"paper": row.paper[i] or None, "ours": self.ours.get((row.name, name))}
                    for i, (name, _) in enumerate(self.table.columns)
                }
                for row in self.table.rows
            },
            "measured": list(self.measured),
            "missing": list(self.missing),
        }


def fill(
    paper: Paper, table: PaperTable, runs: Path | None = None, scores: Mapping[str, float] | None = None
) -> FilledTable:
    """Put our numbers into a table.

    runs: folder with RUN.json, the JSON files of evaluations. scores: numbers entered by hand, such as a server's, by
    "ROW/COLUMN", in the unit that the paper prints; they win. Raises InputError for a cell that is not in the table or
    has no number of ours, and for a file that is no evaluation's.
    """
    given = dict(scores or {})
    ours: dict[tuple[str, str], float] = {}
    missing: dict[str, list[str]] = {}
    documents = {run: _document(runs / f"{run}.json") for run in table.runs()} if runs is not None else {}
    used = []
    for row in table.rows:
        for (column, how), cell in zip(table.columns, row.ours, strict=False):
            if not cell:
                continue
            run, _, key = cell.partition(":")
            by_hand = given.pop(f"{row.name}/{column}", None)
            value = _value(documents.get(run) or {}, key)
            if by_hand is not None:
                ours[row.name, column] = by_hand
            elif value is not None:
                used.append(run)
                ours[row.name, column] = value * (100 if how.startswith("percent") else 1)
            else:
                missing.setdefault(run, []).append(f"{row.name}/{column}")
    if given:
        raise InputError(f"{paper.name} {table.name} has no cell {min(given)!r} of ours; name it ROW/COLUMN as printed")
    lines = [line for run, cells in missing.items() for line in _how(paper, run, cells)]
    measured = [_measured(paper.runs[run], documents[run] or {}) for run in dict.fromkeys(used)]
    return FilledTable(paper, table, ours, tuple(lines), tuple(measured))


def _measured(run: PaperRun, document: Mapping[str, Any]) -> str:
    """Say what a run's numbers were measured on and how, and where set or network is another than the paper's."""
    benchmark, model, weights = document["benchmark"], document.get("model"), document.get("weights_sha256")
    theirs = ", ".join(name for name, _ in run.models)
    settings = {name: value for name, value in (document.get("settings") or {}).items() if value}
    parts = [
        f"{benchmark}, not the paper's {run.benchmark}" if benchmark != run.benchmark else "",
        document.get("coverage"),
        f"{model}, in place of {theirs}" if len(run.models) == 1 and model != theirs else model,
        f"weights {weights[:8]}" if isinstance(weights, str) else "",
        document.get("protocol"),
        ", ".join(f"{name} {value}" for name, value in settings.items()),
    ]
    return f"ours of {run.name}: " + "; ".join(str(part) for part in parts if part)


def _document(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or "benchmark" not in content:
        raise InputError(f"{path}: is not the JSON of an evaluation, as `twospeed evaluate` writes it")
    return content


def _value(document: Mapping[str, Any], key: str) -> float | None:
    """Look a dotted key up, taking the longest name at each step: scales have dots in theirs."""
    place: Any = document
    words = key.split(".")
    while words:
        for count in range(len(words), 0, -1):
            name = ".".join(words[:count])
            if isinstance(place, Mapping) and name in place:
                place, words = place[name], words[count:]
                break
        else:
            return None
    return float(place) if isinstance(place, int | float) else None


def _how(paper: Paper, name: str, cells: list[str]) -> list[str]:
    """Return what would fill these cells: the command, its data, its weights and their hours."""
    run = paper.runs[name]
    what = f"data: {run.data}" + (f"; scored by the server of {run.server}" if run.server else "")
    lines = [f"to fill {', '.join(cells)}:", f"  {run.command()}", f"  {what}"]
    for key in dict.fromkeys(key for _, key in run.models):
        weights = paper.weights[key]
        lines.append(f"  {key.upper()}: {weights.about}; hours to train: {weights.hours_to_train()}")
        for step in weights.train:
            several = len(weights.train) > 1 and not weights.hours
            lines.append(f"    {step.command}" + f"  # {two_digits(step.estimated_hours)} hours" * several)
    return [*lines, *([f"  note: {run.note}"] if run.note else [])]


def _in_print(cell: str) -> float | None:
    """Return the number that a cell prints, None where it prints none."""
    try:
        return float(cell)
    except ValueError:
        return None


def _printed(value: float, how: Format) -> str:
    if how == "count":
        return f"{value:,.0f}"
    if how == "milliseconds":
        return f"{1000 * value:.2f}"
    if how == "mega":
        return f"{value / 1e6:.1f}M"
    digits = {"percent": 1, "percent2": 2, "fraction": 3, "number": 1, "seconds": 0}[how]
    return f"{value:.{digits}f}"
