"""The comparison of two evaluations."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from experiments import compare_scores


def test_the_interval_is_that_of_a_mean():
    differences = np.random.default_rng(1).normal(0.05, 0.1, 400)
    low, high = compare_scores.interval(differences)
    middle, half = differences.mean(), 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-3)


def test_only_sequences_of_both_count(tmp_path, monkeypatch, capsys):
    for name, values in {"a": {"cow": 0.5, "dog": 0.7, "only": 0.0}, "b": {"cow": 0.4, "dog": 0.6}}.items():
        found = {"sequences": {key: {"J&F-Mean": value} for key, value in values.items()}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    compare_scores.main()
    assert capsys.readouterr().out == "2 sequences: 0.600, 0.500; +0.100 (+0.100 to +0.100)\n"
