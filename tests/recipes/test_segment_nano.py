"""The recipe of segment_nano: it runs, resumes exactly, and its weights load like any others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import twospeed
from twospeed.data.benchmarks.camvid import VOID
from twospeed.errors import InputError
from twospeed.recipes import segment_nano
from twospeed.recipes.segment_nano import SegmentNanoConfig, Snippets, train, view_rows
from twospeed.training import stage


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A road below, a building above, a car between: 3 training frames, 7 dense frames."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    names = {"train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"]}
    names["val"] = [f"0016E5_{number:05d}" for number in range(7959, 7973, 2)]
    for split, frames in names.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for shift, name in enumerate(frames):
            labels = np.full((72, 96), 1, np.uint8)
            labels[36:], labels[70:] = 3, VOID
            labels[30:50, 20 + 3 * shift : 50 + 3 * shift] = 8
            image = (labels[..., None] * np.array([20, 9, 15]) + rng.integers(0, 40, (72, 96, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{name}.png")
            Image.fromarray(labels).save(root / split / "labels" / f"{name}.png")
    return root


def config_of(camvid: Path, out: Path) -> SegmentNanoConfig:
    return SegmentNanoConfig(
        camvid=camvid, out=out, keyframe_iterations=4, propagation_iterations=5, batch=4, rows_1=2, rows_2=3, rows_3=3,
        rows_drive=2, checkpoint_minutes=0.0, validate_minutes=1e9, log_every=1, freeze_norm=0.7, longest=3,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def encoder_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of ImageNet weights need not be there."""
    monkeypatch.setattr(segment_nano, "imagenet_weights", lambda encoder: encoder.state_dict())


class Stopped(Exception):
    """As if the process were killed."""


@pytest.mark.slow
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(config_of(camvid, tmp_path / "straight"))
    average = stage.move_average
    calls = 0

    def stopping(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls in (3, 8, 10):  # in stage 1 and, counting what is repeated, twice in stage 2
            raise Stopped
        average(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "move_average", stopping)
    config = config_of(camvid, tmp_path / "stopped")
    for attempt in range(3):
        with pytest.raises(Stopped):
            train(config, resume=attempt > 0)
    resumed = train(config, resume=True)
    assert calls == 4 + 5 + 3
    for name in ("keyframe.safetensors", "segment_nano.safetensors"):
        one, other = load_file(straight / name), load_file(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    for table, rows in (("keyframe.csv", 4), ("propagation.csv", 5)):
        losses = [
            [row.split(",")[3] for row in (folder / table).read_text().splitlines()] for folder in (straight, resumed)
        ]
        assert losses[0] == losses[1]
        assert len(losses[0]) == 1 + rows

    model = twospeed.create_model("segment_nano", resumed / "segment_nano.safetensors")
    assert model.keyframe_scale == 4 / 3
    assert model.input_order == "rgb"
    frame = torch.rand(1, 3, 50, 90) * 255
    scores = model.propagate(model.keyframe(frame), frame, frame)
    assert scores.shape == (1, 11, 17, 25)
    rows = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"keyframe", "validation", "propagation", "distances"}
    with pytest.raises(InputError, match="holds a run already; resume it"):
        train(config)


def test_drives_are_a_pure_function_of_their_number(camvid: Path, tmp_path: Path) -> None:
    config = config_of(camvid, tmp_path)
    images = [np.full((72, 96, 3), value, np.uint8) for value in range(0, 70, 10)]
    labels = [np.full((72, 96), 3, np.uint8)] * 7
    snippets = Snippets(config, (images, labels))
    for batch in range(4):
        frames, maps = snippets.batch(batch, range(2))
        assert frames.shape == (2, 2 + batch % 2, 3, 65, 97)
        assert set(maps.unique().tolist()) <= {3, VOID}
        again = snippets.batch(batch, range(1, 2))
        assert torch.equal(again[0], frames[1:])
        assert torch.equal(again[1], maps[1:])


def test_views_grow_and_bad_settings_are_refused(camvid: Path, tmp_path: Path) -> None:
    config = config_of(camvid, tmp_path)
    assert [view_rows(config, at) for at in (0.0, 0.49, 0.5, 0.84, 0.99)] == [2, 2, 3, 3, 3]
    with pytest.raises(InputError, match="batch 3 cannot be shared by 2 replicas"):
        dataclasses.replace(config, batch=3)
    with pytest.raises(InputError, match="give 2 or more"):
        dataclasses.replace(config, rows_2=1)
