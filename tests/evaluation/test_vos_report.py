"""The report: what is written and printed of any evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from twospeed.errors import OutputError
from twospeed.evaluation.report import Report, Table


def report(**changes: object) -> Report:
    fields = {
        "benchmark": "davis16",
        "scores": {"global": {"J-Mean": np.float64(0.5)}, "G": math.nan},
        "table": Table(("J-Mean", "G"), (("mean", (0.5, math.nan)),)),
        "protocol": "as tested",
        "coverage": "1 of 20 sequences",
        "model": "stcn",
        "weights_sha256": ("ab12",),
    }
    return Report(**{**fields, **changes})


def test_json_holds_plain_values_and_null_for_what_is_no_number(tmp_path: Path):
    report(notes=("one",), settings={"scales": (480, 600), "top_k": None}).write_json(tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["global"] == {"J-Mean": 0.5}
    assert document["G"] is None
    assert document["weights_sha256"] == "ab12"
    assert document["notes"] == ["one"]
    assert document["settings"] == {"scales": [480, 600], "top_k": None}
    assert {"machine", "versions", "commit", "coverage", "protocol", "benchmark", "model"} <= set(document)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_several_models_list_their_checksums():
    assert report(weights_sha256=("a", None)).to_json()["weights_sha256"] == ["a", None]
    assert report(weights_sha256=()).to_json()["weights_sha256"] is None


def test_a_report_that_cannot_be_written_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        report().write_json(tmp_path / "file" / "r.json")


def test_text_shows_percentages_and_every_note():
    text = report(notes=("padded",)).text()
    assert "davis16 · stcn · 1 of 20 sequences" in text
    assert "50.0" in text
    assert "–" in text
    assert text.endswith("note: padded")


def test_the_checkout_is_named_by_its_commit():
    commit = report().commit
    assert commit is None or len(commit.removesuffix("+changes")) == 40
