"""The Kinetics recipe on a tiny generated set: it learns, restarts exactly, and shares its work between processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.motion_set import write_motion_set
from tests.processes import run_processes
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.models.slowfast.network import SlowFast
from twospeed.recipes.slowfast_kinetics import (
    PRESETS,
    SlowFastKineticsConfig,
    build,
    kinetics400,
    kinetics600,
    learning_rate,
    start_from,
    train,
)

TINY = {"depths": (1, 1, 1, 1), "width": 8, "beta_inverse": 4, "alpha": 4, "crop_size": None}


def tiny(num_classes: int = 8, **options) -> SlowFast:
    torch.manual_seed(11)
    return SlowFast(num_classes, frames=8, frame_stride=1, **{**TINY, "dropout": 0.2, **options})


@pytest.fixture(scope="session")
def motion_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("motion")
    write_motion_set(out, clips=2, val_clips=1, frames=12, side=32)
    return out


@pytest.fixture
def config(motion_set, tmp_path) -> SlowFastKineticsConfig:
    return SlowFastKineticsConfig(
        train=motion_set / "train",
        val=motion_set / "val",
        num_classes=8,
        workers=0,
        short_side=(32, 36),
        crop=32,
        test_short_side=32,
        test_crop=32,
        flip_probability=0.0,
        epochs=2,
        batch=4,
        batch_per_forward=4,
        bn_clips=4,
        lr=0.02,
        lr_batch=4,
        warm_up_epochs=0.5,
        warm_up_lr=0.002,
        validate_every=2,
        precise_bn_batches=2,
        test_views=(2, 1),
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
    assert [int(row["step"]) for row in curve] == list(range(1, 9))  # 16 videos, 4 to a step, 2 epochs
    assert all(math.isfinite(float(row["loss"])) for row in curve)
    assert [float(row["lr"]) for row in curve] == [learning_rate(config, step / 4) for step in range(8)]
    (score,) = rows(run, "validation")
    assert 0 <= float(score["top1"]) <= float(score["top5"]) <= 1
    assert json.loads((run / "test.json").read_text())["videos"] == 8
    assert [row["unreadable_videos"] for row in rows(run, "epoch")] == ["0", "0"]
    again = tiny()
    again.load_state_dict(load_file(run / "weights.safetensors"))
    assert json.loads((run / "config.json").read_text())["lr"] == 0.02
    with pytest.raises(InputError, match="holds a run already"):
        train(config, network=tiny())


def test_interrupted_and_resumed_is_the_same_run_to_the_last_digit(config, tmp_path):
    straight = train(config, network=tiny())
    parts = dataclasses.replace(config, out=tmp_path / "parts")
    for stop in (3, 4, 6, None):  # in mid-epoch, at the end of one, in mid-epoch again
        part = dataclasses.replace(parts, stop_after_steps=stop)
        train(part, resume=stop != 3, network=tiny() if stop == 3 else tiny(dropout=0.2))
    for name in ("train.csv", "validation.csv"):
        assert (parts.out / name).read_text() == (straight / name).read_text()
    ours, theirs = load_file(parts.out / "weights.safetensors"), load_file(straight / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_resume_refuses_other_settings(config):
    train(dataclasses.replace(config, stop_after_steps=1), network=tiny())
    with pytest.raises(InputError, match=r"lr was 0\.02, now 0\.5"):
        train(dataclasses.replace(config, lr=0.5), resume=True, network=tiny())


def test_accumulated_forwards_are_one_large_one_with_grouped_batch_norm(config, tmp_path):
    whole = dataclasses.replace(config, epochs=1, batch_per_forward=4, bn_clips=2, out=tmp_path / "whole")
    parts = dataclasses.replace(config, epochs=1, batch_per_forward=2, bn_clips=2, out=tmp_path / "parts")
    curves = [[float(row["loss"]) for row in rows(train(c, network=tiny(dropout=0.0)))] for c in (whole, parts)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_clipping_bounds_the_step(config):
    clipped = dataclasses.replace(config, epochs=1, clip_gradient=1e-9, weight_decay=0.0)
    network = tiny()
    before = {name: value.clone() for name, value in network.named_parameters()}
    run = train(clipped, network=network)
    assert float(rows(run)[0]["gradient_norm"]) > 0.01  # reported before clipping
    assert all(torch.allclose(before[name], value, atol=1e-7) for name, value in network.named_parameters())


def test_mixed_precision_trains(config):
    run = train(dataclasses.replace(config, epochs=1, precision="bf16"), network=tiny())
    assert all(math.isfinite(float(row["loss"])) for row in rows(run))


def test_unreadable_videos_are_counted_and_named(config, motion_set, tmp_path):
    shutil.copytree(motion_set, tmp_path / "set")
    broken = sorted((tmp_path / "set" / "train").rglob("*.mp4"))[:5]
    for path in broken:
        path.write_bytes(b"nothing")
    sorted((tmp_path / "set" / "val").rglob("*.mp4"))[0].unlink()
    with (tmp_path / "set" / "val.csv").open("w") as file:  # a list names what is not there
        for path in sorted((motion_set / "val").rglob("*.mp4")):
            local = path.relative_to(motion_set / "val")
            file.write(f"val/{local} {sorted(p.name for p in (motion_set / 'val').iterdir()).index(local.parts[0])}\n")
    run = train(
        dataclasses.replace(config, train=tmp_path / "set" / "train", val=tmp_path / "set" / "val.csv"), network=tiny()
    )
    assert sum(int(row["clips"]) for row in rows(run)) == 2 * (16 - 5)
    assert rows(run, "epoch")[-1]["unreadable_videos"] == "5"
    listed = (run / "unreadable.csv").read_text()
    assert all(str(path) in listed for path in broken)
    report = json.loads((run / "test.json").read_text())
    assert (report["videos"], report["videos_listed"]) == (7, 8)
    assert report["coverage"] == "7 of 8 videos"


def test_a_set_without_one_readable_video_stops(config, motion_set, tmp_path):
    shutil.copytree(motion_set / "train", tmp_path / "bad")
    for path in (tmp_path / "bad").rglob("*.mp4"):
        path.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="not one video could be read"):
        train(dataclasses.replace(config, train=tmp_path / "bad", val=None), network=tiny())


def test_what_does_not_fit_together_is_refused(config):
    with pytest.raises(DatasetError, match="has 8 class folders, num_classes is 3"):
        train(dataclasses.replace(config, num_classes=3), network=tiny())
    with pytest.raises(InputError, match="16 samples do not fill one step of 64"):
        train(dataclasses.replace(config, batch=64), network=tiny())
    with pytest.raises(InputError, match="model='resnet'"):
        build(dataclasses.replace(config, model="resnet"))


def test_weights_of_another_data_set_start_a_training(tmp_path):
    path = tmp_path / "k600.safetensors"
    config = dataclasses.replace(kinetics400(), weights=str(path))
    source = tiny(6)
    save_file(source.state_dict(), path)
    network = tiny(7)
    head = network.head.projection.weight.clone()
    assert "kept as initialised" in start_from(network, config)
    assert torch.equal(network.s1.pathway0_stem.conv.weight, source.s1.pathway0_stem.conv.weight)
    assert torch.equal(network.head.projection.weight, head)
    with pytest.raises(CheckpointError, match="s1_fuse"):
        start_from(tiny(6, fusion_kernel=7), config)
    slow = SlowFast(6, pathways=("slow",), frames=2, **{k: v for k, v in TINY.items() if k in ("depths", "width")})
    save_file(slow.state_dict(), path)
    network = tiny(6)
    start_from(network, config)  # fills the Slow pathway, leaves the Fast one
    assert torch.equal(network.s1.pathway0_stem.conv.weight, slow.s1.pathway0_stem.conv.weight)


def test_presets_hold_the_papers_numbers():
    k400, k600 = kinetics400(), kinetics600()
    assert (k400.batch, k400.epochs, k400.momentum, k400.weight_decay) == (64, 196, 0.9, 1e-4)
    assert learning_rate(k400, 0) == pytest.approx(0.01)
    assert learning_rate(k400, 98) == pytest.approx(0.05)
    assert learning_rate(dataclasses.replace(k400, batch=512), 98) == pytest.approx(0.4)  # linear scaling
    assert (k600.batch, k600.epochs, k600.short_side, k600.batch_per_forward) == (1024, 240, (256, 360), 8)
    assert learning_rate(k600, 120) == pytest.approx(0.4)
    stepwise = PRESETS["kinetics400_steps"]()
    assert [learning_rate(stepwise, e) for e in (93, 94, 238)] == pytest.approx([0.1, 0.01, 0.0001])
    with torch.device("meta"):
        networks = {name: build(preset()) for name, preset in PRESETS.items()}
    assert networks["kinetics700"].head.projection.out_features == 700
    assert networks["kinetics600"].frames == 64


WORKER = """
import dataclasses, json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.recipes.test_slowfast_kinetics import tiny
from twospeed.recipes.slowfast_kinetics import SlowFastKineticsConfig, train
fields = json.loads(sys.argv[1])
for name in ("train", "val", "out"):
    fields[name] = Path(fields[name])
