"""The example that trains all stages, in its smallest form: each starts where another ended, and all are drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from experiments import stcn_stages as script
from experiments.vos_sets import write_demo_sets


@pytest.mark.slow
def test_all_stages_are_trained_one_after_the_other_and_drawn(tmp_path):
    write_demo_sets(tmp_path / "demo", side=64, videos=2, frames=3, stills=1)
    small = {"iterations": 1, "crop": (64,), "batch": (2,), "norm_batches": 1}
    runs = script.train_stages(tmp_path, None, (), **small)
    script.curves(runs, tmp_path)
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["stage0", "stage1", "stage2", "stage3"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    started = {name: json.loads((run / "config.json").read_text())["weights"] for name, run in runs.items()}
    assert started["stage0"] is None
    assert [Path(started[name]).parent.name for name in ("stage1", "stage2", "stage3")] == [
        "stage0",
        "stage1",
        "stage0",
    ]
    again = script.train_stages(tmp_path, None, (), **small)  # nothing left to do
    assert again == runs
