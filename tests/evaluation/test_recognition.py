"""Recognition scores: by hand from files, from a network view by view, and with videos that are missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from twospeed.data.kinetics import ClipShape, TestViews
from twospeed.data.motion import write_clip
from twospeed.data.video_lists import LabelledVideo
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.recognition import (
    evaluate_kinetics,
    report_views,
    score_views,
    summarise,
    view_probabilities,
)
from twospeed.evaluation.score_files import read_scores, report_scores, write_scores
from twospeed.training.distributed import Process

ALONE = Process(0, 1, torch.device("cpu"))
SHAPE = ClipShape(frames=2, stride=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Brightness(nn.Module):
    """Knows six classes of brightness; twice as sure of the second of its two positions."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        level = clip.mean(dim=(1, 2, 3, 4))[:, None]
        logits = -20 * (level - torch.linspace(0, 1, 6)).abs()
        return torch.stack([logits, 2 * logits], dim=1)


@pytest.fixture
def videos(tmp_path):
    listed = []
    for label in range(6):
        grey = np.full((4, 32, 48, 3), round(255 * label / 5), np.uint8)
        if label == 2:
            grey[2:] = 204  # its second half looks like class 4
        write_clip(tmp_path / f"v{label}.mp4", grey)
        listed.append(LabelledVideo(tmp_path / f"v{label}.mp4", label))
    (tmp_path / "broken.mp4").write_bytes(b"")
    return [*listed, LabelledVideo(tmp_path / "broken.mp4", 1), LabelledVideo(tmp_path / "gone.mp4", 1)]


def views_of(videos):
    return TestViews(videos, SHAPE, clips=2, crops=3, short_side=32, crop=32)


def test_views_are_scored_one_by_one_and_together(videos):
    scores = score_views(Brightness(), views_of(videos), ALONE)
    assert scores.videos() == [0, 1, 2, 3, 4, 5]
    assert np.allclose(scores.probabilities().sum(axis=1), 1)
    assert set(scores.broken) == {6, 7}
    summary = summarise(scores, videos)
    single = summary["per_view"]
    assert single["top1"] == pytest.approx(33 / 36)  # clip 1 of video 2 lies across its change: class 3 by its mean
    assert single["top1_by_clip"] == pytest.approx([1, 5 / 6])
    assert summary["top5"] == 1.0
    assert summary["average_error"] == pytest.approx((1 - summary["top1"]) / 2)
    assert (summary["videos"], summary["videos_listed"]) == (6, 8)
    assert summary["missing_as_errors"]["top1"] == pytest.approx(summary["top1"] * 6 / 8)
    assert len(single["top1_by_crop"]) == 3


def test_any_batch_size_gives_the_same_scores(videos):
    one = score_views(Brightness(), views_of(videos), ALONE)
    many = score_views(Brightness(), views_of(videos), ALONE, clips_per_forward=5)
    np.testing.assert_allclose(one.probabilities(), many.probabilities(), atol=1e-6)
    assert one.ranks == many.ranks


def test_a_report_names_what_was_not_scored(videos):
    report = report_views(score_views(Brightness(), views_of(videos), ALONE), videos, model="brightness", seconds=2.0)
    document = report.to_json()
    assert {"top1", "top5", "average_error", "per_view"} <= set(document)
    assert document["coverage"] == "6 of 8 videos"
    assert "2 of 8 videos were not scored" in report.notes[0]
    assert any("gone.mp4" in line for line in report.notes)
    assert "mean of 2 x 3 views" in report.text()
    with pytest.raises(DatasetError, match=r"not one of 2 videos could be scored; the first: .*broken\.mp4"):
        report_views(score_views(Brightness(), views_of(videos[6:]), ALONE), videos[6:], model="brightness")


def test_a_label_that_the_network_does_not_know_is_refused(videos):
    wrong = [LabelledVideo(videos[0].path, 6)]
    with pytest.raises(DatasetError, match="label 6, the network knows 6 classes"):
        score_views(Brightness(), views_of(wrong), ALONE)


