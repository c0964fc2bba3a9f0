"""`twospeed evaluate kinetics` as people type it."""

from __future__ import annotations

import json

import numpy as np

from twospeed.cli.main import exit_code


def test_scores_in_a_file_are_scored(tmp_path, capsys):
    (tmp_path / "val.csv").write_text("a/one.mp4 0\na/two.mp4 1\na/three.mp4 2\n")
    np.savez(tmp_path / "s.npz", videos=["one", "two"], scores=np.array([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0]]))
    arguments = ["evaluate", "kinetics", "--data", str(tmp_path), "--predictions", str(tmp_path / "s.npz")]
    assert exit_code([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 videos" in said
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["top1"], report["top5"], report["average_error"]) == (0.5, 1.0, 0.25)


def test_bad_usage_is_one_line(tmp_path, capsys):
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    for arguments, message in (
        (["--data", str(tmp_path)], "give either predictions (files to score) or a model"),
        (["--data", str(tmp_path), "--model", "stcn", "--weights", "w"], "made for the task track"),
        (["--data", str(tmp_path), "--flip"], "No such option: --flip"),
        (["--data", str(tmp_path), "--crops", "2"], "'2' is not one of '1', '3'"),
        (["--data", str(tmp_path / "no"), "--model", "slow_r50_4x16"], "no such list"),
    ):
        assert exit_code(["evaluate", "kinetics", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
