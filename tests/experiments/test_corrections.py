"""The script that measures corrections, on small sequences in DAVIS's layout."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from experiments import corrections as script
from tests.data.vos_trees import moving_squares, write_davis

PARTS = ("corrections", "between", "middle", "memory")


def test_every_part_writes_a_line_for_each_sequence(tmp_path, monkeypatch, capsys):
    pytest.importorskip("scipy")
    write_davis(tmp_path / "davis", {"ant": moving_squares(14, 1), "bee": moving_squares(14, 1, seed=1)})
    monkeypatch.setattr(script, "CORRECTED", 5)
    monkeypatch.setattr(script, "SCORED", (6, 8))
    monkeypatch.setattr(script, "FIRST", 2)
    monkeypatch.setattr(script, "SECOND", 8)
    options = ["--size", "32", "--parts", *PARTS]
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "davis"), str(tmp_path / "out"), *options])
    script.main()
    for part, lines in zip(PARTS, (8, 2, 4, 2), strict=True):
        with (tmp_path / "out" / f"{part}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == lines
        numbers = [float(value) for row in rows for name, value in row.items() if value[:1].isdecimal()]
        assert numbers
        assert all(0 <= value <= 1 for value in numbers)
    assert "rule less fresh at worst" in capsys.readouterr().out


def test_j_is_the_share_of_the_union():
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    assert script.jaccard(first, second) == 1
    first[:2], second[1:3] = 1, 1
    assert script.jaccard(first, second) == pytest.approx(1 / 3)
