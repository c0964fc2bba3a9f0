import csv
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.models.stcn.builders import track_nano
from twospeed.recipes import track_nano as recipe
from twospeed.recipes.track_nano import TrackNanoConfig, train
from twospeed.weights.load import create_model

TINY = {"minutes": None, "batch": 2, "crop_1": 64, "crop_2": 64, "workers": 0, "log_every": 1, "replicas": 1}


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    """Five rendered sequences in the layout of DAVIS-2016."""
    root = tmp_path_factory.mktemp("davis")
    for number, name in enumerate(["ant", "bee", "cat", "dog", "eel"]):
        images, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (image, labels) in enumerate(render_clip(number, frames=9, height=96, width=128, objects=1)):
            cv2.imwrite(str(images / f"{t:05d}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(masks / f"{t:05d}.png"), labels * 255)
    return root


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_usable_weights_scores_and_its_configuration(davis, tmp_path):
    config = TrackNanoConfig(**{**TINY, "iterations": 4, "replicas": 2}, davis=davis, out=tmp_path / "run", stage_1=0.5)
    weights = train(config)
    model = track_nano()
    model.load_state_dict(load_file(weights))
    assert weights.stat().st_size < 20e6
    assert [row["iteration"] for row in rows(config.out / "metrics.csv")] == ["1", "2", "3", "4"]
    (score,) = rows(config.out / "validation.csv")
    assert set(score) >= {"ant", "eel", "mean"}, "every fourth sequence is held out"
    assert 0 <= float(score["mean"]) <= 1
    assert json.loads((config.out / "config.json").read_text())["iterations"] == 4


def test_resuming_equals_never_having_stopped(davis, tmp_path, monkeypatch):
    settings = {**TINY, "iterations": 4, "checkpoint_minutes": 0.0}
    straight = load_file(train(TrackNanoConfig(**settings, davis=davis, out=tmp_path / "straight")))

    config = TrackNanoConfig(**settings, davis=davis, out=tmp_path / "stopped")
    whole_step, calls = recipe.step_loss, []

    def stop_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole_step(*arguments)

    monkeypatch.setattr(recipe, "step_loss", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(recipe, "step_loss", whole_step)
    with pytest.raises(InputError, match="--resume"):
        train(config)
    resumed = load_file(train(config, resume=True))
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_training_can_begin_from_weights_that_are_there(tmp_path):
    shipped = create_model("track_nano", "default").state_dict()
    weights = train(TrackNanoConfig(**TINY, iterations=1, out=tmp_path / "run", weights="default", lr=1e-9))
    for name, value in load_file(weights).items():
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(value.float(), shipped[name], atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        train(TrackNanoConfig(**TINY, iterations=1, out=tmp_path / "other", weights=str(tmp_path / "none.safetensors")))
    assert not (tmp_path / "other").exists()


def test_a_few_steps_on_the_same_samples_bring_the_loss_down():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TrackNanoConfig(**TINY, iterations=1)
    frames, labels, objects = recipe.collate([recipe.Samples(config, [])[(n, 0.0)] for n in (0, 1)])
    model = track_nano()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss, parts = recipe.step_loss(model, frames.float() / 255, labels, objects, config, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.5 * losses[0]


def test_schedules():
    config = TrackNanoConfig(lr=1.0, warmup=0.1)
    rates = [recipe.learning_rate(config, p) for p in np.linspace(0, 1, 101)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.diff(rates[11:]) <= 0)
    assert recipe.kept_pixels(config, 0.1) == 1.0
    assert recipe.kept_pixels(config, 0.9) == pytest.approx(config.bootstrap_keep)
    gaps = [recipe.max_gap(p, 0.5) for p in np.linspace(0.5, 1, 101)]
    assert gaps[0] == 5
    assert max(gaps) == 25
    assert gaps[-1] == 5


def test_the_split_is_fixed_by_name():
    trained, held_out = recipe.split(["e", "a", "d", "c", "b"])
    assert held_out == ["a", "e"]
    assert trained == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": None}, "give one"),
        ({"iterations": 5}, "give one"),
        ({"crop_1": 100}, "multiple of 16"),
        ({"batch": 3}, "shared by 2 replicas"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        TrackNanoConfig(**wrong)


def test_a_folder_that_is_not_davis_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no sequences"):
        train(TrackNanoConfig(davis=tmp_path, out=tmp_path / "run"))
