"""Benchmarks run with networks that find objects by themselves: same masks as users get, no annotation read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.vos_trees import moving_squares, write_davis, write_mask, write_youtube_vos
from twospeed.cli.main import exit_code
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.mask_runs import RunSettings
from twospeed.evaluation.unsupervised import UnsupervisedSettings
from twospeed.evaluation.vos import evaluate_davis, evaluate_youtube_vos
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.pipelines.unsupervised import UnsupervisedTracker
from twospeed.results import Frame
from twospeed.weights.load import create_model, save_model

SMALL = {"backbone": "nano", "proposals": 20, "detections_per_img": 3, "score_thresh": 0.0}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Untrained, takes everything for an object: what it finds means nothing, all else is real."""
    torch.manual_seed(0)
    return SlowFastMaskRCNN(1, 3, min_size=48, max_size=80, **SMALL).eval()


@pytest.fixture
def davis16(tmp_path: Path) -> Path:
    return write_davis(tmp_path / "2016", {"dog": moving_squares(4, 1), "cows": moving_squares(2, 1)}, year=2016)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        return np.asarray(mask)


def found_by_users(network: torch.nn.Module, sample: SequenceSample, **options: object) -> list[np.ndarray]:
    frames = (Frame(index, 0.0, sample.image(name)) for index, name in enumerate(sample.frames))
    return [result.labels for _, result in UnsupervisedTracker(network, **options).run(frames)]


def test_davis16_takes_the_union_and_scores_every_frame(network, davis16: Path, tmp_path: Path):
    out = tmp_path / "out"
    report = evaluate_davis(davis16, 2016, model=network, output=out)
    for sample in Davis(davis16, 2016):
        expected = found_by_users(network, sample, merged=True)
        assert len(expected) == len(list((out / sample.name).iterdir())) == len(sample.frames)  # also 2 frames of n = 3
        for name, labels in zip(sample.frames, expected, strict=True):
            np.testing.assert_array_equal(read(out / sample.name / f"{name}.png"), 255 * labels)
    assert "no mask given, all frames scored" in report.protocol
    assert report.speed["frames"] == 6
    assert report.settings["merged"] is True
    again = evaluate_davis(davis16, 2016, predictions=out, task="unsupervised")
    assert again.scores == report.scores


def test_davis17_links_objects_and_allows_twenty(network, tmp_path: Path):
    root = write_davis(tmp_path / "2017", {"dog": moving_squares(4, 2)}, kind="Annotations_unsupervised")
    out = tmp_path / "out"
    settings = UnsupervisedSettings(min_score=0.0)
    report = evaluate_davis(root, 2017, model=network, output=out, settings=settings)
    sample = Davis(root, 2017, task="unsupervised")[0]
    expected = found_by_users(network, sample, min_score=0.0)
    for name, labels in zip(sample.frames, expected, strict=True):
        np.testing.assert_array_equal(read(out / "dog" / f"{name}.png"), labels)
        assert labels.max() <= 20
    assert set(report.scores["sequences"]) == {"dog_1", "dog_2"}
    assert set(report.scores["matched_proposals"]) == {"dog_1", "dog_2"}


def test_annotations_are_not_looked_at(network, davis16: Path, tmp_path: Path):
    evaluate_davis(davis16, 2016, model=network, output=tmp_path / "one")
    for path in (davis16 / "Annotations").rglob("*.png"):
        write_mask(path, np.eye(48, 64, dtype=np.uint8))  # other truth, same size
    evaluate_davis(davis16, 2016, model=network, output=tmp_path / "two")
    for path in (tmp_path / "one").glob("*/*.png"):
        np.testing.assert_array_equal(read(path), read(tmp_path / "two" / path.relative_to(tmp_path / "one")))


