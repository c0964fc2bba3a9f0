"""Recognition scores: by hand from files, from a network view by view, and with videos that are missing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from experiments.motion_set import write_clip
from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.recognition import evaluate_kinetics, mean_of, report_videos, score_videos, summarise
from twospeed.evaluation.runner import Clock
from twospeed.evaluation.score_files import read_scores, write_scores
from twospeed.models.slowfast.builders import slow_r50_4x16
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.classify import Classifier
from twospeed.weights.catalog import CATALOG, find
from twospeed.weights.entries import Preprocessing

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), short_side=32, crop=32)


class Brightness(nn.Module):
    """Knows six classes of brightness; twice as sure of the second of its two positions."""

    frames, frame_stride, num_classes = 2, 1, 6

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


def by_brightness(**options) -> Classifier:
    return Classifier(Brightness(), 2, 3, preprocessing=PLAIN, device="cpu", **options)


def test_views_are_scored_one_by_one_and_together(videos):
    clock = Clock()
    scores = score_videos(by_brightness(), videos, clock=clock)
    assert scores.videos() == [0, 1, 2, 3, 4, 5]
    assert np.allclose(scores.stacked().sum(axis=1), 1)
    assert set(scores.broken) == {6, 7}
    assert clock.frames == 6 * 2 * 3 * 2
    summary = summarise(scores, videos)
    single = summary["per_view"]
    assert single["top1"] == pytest.approx(33 / 36)  # clip 1 of video 2 lies across its change: class 3 by its mean
    assert single["top1_by_clip"] == pytest.approx([1, 5 / 6])
    assert summary["top5"] == 1.0
    assert summary["average_error"] == pytest.approx((1 - summary["top1"]) / 2)
    assert (summary["videos"], summary["videos_listed"]) == (6, 8)
    assert summary["missing_as_errors"]["top1"] == pytest.approx(summary["top1"] * 6 / 8)
    assert len(single["top1_by_crop"]) == 3


def test_any_number_of_decoding_threads_gives_the_same_scores(videos):
    one, many = (score_videos(by_brightness(workers=workers), videos) for workers in (1, 3))
    np.testing.assert_array_equal(one.stacked(), many.stacked())
    assert {v: rank.tolist() for v, rank in one.ranks.items()} == {v: rank.tolist() for v, rank in many.ranks.items()}
    assert one.broken == many.broken


def test_a_report_names_what_was_not_scored(videos):
    report = report_videos(score_videos(by_brightness(), videos), videos, model="brightness", views="2 x 3 views")
    document = report.to_json()
    assert {"top1", "top5", "average_error", "per_view"} <= set(document)
    assert document["coverage"] == "6 of 8 videos"
    assert "2 of 8 videos were not scored" in report.notes[0]
    assert any("gone.mp4" in line for line in report.notes)
    assert "mean of 2 x 3 views" in report.text()
    with pytest.raises(DatasetError, match=r"not one of 2 videos could be scored; the first: .*broken\.mp4"):
        report_videos(score_videos(by_brightness(), videos[6:]), videos[6:], model="brightness", views="2 x 3 views")


def test_a_label_that_the_network_does_not_know_is_refused(videos):
    with pytest.raises(DatasetError, match="label 6, but the network has 6 classes"):
        score_videos(by_brightness(), [LabelledVideo(videos[0].path, 6)])


def tiny(seed: int, **options) -> SlowFast:
    torch.manual_seed(seed)
    network = SlowFast(
        6, depths=(1, 1, 1, 1), width=8, beta_inverse=4, crop_size=None, frames=8, frame_stride=1, **options
    )
    nn.init.normal_(network.head.projection.weight)  # scores that differ between videos
    return network.eval()


def classifier_of(network: SlowFast, clips: int, crops: int) -> Classifier:
    prepared = Preprocessing(mean=(0.45,) * 3, std=(0.225,) * 3, short_side=32, crop=32)
    return Classifier(network, clips, crops, preprocessing=prepared, device="cpu")


def test_scores_are_those_that_the_pipeline_gives_people(videos):
    classifier = classifier_of(tiny(0), 2, 3)
    scores = score_videos(classifier, videos[:3])
    for row, video in zip(scores.stacked(), videos, strict=False):
        np.testing.assert_allclose(row, classifier.classify(video.path).probabilities, atol=1e-6)


def test_several_networks_are_averaged(videos):
    single = [score_videos(classifier_of(tiny(seed), 1, 1), videos[:4]) for seed in (0, 1)]
    both = mean_of(single)
    np.testing.assert_allclose(both.stacked(), (single[0].stacked() + single[1].stacked()) / 2, atol=1e-6)
    assert "per_view" not in summarise(both, videos[:4])
    assert report_videos(both, videos[:4], model="both", views="1 x 1 views").coverage == "4 of 4 videos"


@pytest.fixture
def small(videos, tmp_path, monkeypatch) -> dict[str, object]:
    """What runs a small network of six classes by its name, on small images."""
    weights = tmp_path / "w.safetensors"
    save_file(slow_r50_4x16(num_classes=6, width=8).state_dict(), weights)
    entry = dataclasses.replace(find("slow_r50_4x16"), preprocessing=Preprocessing(short_side=32, crop=32))
    monkeypatch.setitem(CATALOG, "slow_r50_4x16", entry)
    (tmp_path / "val.csv").write_text("".join(f"{v.path} {v.label}\n" for v in videos))
    return {"model": "slow_r50_4x16", "weights": str(weights), "clips": 2, "crops": 1, "device": "cpu"}


def test_named_models_are_run_with_their_own_views(videos, small, tmp_path):
    report = evaluate_kinetics(tmp_path, output=tmp_path / "out", **small)
    assert report.coverage == "6 of 8 videos"
    assert len(report.weights_sha256[0]) == 64
    assert report.settings["slow_r50_4x16"]["short_side"] == 32
    assert report.speed["frames"] == 6 * 2 * 4
    again = evaluate_kinetics(tmp_path, predictions=tmp_path / "out" / "scores.npz")
    assert again.scores["top1"] == report.scores["top1"]
    own = evaluate_kinetics(videos, **small)
    assert own.scores == report.scores
    twice = evaluate_kinetics(tmp_path, **{**small, "model": ["slow_r50_4x16"] * 2})
    assert twice.scores["top1"] == report.scores["top1"]
    (tmp_path / "val.csv").write_text(f"{videos[0].path} 6\n")
    with pytest.raises(DatasetError, match="label 6, but the network has 6 classes"):
        evaluate_kinetics(tmp_path, **small)


def test_evaluation_runs_the_form_of_the_network_that_is_fast(videos, small, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the network was run as it was trained")

    monkeypatch.setattr(SlowFast, "forward", refuse)
    assert evaluate_kinetics(tmp_path, **small).coverage == "6 of 8 videos"


def test_an_interrupted_run_is_resumed(videos, small, tmp_path, monkeypatch):
    monkeypatch.setattr("twospeed.evaluation.recognition.VIDEOS_A_PART", 2)
    straight = evaluate_kinetics(tmp_path, **small)
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.done == 5:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate_kinetics(tmp_path, output=out, on_progress=stop, **small)
    assert {(p.task, p.total, p.unit) for p in seen} == {("classify by slow_r50_4x16", 8, "videos")}
    assert not (out / "scores.npz").exists()
    with pytest.raises(InputError, match="holds results already"):
        evaluate_kinetics(tmp_path, output=out, **small)
    with pytest.raises(InputError, match=r"was begun with clips 2 \(now 1\)"):
        evaluate_kinetics(tmp_path, output=out, resume=True, **{**small, "clips": 1})
    report = evaluate_kinetics(tmp_path, output=out, resume=True, **small)
    assert report.scores == straight.scores
    assert report.notes == straight.notes
    assert report.speed["frames"] == 2 * 2 * 4  # four of six readable videos were kept


def test_a_list_without_labels_is_scored_and_not_graded(videos, small, tmp_path):
    listed = tmp_path / "test.csv"
    listed.write_text("".join(f"{v.path}\n" for v in videos[:2]))
    with pytest.raises(InputError, match="hold no labels, so scores can only be written: give a folder"):
        evaluate_kinetics(listed, **small)
    report = evaluate_kinetics(listed, output=tmp_path / "out", **small)
    assert report.scores == {}
    assert "nothing is graded" in report.notes[0]
    assert "top-1" not in report.text()
    scores = read_scores(tmp_path / "out" / "scores.npz")
    assert set(scores) == {str(v.path) for v in videos[:2]}
    with np.load(tmp_path / "out" / "scores.npz") as content:
        assert content["labels"].tolist() == [-1, -1]
    with pytest.raises(DatasetError, match="hold no labels; without them nothing can be graded"):
        evaluate_kinetics(listed, predictions=tmp_path / "out" / "scores.npz")


def test_scores_written_are_scored_again_the_same(videos, tmp_path):
    scores = score_videos(by_brightness(), videos)
    chosen = scores.videos()
    path = tmp_path / "out" / "scores.npz"
    write_scores(path, scores.stacked(), [videos[v].label for v in chosen], [videos[v].path for v in chosen])
    report = evaluate_kinetics(videos, predictions=path)
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
        ('{"v0": [1, 0], "clips/v0.mp4": [0, 1]}', "v0.mp4 has scores twice"),
    ],
)
def test_bad_score_files(tmp_path, content, message):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        evaluate_kinetics(listed(tmp_path), predictions=[tmp_path / "s.json"])


def test_a_model_or_files_not_both(tmp_path):
    with pytest.raises(InputError, match=r"give either predictions .* or a model"):
        evaluate_kinetics(listed(tmp_path))
    with pytest.raises(DatasetError, match=r"read from \.npz, \.json or \.csv"):
        read_scores(tmp_path / "scores.pkl")
