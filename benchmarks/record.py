"""What every benchmark keeps: when and where it ran, and its lines, appended to its own history."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from twospeed.environment import commit_of_this_code, machine_name

HISTORY = Path(__file__).parent / "history"


def stamp(load: float | None = None) -> dict[str, object]:
    """Return date, machine, load and commit. load: the machine's before the benchmark began; None asks now."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_name(),
        "load": round(machine_load() if load is None else load, 1),
        "commit": commit_of_this_code() or "",
    }


def machine_load() -> float:
    """Return how many processes want the processor, averaged over a minute: other work lengthens wall seconds."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def append(name: str, columns: Sequence[str], lines: Sequence[Mapping[str, object]]) -> None:
    """Add lines to history/NAME.csv; a new file gets its header."""
    HISTORY.mkdir(exist_ok=True)
    file_path = HISTORY / f"{name}.csv"
    is_new = not file_path.exists()
    with file_path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerows(lines)