for name in ("short_side", "val_views", "test_views", "mean", "std", "lr_boundaries"):
    fields[name] = tuple(fields[name])
train(SlowFastKineticsConfig(**fields), network=tiny(dropout=0.0))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_clips(config, tmp_path):
    alone = dataclasses.replace(config, batch_per_forward=4, bn_clips=2, out=tmp_path / "alone")
    shared = dataclasses.replace(config, batch_per_forward=2, bn_clips=2, out=tmp_path / "shared")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: other sums of threads, some steps on, are other last digits
    try:
        train(alone, network=tiny(dropout=0.0))
    finally:
        torch.set_num_threads(threads)
    run_processes(WORKER, json.dumps(dataclasses.asdict(shared), default=str))
    one, two = rows(alone.out), rows(shared.out)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert [float(row["loss"]) for row in two] == pytest.approx([float(row["loss"]) for row in one], rel=2e-3)
    ours, theirs = load_file(shared.out / "weights.safetensors"), load_file(alone.out / "weights.safetensors")
    for name, value in theirs.items():
        if value.is_floating_point():
            assert torch.allclose(ours[name], value, rtol=2e-2, atol=2e-3), name
    reports = [json.loads((run / "test.json").read_text()) for run in (alone.out, shared.out)]
    assert [report["videos"] for report in reports] == [8, 8]  # no video twice, none padded