def test_positions_become_one_view_as_the_authors_do():
    logits = torch.tensor([[[0.0, 2.0], [4.0, 0.0]]])
    by_probability = view_probabilities(logits)
    assert torch.allclose(by_probability, torch.stack([logits[0].softmax(-1).mean(0)]))
    assert torch.allclose(view_probabilities(logits, "logits"), torch.tensor([[2.0, 1.0]]).softmax(-1))
    assert torch.allclose(by_probability.sum(), torch.tensor(1.0))


def test_scores_written_are_scored_again_the_same(videos, tmp_path):
    scores = score_views(Brightness(), views_of(videos), ALONE)
    chosen = scores.videos()
    path = tmp_path / "out" / "scores.npz"
    write_scores(path, scores.probabilities(), [videos[v].label for v in chosen], [videos[v].path for v in chosen])
    report = report_scores([path], videos)
    summary = summarise(scores, videos)
    assert {key: report.scores[key] for key in ("top1", "top5", "average_error")} == {
        key: summary[key] for key in ("top1", "top5", "average_error")
    }
    assert report.coverage == "6 of 8 videos"


def listed(tmp_path, count=3):
    (tmp_path / "val.csv").write_text("".join(f"clips/v{i}.mp4 {i}\n" for i in range(count)))
    return tmp_path / "val.csv"


def test_files_of_scores_in_every_form(tmp_path):
    rows = {"v0": [0.9, 0.1, 0.0], "v1": [0.5, 0.4, 0.1], "v2.mp4": [0.1, 0.2, 0.7]}
    (tmp_path / "s.json").write_text(json.dumps(rows))
    (tmp_path / "s.csv").write_text("video,a,b,c\n" + "".join(f"{k},{v[0]},{v[1]},{v[2]}\n" for k, v in rows.items()))
    np.savez(tmp_path / "s.npz", videos=[f"clips/{k}" for k in rows], scores=np.stack([[v, v] for v in rows.values()]))
    for name in ("s.json", "s.csv", "s.npz"):
        report = evaluate_kinetics(listed(tmp_path), predictions=[tmp_path / name])
        assert report.scores["top1"] == pytest.approx(2 / 3)
        assert report.scores["top5"] == 1.0
        assert report.scores["average_error"] == pytest.approx(1 / 6)
    (tmp_path / "b.json").write_text(json.dumps({"v0": [1, 0, 0], "v1": [0, 1, 0], "v2": [0, 0, 1]}))
    both = evaluate_kinetics(tmp_path, predictions=[tmp_path / "s.json", tmp_path / "b.json"])
    assert both.scores["top1"] == 1.0  # the second file settles what the first has wrong
    assert "b.json" in both.text()


def test_missing_and_unknown_names_are_counted(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"v0": [1, 0, 0], "other": [0, 1, 0]}))
    report = evaluate_kinetics(listed(tmp_path), predictions=[tmp_path / "s.json"])
    assert report.scores["top1"] == 1.0
    assert report.scores["missing_as_errors"]["top1"] == pytest.approx(1 / 3)
    assert report.coverage == "1 of 3 videos"
    assert len(report.notes) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"v0": [1, 0], "v1": [1]}', "scores of v1 are not 2 finite numbers"),
        ('{"v0": [NaN, 0]}', "scores of v0 are not 2 finite"),
        ("[]", "cannot be read as scores"),
        ("{}", "holds no scores"),
        ('{"x": [1, 0, 0]}', "no scored name is among the 3 listed"),
        ('{"v0": [1], "v2": [1]}', "has scores for 1 classes, the list has label 2"),
    ],
)
def test_bad_score_files(tmp_path, content, message):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        evaluate_kinetics(listed(tmp_path), predictions=[tmp_path / "s.json"])


def test_a_model_or_files_not_both(tmp_path):
    with pytest.raises(InputError, match="either a model or files"):
        evaluate_kinetics(listed(tmp_path))
    with pytest.raises(DatasetError, match=r"read from \.npz, \.json or \.csv"):
        read_scores(tmp_path / "scores.pkl")
