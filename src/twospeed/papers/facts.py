"""What the papers print, from the data files beside this one: tables, runs that fill them, weights that runs need."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from twospeed.errors import InputError

PAPERS = ("slowfast_vos", "slowfast_ava", "slowfast", "gsvnet", "stcn")
Format = Literal["percent", "percent2", "fraction", "number", "count", "seconds", "milliseconds", "mega", "text"]


@dataclass(frozen=True)
class Row:
    """One row. paper: each cell as the paper prints it, "-" or empty where it has none. ours: "RUN:KEY" of each cell,
    empty where nothing of ours belongs there; no entries for other people's methods."""

    name: str
    paper: tuple[str, ...]
    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """One table or figure. source: where it stands. columns: name, and how our number is printed in its unit."""

    name: str
    title: str
    source: str
    columns: tuple[tuple[str, Format], ...]
    rows: tuple[Row, ...]

    def runs(self) -> list[str]:
        """Return the names of the runs that fill cells, in order."""
        cells = [cell for row in self.rows for cell in row.ours if cell]
        return list(dict.fromkeys(cell.partition(":")[0] for cell in cells))


A100_PEAK = 78e12  # multiply-adds a second, dense, in TF32: 156 TFLOPS in NVIDIA's data sheet, which counts each as two
UTILISATION = 0.3  # share of the peak that a training is taken to reach


@dataclass(frozen=True)
class Training:
    """One command that trains.

    samples: learned from in the whole training. multiply_adds: of one, forward and backward. Both are 0 where the
    paper gives the hours.
    """

    command: str
    samples: int = 0
    multiply_adds: float = 0.0

    @property
    def estimated_hours(self) -> float:
        """Hours on one A100."""
        return self.samples * self.multiply_adds / (A100_PEAK * UTILISATION) / 3600


@dataclass(frozen=True)
class Weights:
    """Weights that a run needs: what they are, what trains them in order, and what the paper says of the hours."""

    about: str
    train: tuple[Training, ...]
    hours: str = ""

    def hours_to_train(self) -> str:
        """Return what the paper says, or an estimate from the multiply-adds with what it assumes."""
        if self.hours:
            return self.hours
        total = sum(step.samples * step.multiply_adds for step in self.train)
        hours = two_digits(sum(step.estimated_hours for step in self.train))
        work = f"{total:.1e}".replace("e+", "e")
        share = f"{100 * UTILISATION:.0f} % of its TF32 peak, {2 * A100_PEAK / 1e12:.0f} TFLOPS"
        return f"about {hours} on one A100 (estimate: {work} multiply-adds at {share}; without reading data)"


def two_digits(number: float) -> str:
    """Print a number that is not known better: 1,200, 31, 0.42."""
    return f"{float(f'{number:.2g}'):,g}"


@dataclass(frozen=True)
class PaperRun:
    """One evaluation. models: (name in the catalogue, key in `Paper.weights`). data: the name of its data set.

    server: whose server scores it, where the annotations are not public. note: how it differs from the paper.
    """

    name: str
    benchmark: str
    models: tuple[tuple[str, str], ...]
    options: str = ""
    data: str = ""
    server: str = ""
    note: str = ""

    def arguments(self, data: str, weights: Mapping[str, str], json_file: str, output: str) -> list[str]:
        """Return what follows `twospeed` on the command line, with these places for data, weights and results."""
        models = [word for name, key in self.models for word in ("--model", name, "--weights", weights[key])]
        places = ["-o", output, "--json", json_file]
        return ["evaluate", self.benchmark, "--data", data, *models, *shlex.split(self.options), *places]

    def command(self, run_folder: str = "RUNS") -> str:
        """Return the command for people, with capitals for what they fill in."""
        places = {key: key.upper() for _, key in self.models}
        words = self.arguments("DATA", places, f"{run_folder}/{self.name}.json", f"{run_folder}/{self.name}")
        return shlex.join(["twospeed", *words])


@dataclass(frozen=True)
class Paper:
    """One paper."""

    name: str
    title: str
    authors: str
    tables: tuple[PaperTable, ...]
    runs: Mapping[str, PaperRun]
    weights: Mapping[str, Weights]

    def table(self, name: str) -> PaperTable:
        """Return one table. Raises InputError for a name that it does not have."""
        found = next((table for table in self.tables if table.name == name), None)
        if found is None:
            raise InputError(f"{self.name} has no {name!r}; there are {', '.join(table.name for table in self.tables)}")
        return found


def read_paper(name: str) -> Paper:
    """Read a paper's data file. Raises InputError for a name that is none of `PAPERS`."""
    if name not in PAPERS:
        raise InputError(f"no paper {name!r}; there are {', '.join(PAPERS)}")
    text = (resources.files("twospeed.papers") / f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    tables = tuple(_table(entry) for entry in content["tables"])
    runs = {key: _run(key, entry) for key, entry in content["runs"].items()}
    weights = {
        key: Weights(entry["about"], tuple(Training(**step) for step in entry["train"]), entry.get("hours", ""))
        for key, entry in content["weights"].items()
    }
    return Paper(name, content["title"], content["authors"], tables, runs, weights)


def _table(entry: Mapping[str, Any]) -> PaperTable:
    rows = tuple(Row(row["name"], tuple(row["paper"]), tuple(row.get("ours", ()))) for row in entry["rows"])
    columns: Sequence[Any] = entry["columns"]
    return PaperTable(entry["name"], entry["title"], entry["source"], tuple((n, f) for n, f in columns), rows)


def _run(name: str, entry: dict[str, Any]) -> PaperRun:
    models = tuple((model, key) for model, key in entry.pop("models"))
    return PaperRun(name, models=models, data=entry.pop("set", entry["benchmark"]), **entry)
