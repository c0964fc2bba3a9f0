"""Keyframe policies compared at equal cost: the numbers, and what lies between two intervals."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from experiments import segmentation_intervals as script
from tests.data.driving_trees import make_camvid
from tests.evaluation.test_semseg import video_network
from twospeed.data.samples import LabelledFrame


def test_policies_are_compared_at_equal_cost(tmp_path, monkeypatch, capsys):
    make_camvid(tmp_path / "camvid", frames=5)
    monkeypatch.setattr(script, "create_model", lambda *arguments: video_network().eval())
    options = ["--intervals", "1", "2", "4", "--thresholds", "0.0001", "100", "--starts", "2", "--pieces", "3"]
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "camvid"), str(tmp_path / "out"), *options])
    script.main()
    with (tmp_path / "out" / "intervals.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["keyframe_share"]) for row in rows]
    assert shares[:2] == [1.0, 0.5]
    assert shares[3] == 1.0, "any drift is more than nothing"
    assert shares[4] < 0.2, "only the first frame"
    assert float(rows[0]["mIoU"]) == float(rows[0]["fixed_mIoU_at_this_cost"]) == float(rows[3]["mIoU"])
    assert "fixed interval at this cost" in capsys.readouterr().out
    assert (tmp_path / "out" / "intervals.png").stat().st_size > 5000


def test_the_cost_between_two_intervals_is_interpolated():
    fixed = [script.Result("interval", n, 1 / n, gmacs, miou) for n, gmacs, miou in ((1, 8.0, 0.6), (2, 4.0, 0.5))]
    assert script.in_pieces(list(range(7)), 2) == [2, 3, 6, 0, 1, 4, 5]
    assert script.fixed_at(5.0, fixed) == pytest.approx(0.525)
    assert script.fixed_at(9.0, fixed) != script.fixed_at(9.0, fixed)  # beyond what was measured


def test_runs_end_where_time_or_the_recording_jumps():
    places = [("a", 1), ("a", 3), ("a", 34), ("b", 35), ("b", 65), ("b", 80)]
    frames = [LabelledFrame(f"{s}{n}", s, n, Path(), None, lambda path: None) for s, n in places]
    assert [frame.name for frame in script.longest_run(frames)] == ["b35", "b65", "b80"]
    assert [frame.name for frame in script.longest_run(frames[:3])] == ["a1", "a3"]