def test_an_interrupted_run_goes_on(network, davis16: Path, tmp_path: Path, monkeypatch):
    def stop(self: SequenceSample, frame: str) -> np.ndarray:
        if self.name == "dog" and frame == "00003":
            raise KeyboardInterrupt
        return image(self, frame)

    image = SequenceSample.image
    monkeypatch.setattr(SequenceSample, "image", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_davis(davis16, 2016, model=network, output=tmp_path / "out", sequences=["cows", "dog"])
    monkeypatch.setattr(SequenceSample, "image", image)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cows", "evaluation.json"]
    report = evaluate_davis(
        davis16, 2016, model=network, output=tmp_path / "out", sequences=["cows", "dog"], resume=True
    )
    assert report.speed["frames"] == 4
    straight = evaluate_davis(davis16, 2016, model=network, sequences=["cows", "dog"])
    assert report.scores == straight.scores
    # the seconds of a paper's table are of all frames, whatever was run before the interruption
    whole = report.speed["seconds"] / 4 * straight.speed["frames"]
    assert report.speed["seconds_for_all_frames"] == pytest.approx(whole)
    assert straight.speed["seconds_for_all_frames"] == pytest.approx(straight.speed["seconds"])


def test_all_frames_count_the_first_and_the_last(davis16: Path, tmp_path: Path):
    root = write_davis(tmp_path / "d", {"dog": moving_squares(5, 1)}, year=2016)
    for t in range(5):  # right on the first and last frame alone
        labels = moving_squares(5, 1)[t] * (t in (0, 4))
        write_mask(tmp_path / "results" / "dog" / f"{t:05d}.png", labels)
    official = evaluate_davis(root, 2016, predictions=tmp_path / "results")
    every = evaluate_davis(root, 2016, predictions=tmp_path / "results", all_frames=True)
    assert official.scores["global"]["J-Mean"] == 0
    assert every.scores["global"]["J-Mean"] == pytest.approx(2 / 5)
    assert "all frames scored (not the official protocol)" in every.protocol


def test_what_is_refused(network, davis16: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"2 models: .* cannot be averaged"):
        evaluate_davis(davis16, 2016, model=[network, network])
    with pytest.raises(InputError, match="for the semi-supervised task it is fine-tuned on each first mask"):
        evaluate_davis(davis16, 2016, model=network, task="semi-supervised")
    with pytest.raises(InputError, match="finetune is 5, but the unsupervised task gives no first mask"):
        evaluate_davis(davis16, 2016, model=network, task="unsupervised", settings=UnsupervisedSettings(finetune=5))
    with pytest.raises(InputError, match="RunSettings are settings of trackers"):
        evaluate_davis(davis16, 2016, model=network, settings=RunSettings())
    with pytest.raises(InputError, match="size is 64, but the network is built already"):
        evaluate_davis(davis16, 2016, model=network, settings=UnsupervisedSettings(size=64))
    videos = write_youtube_vos(tmp_path / "yt", {"aa": moving_squares(6, 1)}, {"aa": {1: "dog"}})
    with pytest.raises(InputError, match=r"SlowFastMaskRCNN"):
        evaluate_youtube_vos(videos, model=network)


def fails(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert exit_code([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_line(davis16: Path, tmp_path: Path, capsys):
    torch.manual_seed(0)
    model = create_model("slowfast_maskrcnn_1_1", None, **SMALL)
    weights = tmp_path / "w.safetensors"
    save_model(model, weights, model_name="slowfast_maskrcnn_1_1")
    command = ["evaluate", "davis16", "--data", davis16, "--model", "slowfast_maskrcnn_1_1", "--weights", weights]
    file = tmp_path / "scores.json"
    done = exit_code([str(a) for a in (*command, "--size", 48, "--sequences", "cows", "--json", file, "-q")])
    assert done == 0
    document = json.loads(file.read_text())
    assert document["settings"] == {
        "size": 48,
        "min_score": None,
        "max_objects": 20,
        "finetune": 0,
        "finetune_options": {},
        "merged": True,
    }
    assert len(document["weights_sha256"]) == 64
    assert set(document["sequences"]) == {"cows"}
    assert "--flip has no meaning for slowfast_maskrcnn_1_1, which keeps no masks in memory" in fails(
        capsys, *command, "--flip"
    )
    assert "--memory-every has no meaning" in fails(capsys, *command, "--memory-every", 3)
    assert "--size 0: this network works at one size" in fails(capsys, *command, "--size", 0)
    assert "give --model" not in fails(capsys, *command, "--min-score", 2)
    stcn = ["evaluate", "davis16", "--data", davis16, "--model", "track_tiny", "--min-score", 0.5]
    assert "--min-score has no meaning for track_tiny; leave it out" in fails(capsys, *stcn)


def test_each_first_mask_is_learned_and_every_frame_predicted(network, davis16: Path):
    settings = UnsupervisedSettings(finetune=2, finetune_options={"lr": 1e-4, "learning_parts": ["detector.roi_heads"]})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = evaluate_davis(davis16, 2016, model=network, settings=settings, sequences=["dog"], all_frames=True)
    assert "2016 semi-supervised: first mask given, all frames scored" in report.protocol
    assert report.speed["finetune_seconds"] > 0
    assert report.settings["finetune_options"]["lr"] == 1e-4
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_known_objects_keep_the_labels_of_their_first_mask(network, tmp_path: Path):
    labels = np.where(moving_squares(4, 2) == 2, 7, moving_squares(4, 2))  # ids may have holes
    root = write_davis(tmp_path, {"dog": labels.astype(np.uint8)})
    out = tmp_path / "out"
    evaluate_davis(root, 2017, model=network, settings=UnsupervisedSettings(finetune=1), output=out)
    assert {int(k) for path in (out / "dog").iterdir() for k in np.unique(read(path))} <= {0, 1, 7}
