"""The small trackers' training: it learns, is scored while it runs, restarts exactly, and begins from what is there."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.recipes.runs import write_davis
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import stack_clips
from twospeed.data.clips.videos import max_gap
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.models.stcn.builders import track_small, track_tiny
from twospeed.models.unrolled import UnrolledPropagation, spoiled
from twospeed.recipes import stcn as recipe
from twospeed.recipes.stcn import PRESETS, StcnConfig, train
from twospeed.training.stage import StepClock
from twospeed.weights.load import create_model


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    return write_davis(tmp_path_factory.mktemp("davis"), size="96p", frames=9, height=96, width=128)


@pytest.fixture
def tiny(davis, tmp_path) -> StcnConfig:
    return dataclasses.replace(
        PRESETS["tiny"](), davis=davis, davis_repeats=1, generated=3, minutes=None, iterations=4, batch=(2,),
        crop=(64,), phase_borders=(0.2,), held_out=("ant", "eel"), workers=0, log_every=1, replicas=1, validate_every=0,
        cache=None, out=tmp_path / "run",
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_usable_weights_scores_and_its_configuration(tiny, tmp_path):
    config = dataclasses.replace(tiny, replicas=2, cache=tmp_path / "cache", look_alikes=0.5, near=0.5)
    seen = []
    weights = train(config, on_progress=seen.append) / "weights.safetensors"
    assert [(event.done, event.total) for event in seen if event.task == "train"] == [(n, 4) for n in range(1, 5)]
    with safe_open(weights, "pt") as file:  # what ships takes half the space
        assert file.get_slice("key_encoder.conv1.weight").get_dtype() == "F16"
    model = track_tiny()
    model.load_state_dict(load_file(weights))
    assert weights.stat().st_size < 20e6
    assert [row["step"] for row in rows(config.out / "train.csv")] == ["1", "2", "3", "4"]
    (score,) = rows(config.out / "validation.csv")
    assert set(score) == {"step", "minutes", "ant", "eel", "mean"}
    assert 0 <= float(score["mean"]) <= 1
    assert json.loads((config.out / "config.json").read_text())["iterations"] == 4
    assert sorted({path.name.split(".")[0] for path in (tmp_path / "cache").rglob("*.npy")}) == ["bee", "cat", "dog"]


def test_the_first_phase_has_generated_clips_alone(tiny):
    data = recipe.ClipMix(recipe.find_sources(tiny))
    position, process = recipe.Position(), recipe.Process(0, 1, torch.device("cpu"))
    drawn = []
    whole = data.__class__.__getitem__
    data.__class__.__getitem__ = lambda self, key: drawn.append(key) or whole(self, key)
    try:
        plans = [plan for _, plan in recipe.batches(tiny, data, process, position)]
    finally:
        data.__class__.__getitem__ = whole
    assert [(plan.epoch, plan.done) for plan in plans] == [(0, 1), (1, 1), (1, 2), (1, 3)]  # 3, then 6 clips an epoch
    kinds = [[isinstance(data.items[key.place][0], MovingObjects) for key in drawn if key.epoch == e] for e in (0, 1)]
    assert all(kinds[0])
    assert not all(kinds[1])


@pytest.mark.parametrize("at", [1, 3])
def test_resuming_equals_never_having_stopped(tiny, tmp_path, at):
    straight = load_file(train(tiny) / "weights.safetensors")
    config = dataclasses.replace(tiny, out=tmp_path / "stopped")
    train(dataclasses.replace(config, stop_after_steps=at))
    with pytest.raises(InputError, match="holds a run already"):
        train(config)
    resumed = load_file(train(config, resume=True) / "weights.safetensors")
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_time_can_decide_the_length(tiny):
    run = train(dataclasses.replace(tiny, iterations=None, minutes=1e-4))
    assert len(rows(run / "train.csv")) == 1


def test_the_time_of_a_pause_does_not_count(tiny, monkeypatch):
    """A minute is filled by steps of 4 s, the second of which was paused for an hour and counts ten times as much."""
    steps = iter([4.0, 3600.0, 4.0, 4.0, 4.0, 4.0])
    seconds = [0.0]

    class Clock(StepClock):
        def __init__(self):
            super().__init__(lambda: seconds[0])

        def end(self):
            seconds[0] += next(steps)
            return super().end()

    monkeypatch.setattr(recipe, "StepClock", Clock)
    run = train(dataclasses.replace(tiny, iterations=None, minutes=1.0))
    assert len(rows(run / "train.csv")) == 6


def test_training_can_begin_from_weights_that_are_there(tiny, tmp_path):
    shipped = create_model("track_tiny").state_dict()
    config = dataclasses.replace(
        tiny, davis=None, held_out=(), weights=Path("default"), lr=1e-9, weight_decay=0.0, iterations=1
    )
    for name, value in load_file(train(config) / "weights.safetensors").items():
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(value.float(), shipped[name], atol=1e-3, rtol=1e-3)
    other = dataclasses.replace(config, weights=tmp_path / "none.safetensors", out=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        train(other)
    assert not other.out.exists()


def test_track_nano_starts_from_track_small_without_its_deepest_features(tiny, tmp_path):
    small = create_model("track_small").state_dict()
    config = dataclasses.replace(
        PRESETS["nano"](), davis=tiny.davis, validation=None, coco=None, held_out=(), generated=0, iterations=1,
        minutes=None, crop=(64,), batch=(1,), replicas=1, workers=0, cache=None, lr=1e-9, out=tmp_path / "nano",
    )  # fmt: skip
    begun = load_file(train(config) / "weights.safetensors")
    assert begun.keys() < small.keys()
    assert not any("context" in name for name in begun)
    for name, value in begun.items():
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(value.float(), small[name], atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="does not fit this track_nano"):
        train(dataclasses.replace(config, weights=Path("track_tiny"), out=tmp_path / "other"))


def test_a_few_steps_on_the_same_samples_bring_the_loss_down(tiny):
    torch.manual_seed(0)
    clips = [MovingObjects().draw(np.random.default_rng(seed), size=64) for seed in range(2)]
    batch = stack_clips(clips)
    model = UnrolledPropagation(track_tiny())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        tensors = recipe.on_device(batch, torch.device("cpu"))
        loss, _, _ = recipe.step_loss(model, tensors, batch.objects, tiny, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_parts_of_a_network_can_learn_at_a_rate_of_their_own(tiny):
    network = track_tiny()
    optimizer = recipe.make_optimizer(dataclasses.replace(tiny, rates={"key_encoder": 0.2}), network)
    recipe.set_learning_rate(optimizer, 1.0)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(list(network.parameters()))
    encoder, decoder = of[id(network.key_encoder.conv1.weight)], of[id(network.decoder.compress.conv1.weight)]
    assert (encoder["lr"], encoder["weight_decay"]) == (0.2, 0.0)
    assert (decoder["lr"], decoder["weight_decay"]) == (1.0, tiny.weight_decay)
    with pytest.raises(InputError, match="rates name trunk; the parts of track_tiny are key_encoder"):
        recipe.make_optimizer(dataclasses.replace(tiny, rates={"trunk": 0.2}), network)


def test_parts_with_a_rate_of_0_stay_as_they_are():
    network = track_small()
    optimizer = recipe.make_optimizer(PRESETS["small"](), network)
    learns = {id(p) for group in optimizer.param_groups for p in group["params"]}
    of_encoder = {name: id(p) in learns for name, p in network.key_encoder.named_parameters()}
    assert not any(of_encoder[name] for name in of_encoder if name.startswith(("stem.", "stages.0.", "stages.1.")))
    assert all(of_encoder[name] for name in of_encoder if name.startswith(("stages.2.", "stages.3.", "stages.4.")))
    assert not network.key_encoder.stem.weight.requires_grad  # no gradient is computed for it


def test_a_damaged_frame_before_is_lost_or_has_a_false_copy():
    masks = torch.zeros(4, 2, 32, 32)
    masks[:, 0, 4:12, 4:12], masks[:, 1, 20:28, 20:28] = 1, 1
    draws = torch.tensor([[0.3, 0.0, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5], [0.7, 0.0, 0.5, 0.8], [1.2, 0.0, 0.0, 0.0]])
    lost, one, copied, kept = spoiled(masks, draws)
    assert lost.sum() == 0
    assert torch.equal(one[1], masks[0, 1])
    assert one[0].sum() == 0
    assert copied[0].sum() > masks[0, 0].sum()
    assert torch.equal(copied.maximum(masks[2]), copied)  # nothing is taken away
    assert copied.sum(0).max() == 1  # no place belongs to two objects
    assert torch.equal(kept, masks[3])


def test_the_damage_changes_what_is_learned_and_is_drawn_the_same_again(tiny, tmp_path):
    config = dataclasses.replace(
        tiny, network="track_small", spoil_last=1.0, replicas=2, iterations=2, held_out=(), out=tmp_path / "first"
    )
    first = load_file(train(config) / "weights.safetensors")
    again = load_file(train(dataclasses.replace(config, out=tmp_path / "again")) / "weights.safetensors")
    whole = load_file(
        train(dataclasses.replace(config, spoil_last=0.0, out=tmp_path / "whole")) / "weights.safetensors"
    )
    name = "decoder.compress.conv1.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], whole[name])


def test_schedules():
    config = dataclasses.replace(PRESETS["tiny"](), lr=1.0, warm_up=0.1)
    rates = [recipe.learning_rate(config, p) for p in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.diff(rates[11:]) <= 0)
    assert recipe.kept_pixels(config, 0.1) == 1.0
    assert recipe.kept_pixels(config, 0.9) == pytest.approx(config.bootstrap_keep)
    gaps = [max_gap(p, config.gap_borders) for p in np.linspace(0.35, 1, 101)]
    assert gaps[0] == 5
    assert max(gaps) == 25
    assert gaps[-1] == 5


def test_what_is_missing_is_said(tiny, tmp_path):
    with pytest.raises(DatasetError, match="found no Annotations/480p there"):
        train(dataclasses.replace(tiny, davis=tmp_path))
    with pytest.raises(DatasetError, match="has no folder for yak"):
        train(dataclasses.replace(tiny, held_out=("yak",)))
    with pytest.raises(InputError, match="batch_per_forward is for replicas=1"):
        dataclasses.replace(tiny, replicas=2, batch_per_forward=1)
