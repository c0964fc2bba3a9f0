"""The AVA recipe on a tiny generated set: it runs, restarts exactly, and weighs boxes whoever computes them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.figures_set import ACTIONS, write_figures_set
from tests.processes import run_processes
from twospeed.errors import DatasetError, InputError
from twospeed.models.slowfast.detection import RegionHead
from twospeed.models.slowfast.network import SlowFast
from twospeed.recipes.slowfast_ava import (
    PRESETS,
    SlowFastAvaConfig,
    build,
    learning_rate,
    pyslowfast_r50,
    read_training,
    report_8x8,
    report_16x8,
    report_trainval,
    train,
)
from twospeed.weights.catalog import PUBLISHED, find

TINY = {"depths": (1, 1, 1, 1), "width": 8, "beta_inverse": 4, "alpha": 4, "crop_size": None, "frames": 4}


def tiny(num_classes: int = 8, *, context: bool = True, dropout: float = 0.2) -> SlowFast:
    torch.manual_seed(11)
    network = SlowFast(num_classes, frame_stride=3, res5_stride=1, res5_dilation=2, dropout=dropout, **TINY)
    network.head = RegionHead(
        network.feature_channels, num_classes, context=context, context_channels=8, dropout=dropout
    )
    return network


@pytest.fixture(scope="session")
def figures_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    write_figures_set(out, keyframes=8, val_keyframes=4)
    return out


@pytest.fixture
def config(figures_set, tmp_path) -> SlowFastAvaConfig:
    return SlowFastAvaConfig(
        data=figures_set,
        num_classes=len(ACTIONS),
        weights=None,
        workers=0,
        short_side=(32, 32),
        crop=None,
        box_jitter=0.05,
        flip_probability=0.0,
        iterations=6,
        batch=4,
        batch_per_forward=4,
        bn_clips=4,
        lr=0.02,
        lr_batch=4,
        lr_boundaries=(4,),
        warm_up_steps=2,
        warm_up_lr=0.002,
        validate_every=3,
        val_every_s=2,
        precise_bn_batches=1,
        test_short_side=32,
        log_every=1,
        device="cpu",
        out=tmp_path / "run",
    )


def rows(run: Path, kind: str = "train") -> list[dict[str, str]]:
    with (run / f"{kind}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_curves_scores_and_loadable_weights(config):
    run = train(config, network=tiny())
    curve = rows(run)
    assert [int(row["step"]) for row in curve] == list(range(1, 7))
    assert all(math.isfinite(float(row["loss"])) for row in curve)
    assert [float(row["lr"]) for row in curve] == pytest.approx([0.002, 0.011, 0.02, 0.02, 0.002, 0.002])
    first, last = rows(run, "validation")
    assert (int(first["keyframes"]), int(last["keyframes"])) == (2, 4)  # every other second, then all
    report = json.loads((run / "test.json").read_text())
    assert report["mAP"] == pytest.approx(float(last["mAP"]), abs=1e-5)
    assert list(report["class_AP"]) <= list(ACTIONS.values())
    assert (run / "detections.csv").read_text().count("\n") % len(ACTIONS) == 0
    tiny().load_state_dict(load_file(run / "weights.safetensors"))
    with pytest.raises(InputError, match="holds a run already"):
        train(config, network=tiny())


def test_interrupted_and_resumed_is_the_same_run_to_the_last_digit(config, tmp_path):
    straight = train(config, network=tiny())
    parts = dataclasses.replace(config, out=tmp_path / "parts")
    for stop in (2, 3, 5, None):
        train(dataclasses.replace(parts, stop_after_steps=stop), resume=stop != 2, network=tiny())
    for name in ("train.csv", "validation.csv", "detections.csv"):
        assert (parts.out / name).read_text() == (straight / name).read_text()
    ours, theirs = load_file(parts.out / "weights.safetensors"), load_file(straight / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_is_the_mean_over_its_boxes_however_it_is_cut(config, tmp_path):
    settings = dataclasses.replace(config, iterations=2, bn_clips=2, val=None, clip_gradient=1.0)
    whole = dataclasses.replace(settings, batch_per_forward=4, out=tmp_path / "whole")
    parts = dataclasses.replace(settings, batch_per_forward=2, out=tmp_path / "parts")
    curves = [rows(train(c, network=tiny(dropout=0.0))) for c in (whole, parts)]
    for key in ("loss", "gradient_norm", "boxes"):
        assert [float(r[key]) for r in curves[0]] == pytest.approx([float(r[key]) for r in curves[1]], rel=1e-4)


def test_frozen_batch_norm_keeps_its_statistics(config):
    network = tiny()
    before = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    train(dataclasses.replace(config, iterations=2, freeze_bn=True, precise_bn_batches=0, val=None), network=network)
    assert before
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers() if "running" in name)


def test_mixed_precision_trains(config):
    run = train(dataclasses.replace(config, iterations=2, precision="bf16", val=None), network=tiny())
    assert all(math.isfinite(float(row["loss"])) for row in rows(run))


def test_clips_without_people_and_broken_ones_are_counted(config, figures_set, tmp_path):
    out = tmp_path / "set"
    write_figures_set(out, keyframes=4, val_keyframes=1, images=True)
    images = sorted((out / "frames" / "train_0000").iterdir())
    for path in images[100:]:
        path.write_bytes(b"nothing")
    settings = dataclasses.replace(
        config, data=out, proposal_iou=None, val=None, iterations=3, precise_bn_batches=0, crop=32
    )
    run = train(settings, network=tiny())
    counted = rows(run)
    assert all(int(row["clips"]) + int(row["clips_without_boxes"]) <= 2 for row in counted)
    assert "train_0000" in (run / "unreadable.csv").read_text()


def test_training_data_is_what_the_settings_say(config, figures_set):
    def boxes(**changes):
        return sum(map(len, read_training(dataclasses.replace(config, **changes))))

    annotated = boxes(proposal_iou=None)
    assert annotated < boxes() < boxes(proposal_iou=0.75) <= 2 * annotated
    assert boxes(proposal_actions="file", person_score=0.3) > boxes(proposal_actions="file")
    assert boxes(splits=("train", "val"), proposal_iou=None) > annotated
    negatives = read_training(dataclasses.replace(config, proposal_actions="file"))
    assert any(not actions for keyframe in negatives for actions in keyframe.actions)


def test_what_does_not_fit_together_is_refused(config, figures_set, tmp_path):
    with pytest.raises(DatasetError, match="num_classes is 3"):
        train(dataclasses.replace(config, num_classes=3), network=tiny(3))
    with pytest.raises(InputError, match="8 samples do not fill one step of 64"):
        train(dataclasses.replace(config, batch=64), network=tiny())
    with pytest.raises(InputError, match="model='slowfast_r50_8x8'"):
        build(dataclasses.replace(config, model="slowfast_r50_8x8"))
    other = Path("annotations/ava_val_predicted_boxes.csv")  # within the set
    with pytest.raises(DatasetError, match="none of its videos is in train"):
        train(dataclasses.replace(config, proposals=other), network=tiny())
    with pytest.raises(DatasetError, match="holds no ava_test"):
        train(dataclasses.replace(config, splits=("test",)), network=tiny())
    assert not config.out.exists()  # what is refused leaves nothing


def test_training_starts_from_recognition_weights_without_their_head(config, tmp_path):
    torch.manual_seed(3)
    source = SlowFast(60, **TINY)
    save_file(source.state_dict(), tmp_path / "kinetics.safetensors")
    network = tiny()
    head = network.head.projection.weight.clone()
    settings = dataclasses.replace(
        config, weights=str(tmp_path / "kinetics.safetensors"), iterations=1, lr=0.0, warm_up_lr=0.0
    )
    train(dataclasses.replace(settings, val=None), network=network)
    assert torch.equal(network.s4.pathway0_res0.branch2.a.weight, source.s4.pathway0_res0.branch2.a.weight)
    assert torch.equal(network.head.projection.weight, head)


def test_presets_hold_the_reports_numbers():
    plain, both, short = report_8x8(), report_trainval(), pyslowfast_r50()
    assert (plain.iterations, plain.warm_up_steps, plain.weight_decay) == (12_000, 1_000, 1e-7)
    assert both.iterations == 1.5 * plain.iterations
    assert both.splits == ("train", "val")
    for long in (report_16x8(), both):  # the report's 29.8 and 30.7 are of networks with the context branch
        assert long.model_options == {"context": True}
    assert learning_rate(plain, 500) == pytest.approx(0.4)
    assert [learning_rate(plain, step) for step in (1_000, 8_000, 11_999)] == pytest.approx([0.8, 0.08, 0.008])
    assert learning_rate(short, 0) == pytest.approx(0.000125)
    assert {preset().iterations for preset in PRESETS.values()} >= {12_000, 16_000, 18_000}
    listed = {file.url for file in PUBLISHED} | {find("slowfast_r50_8x8").weights.url}
    assert {name for name, preset in PRESETS.items() if preset().weights not in listed} == {"report_fast"}
    with torch.device("meta"):
        for preset in PRESETS.values():
            network = build(preset())
            assert network.num_classes == 80
            assert (network.head.context is not None) == preset().model_options.get("context", False)


PROCESS = """
import sys, torch
from pathlib import Path
from tests.recipes.test_slowfast_ava import tiny
from twospeed.recipes.slowfast_ava import SlowFastAvaConfig, train
torch.set_num_threads(1)
config = SlowFastAvaConfig(**eval(sys.argv[1], {"PosixPath": Path}))
train(config, network=tiny(dropout=0.0))
"""


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(config, tmp_path):
    settings = dataclasses.replace(config, iterations=3, batch_per_forward=2, bn_clips=2, precise_bn_batches=0)
    alone = train(settings, network=tiny(dropout=0.0))
    shared = dataclasses.replace(settings, out=tmp_path / "shared")
    fields = {field.name: getattr(shared, field.name) for field in dataclasses.fields(shared)}
    run_processes(PROCESS, repr(fields))
    for key in ("loss", "gradient_norm", "boxes", "clips"):
        one, two = ([float(row[key]) for row in rows(run)] for run in (alone, shared.out))
        assert np.allclose(one, two, rtol=1e-3), key
