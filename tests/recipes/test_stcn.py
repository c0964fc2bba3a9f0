"""The recipes of STCN on generated sets: they learn, restart exactly, keep batch norm still, share their work."""

from __future__ import annotations

import csv
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.vos_sets import write_demo_sets
from tests.goldens import seeded
from twospeed.data.benchmarks.stills import find_pairs
from twospeed.data.clips.stills import StillClips
from twospeed.data.clips.training_clip import stack_clips
from twospeed.data.clips.videos import VideoClips, max_gap
from twospeed.errors import CheckpointError, InputError, VideoError
from twospeed.models.stcn.builders import stcn
from twospeed.models.stcn.loss import kept_fraction
from twospeed.models.stm.builders import stm
from twospeed.models.unrolled import UnrolledPropagation, propagation_loss
from twospeed.recipes import stcn as recipe
from twospeed.recipes.stcn import PRESETS, StcnConfig, find_sources, mean_jaccard, precision_of, train
from twospeed.weights.load import create_model

TINY = {
    "crop": (64,), "workers": 0, "width": 8, "iterations": 4, "batch": (2,), "lr": 1e-3, "lr_boundaries": (3 / 4,),
    "norm_batches": 1, "bootstrap_from": 1 / 4, "bootstrap_to": 3 / 4, "log_every": 1, "device": "cpu", "weights": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return write_demo_sets(tmp_path_factory.mktemp("demo"), side=64, videos=3, frames=4, stills=1)


@pytest.fixture
def still(demo, tmp_path) -> StcnConfig:
    return StcnConfig(**TINY, static=demo / "static", objects=(1,), out=tmp_path / "static")


@pytest.fixture
def video(demo, tmp_path) -> StcnConfig:
    sets = {"davis": demo / "DAVIS", "youtube_vos": demo / "YouTube"}
    return StcnConfig(**TINY, **sets, out=tmp_path / "video")


def rows(run: Path) -> list[dict[str, float]]:
    with (run / "train.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# ---------------------------------------------------------------- the step


@torch.inference_mode()
def test_the_step_and_its_loss_are_the_authors(golden):
    """What the recipes call, not a copy of it, against numbers recorded from the authors' training code."""
    case = golden("vos/stcn_train_forward")
    out, tolerance = case.outputs, case.case["tolerance"]
    model = create_model("stcn", case.state_dict())
    frames = torch.stack([
        torch.cat([torch.from_numpy(seeded.array(f"stcn.t{b}.frame{i}", (1, 3, 96, 96))) for i in range(3)])
        for b in range(2)
    ])  # fmt: skip
    cells = torch.from_numpy(seeded.array("stcn.t.blockmasks", (2, 2, 1, 6, 6), 0, 1))
    masks = cells.repeat_interleave(16, 3).repeat_interleave(16, 4)
    masks = (masks / masks.sum(1, keepdim=True).clamp(min=1))[:, :, 0]
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    raw = frames * model.pixel_std + model.pixel_mean  # the recorded frames are normalised already
    log_odds = UnrolledPropagation(model)(raw, masks, present)
    for t in (1, 2):
        np.testing.assert_allclose(log_odds[:, t - 1, :, ::4, ::4], out[f"logits_{t}"], **tolerance)
        probabilities = log_odds[:, t - 1].softmax(1)[:, 1:, ::4, ::4]
        np.testing.assert_allclose(probabilities, out[f"prob_{t}"], **tolerance)
    labels = torch.from_numpy(seeded.array("stcn.t.gt", (2, 3, 96, 96), 0, 3).astype(np.int64))
    labels[1][labels[1] == 2] = 0
    for iteration, expected in zip([0, 19_999, 20_000, 45_000, 70_000, 70_001, 100_000], out["loss"], strict=True):
        loss = propagation_loss(log_odds, labels, [2, 1], keep=kept_fraction(iteration))
        np.testing.assert_allclose(float(loss), expected, **tolerance)


@pytest.mark.parametrize("make", [stcn, stm], ids=["stcn", "stm"])
@torch.inference_mode()
def test_an_absent_object_changes_nothing_for_the_other(make):
    torch.manual_seed(0)
    following = UnrolledPropagation(make(width=8)).eval()
    frames, mask = torch.rand(1, 3, 3, 64, 64), torch.rand(1, 1, 64, 64)
    alone = following(frames, mask, torch.ones(1, 1))
    beside = following(frames, torch.cat([mask, torch.zeros_like(mask)], 1), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(beside[:, :, :2], alone, atol=1e-4, rtol=1e-4)


def test_mean_jaccard_counts_what_is_there():
    labels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    labels[:, 1, :2] = 1
    log_odds = torch.zeros(1, 2, 2, 4, 4)
    log_odds[:, :, 0] = 1.0
    log_odds[:, 0, 1, 1:3] = 2.0  # half of the object, and as much beside it; frame 2: rightly nothing
    assert float(mean_jaccard(log_odds, labels, [1])) == pytest.approx((1 / 3 + 1) / 2)


def test_a_few_steps_on_the_same_samples_bring_the_loss_down(demo):
    torch.manual_seed(0)
    source = StillClips(find_pairs(demo / "static")["fss"])
    following = UnrolledPropagation(stcn(width=8, mask_channels=1))  # batch norm trains here: the point is the gradient
    optimizer = torch.optim.Adam(following.parameters(), lr=1e-3)
    batch = stack_clips([source.draw(np.random.default_rng(0), index=1, size=64)])
    frames, labels, masks, present = recipe.on_device(batch, torch.device("cpu"))
    losses = []
    for _ in range(10):
        loss = propagation_loss(following(frames, masks, present), labels, batch.objects, keep=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- runs


def test_stage_0_leads_to_stage_3(still, video):
    first = train(still)
    curve = rows(first)
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert [row["lr"] for row in curve] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    assert [row["kept_pixels"] for row in curve] == pytest.approx([1, 1, 0.575, 0.15])
    weights = load_file(first / "weights.safetensors")
    assert weights["value_encoder.backbone.conv1.weight"].shape == (8, 4, 7, 7)
    follow_on = dataclasses.replace(video, weights=first / "weights.safetensors", iterations=1, lr=1e-9)
    second = train(follow_on)
    after = load_file(second / "weights.safetensors")
    grown = after.pop("value_encoder.backbone.conv1.weight")
    assert grown.shape == (8, 5, 7, 7)
    assert grown[:, 4].any()
    for name, value in after.items():  # one step at a vanishing rate: stage 3 began where stage 0 ended
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=0, msg=name)
    model = create_model("stcn", second / "weights.safetensors")
    assert model.similarity == "l2"
    with pytest.raises(CheckpointError, match="does not fit this stm"):
        train(dataclasses.replace(follow_on, network="stm", out=video.out / "other"))


@pytest.mark.parametrize("which", ["still", "video"])
def test_interrupted_and_resumed_is_the_same_run_to_the_last_digit(which, request, tmp_path):
    config = request.getfixturevalue(which)
    config = dataclasses.replace(config, batch=(3,))  # two steps an epoch of stills: stops in mid-epoch and at its end
    straight = train(config)
    parts = dataclasses.replace(config, out=tmp_path / "parts")
    for stop in (1, 2, None):
        workers = 1 if stop == 2 else 0  # who loads the samples changes none of them
        train(dataclasses.replace(parts, stop_after_steps=stop, workers=workers), resume=stop != 1)
    assert (parts.out / "train.csv").read_text() == (straight / "train.csv").read_text()
    ours, theirs = load_file(parts.out / "weights.safetensors"), load_file(straight / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(InputError, match=r"lr was 0\.001, now 0\.5"):
        train(dataclasses.replace(parts, lr=0.5), resume=True)
    with pytest.raises(InputError, match="holds a run already"):
        train(config)


def test_batch_norm_keeps_its_statistics_while_its_affine_learns(video, monkeypatch):
    networks = []
    whole = recipe.build
    monkeypatch.setattr(recipe, "build", lambda *arguments: networks.append(whole(*arguments)) or networks[0])
    before: dict[str, torch.Tensor] = {}
    measured = recipe.measure_norms

    def measure(*arguments):
        measured(*arguments)
        before.update({name: value.clone() for name, value in networks[0].state_dict().items()})

    monkeypatch.setattr(recipe, "measure_norms", measure)
    train(dataclasses.replace(video, iterations=2))
    after = networks[0].state_dict()
    statistics = [name for name in after if "running" in name]
    assert statistics
    assert all(torch.equal(after[name], before[name]) for name in statistics)
    assert any(before[name].abs().max() > 1e-3 for name in statistics if "mean" in name)  # measured, not 0 and 1
    affine = [name for name in after if ".bn1.weight" in name]
    assert all(not torch.equal(after[name], before[name]) for name in affine)


def test_accumulated_forwards_are_one_large_one(video, tmp_path):
    base = dataclasses.replace(video, iterations=2, bootstrap_from=2, bootstrap_to=3, lr=1e-6)  # Adam amplifies noise
    whole = rows(train(base))
    parts = rows(train(dataclasses.replace(base, batch_per_forward=1, out=tmp_path / "parts")))
    for one, other in zip(whole, parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)


def test_baselines_and_variants_train(video, demo, tmp_path):
    base = dataclasses.replace(video, iterations=1, davis=None, youtube_vos=None, bl30k=demo / "BL30K", gaps=(1,) * 6)
    for name, options in {
        "stm": {"network": "stm"},
        "dot": {"similarity": "dot", "backbone": "wide_resnet50", "aspp": True, "precision": "bf16"},
    }.items():
        run = train(dataclasses.replace(base, out=tmp_path / name, **options))
        assert np.isfinite(rows(run)[0]["loss"])
        model = create_model(options.get("network", "stcn"), run / "weights.safetensors")
        assert model.similarity == "dot"
    with pytest.raises(InputError, match="stm: got an unexpected keyword argument 'aspp'"):
        train(dataclasses.replace(base, network="stm", aspp=True, out=tmp_path / "x"))


def test_imagenet_files_start_both_backbones(still, tmp_path):
    network = stcn(width=8, mask_channels=1)
    files = {}
    for name, backbone in (("key", network.key_encoder), ("value", network.value_encoder.backbone)):
        state = {k: v for k, v in backbone.state_dict().items() if not (k.endswith("bias") and "conv" in k)}
        state = {k: v for k, v in state.items() if not k.endswith("downsample.0.bias")}
        state["conv1.weight"] = state["conv1.weight"][:, :3].contiguous()
        files[f"{name}_backbone_weights"] = tmp_path / f"{name}.safetensors"
        save_file(state, files[f"{name}_backbone_weights"])
    run = train(dataclasses.replace(still, **files, iterations=1, lr=1e-9))
    weights = load_file(run / "weights.safetensors")
    torch.testing.assert_close(weights["key_encoder.conv1.weight"], network.key_encoder.conv1.weight.detach())
    assert not weights["value_encoder.backbone.conv1.bias"].abs().max() > 1e-6
    half = dataclasses.replace(still, key_backbone_weights=files["key_backbone_weights"], out=tmp_path / "half")
    with pytest.raises(InputError, match="value_backbone_weights is not given"):
        train(half)


def test_davis_2016_trains_as_it_is(davis16, still, video):
    config = dataclasses.replace(
        video, davis=davis16, davis_year=2016, davis_sequences=("dog",), youtube_vos=None, iterations=1
    )
    assert np.isfinite(rows(train(config))[0]["loss"])
    assert len(find_sources(config)[0]) == 5
    (around,) = find_sources(dataclasses.replace(config, views="objects", frame_zoom=(0.7, 1.4)))
    assert isinstance(around, VideoClips)
    assert around.motion.zoom == (0.7, 1.4)
    stills = dataclasses.replace(still, static=davis16, sets=("davis",), davis_sequences=("dog",), iterations=1)
    assert np.isfinite(rows(train(stills))[0]["loss"])


# ---------------------------------------------------------------- plans


def test_the_plans_are_the_authors():
    plans = {name: make() for name, make in PRESETS.items()}
    for name, iterations, step, batch in (
        ("static", 300_000, 150_000, 16),
        ("stage1", 500_000, 400_000, 8),
        ("stage2", 300_000, 250_000, 8),
        ("video", 150_000, 125_000, 8),
    ):
        plan = plans[name]
        assert (plan.iterations, plan.batch, plan.lr, plan.weight_decay) == (iterations, (batch,), 1e-5, 1e-7)
        assert (plan.bootstrap_keep, plan.crop) == (0.15, (384,))
        rates = [recipe.learning_rate(plan, i / iterations) for i in (0, step - 1, step, iterations - 1)]
        assert rates == pytest.approx([1e-5, 1e-5, 1e-6, 1e-6])
        for i in (0, 19_999, 20_000, 45_000, 70_000, 70_001, 100_000):
            assert recipe.kept_pixels(plan, i / iterations) == pytest.approx(kept_fraction(i))
    assert plans["stage1"].gap_borders[-1] == 0.8
    assert plans["stage2"].weights == plans["stage1"].out / "weights.safetensors"
    assert plans["video"].weights == plans["stage1"].weights == plans["static"].out / "weights.safetensors"
    assert plans["video_stm"].network == plans["static_stm"].network == "stm"
    # 60 sequences of DAVIS five times and 3,464 videos of YouTube-VOS: 470 steps of 8, 320 epochs
    gaps = [max_gap(470 * epoch / 150_000, plans["video"].gap_borders) for epoch in range(320)]
    assert [gaps[epoch] for epoch in (0, 31, 32, 64, 96, 128, 287, 288, 319)] == [5, 5, 10, 15, 20, 25, 25, 5, 5]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": (100,)}, "multiple of 16"),
        ({"batch": (0,)}, "batch is 0; give a number above 0"),
        ({"crop": (64, 96)}, "crop has 2 values, but there are 1 phases"),
        ({"bootstrap_to": 0.1}, "a start before the end"),
        ({"minutes": 5.0}, "give one"),
        ({"iterations": None}, "give one"),
        ({"batch": (3,), "replicas": 2}, "shared by 2 replicas"),
        ({"generated_first": True}, "needs generated clips"),
        ({"gaps": (5, 10)}, "2 gaps for 5 borders"),
    ],
)
def test_settings_that_make_no_training_are_refused(video, wrong, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(video, **wrong)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_cannot_be_read_is_named_in_one_line(still, tmp_path, workers):
    root = write_demo_sets(tmp_path / "sets", side=64, videos=2, frames=3, stills=1) / "static"
    for image in root.rglob("*.jpg"):
        image.write_bytes(b"no image")
    with pytest.raises(VideoError) as caught:
        train(dataclasses.replace(still, static=root, workers=workers))
    assert str(caught.value).startswith(str(root))
    assert "\n" not in str(caught.value)


def test_half_precision_is_for_gpus(video):
    assert precision_of(video, torch.device("cuda")) == torch.float16
    assert precision_of(video, torch.device("cpu")) == torch.float32
    with pytest.raises(InputError, match="no data to train on"):
        find_sources(dataclasses.replace(video, davis=None, youtube_vos=None))


@pytest.mark.slow
def test_two_processes_train_as_one(video, tmp_path):
    config = dataclasses.replace(video, iterations=2, bootstrap_from=2, bootstrap_to=3, lr=1e-6)
    alone = rows(train(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys, dataclasses, json; from pathlib import Path; from twospeed.recipes import stcn as r;"
        "from twospeed.cli.train import read_config, apply_settings;"
        "c = r.StcnConfig(**read_config(Path(sys.argv[1]), r.StcnConfig));"
        "r.train(dataclasses.replace(c, out=Path(sys.argv[2])))"
    )
    together = tmp_path / "together"
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(config.out / "config.json"), str(together)],
            env={**environment, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=250)
        assert process.returncode == 0, errors
    for one, other in zip(alone, rows(together), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_with_scaled_gradients_trains(video):
    config = dataclasses.replace(video, device="cuda", iterations=6, width=16)
    curve = rows(train(config))
    assert all(np.isfinite(row["loss"]) for row in curve)
