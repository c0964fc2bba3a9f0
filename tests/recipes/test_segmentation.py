"""The recipe of the image networks: every network trains, resumes exactly, and its weights load by name."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import twospeed
from tests.processes import run_processes
from twospeed.errors import CheckpointError
from twospeed.models.bisenet.loss import hard_cross_entropy
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.swiftnet.loss import boundary_focal
from twospeed.recipes.segmentation import PRESETS, SegmentationConfig, backbone_of, build, set_rates, train
from twospeed.transforms.labels import border_weights


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split, names in (("train", ["0006R0_f00930", "0006R0_f00960"]), ("val", ["0016E5_07959"])):
        for name in names:
            labels = np.full((60, 80), 3, np.uint8)
            labels[:30, :40], labels[55:] = 0, 11
            image = (labels[..., None] * 20 + rng.integers(0, 30, (60, 80, 3))).astype(np.uint8)
            for kind, pixels in (("images", image), ("labels", labels)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / kind / f"{name}.png")
    return root


def config_of(root: Path, out: Path, **options: object) -> SegmentationConfig:
    fixed = {"dataset": "camvid", "crop": 64, "batch": 2, "epochs": 2, "workers": 0, "log_every": 1, "device": "cpu"}
    return SegmentationConfig(data=root, out=out, **{**fixed, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "network",
    [
        "swiftnet_r18",
        pytest.param("swiftnet_r18_pyramid", marks=pytest.mark.slow),
        pytest.param("bisenet_r18", marks=pytest.mark.slow),
    ],
)
def test_every_network_trains_and_its_weights_load(camvid: Path, tmp_path: Path, network: str) -> None:
    out = train(config_of(camvid, tmp_path / "run", network=network, epochs=1))
    for name in ("best", "weights"):
        model = twospeed.create_model(network, out / f"{name}.safetensors")
        assert model.num_classes == 11
    with (out / "validation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["mIoU"]) <= float(row["pixel_accuracy"]) <= 1


@pytest.mark.slow
def test_a_resumed_run_equals_a_straight_one(camvid: Path, tmp_path: Path) -> None:
    straight = train(config_of(camvid, tmp_path / "straight"))
    train(config_of(camvid, tmp_path / "stopped", stop_after_steps=1))
    resumed = train(config_of(camvid, tmp_path / "stopped"), resume=True)
    one, other = (twospeed.create_model("swiftnet_r18", run / "weights.safetensors") for run in (straight, resumed))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


SHARED = """
import sys, torch
from pathlib import Path
from twospeed.recipes.segmentation import SegmentationConfig, train
torch.set_num_threads(1)
train(SegmentationConfig(**eval(sys.argv[1], {"PosixPath": Path})))
"""


@pytest.mark.slow
def test_two_processes_share_steps_and_validation(camvid: Path, tmp_path: Path) -> None:
    """One run folder, the loss of the whole batch, and one set of weights, which is validated once."""
    root = tmp_path / "camvid"
    shutil.copytree(camvid, root)
    for kind in ("images", "labels"):
        for one, other in (("0006R0_f00930", "0006R0_f00990"), ("0006R0_f00960", "0006R0_f01020")):
            shutil.copy(root / "train" / kind / f"{one}.png", root / "train" / kind / f"{other}.png")
        shutil.copy(root / "val" / kind / "0016E5_07959.png", root / "val" / kind / "0016E5_07961.png")
    settings = config_of(root, tmp_path / "shared", batch=4, epochs=1)
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    run_processes(SHARED, repr(fields))
    alone = train(dataclasses.replace(settings, out=tmp_path / "alone"))
    tables = []
    for run in (settings.out, alone):
        for name in ("train", "validation"):
            with (run / f"{name}.csv").open() as file:
                tables.append(list(csv.DictReader(file)))
    assert [len(table) for table in tables] == [1, 1, 1, 1]
    # Batch norm sees half of the batch in each process: the losses are alike, not the same
    assert float(tables[0][0]["loss"]) == pytest.approx(float(tables[2][0]["loss"]), rel=0.3)
    assert twospeed.create_model("swiftnet_r18", settings.out / "weights.safetensors").num_classes == 11


@pytest.mark.parametrize("network", ["swiftnet_r18", "swiftnet_r18_pyramid", "bisenet_r18"])
def test_the_backbone_starts_from_torchvisions_weights(camvid: Path, tmp_path: Path, network: str) -> None:
    state = ResNetFeatures("basic", (2, 2, 2, 2)).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "r18.pth")
    backbone = backbone_of(
        build(config_of(camvid, tmp_path, network=network, backbone=tmp_path / "r18.pth"))
    ).state_dict()
    torch.testing.assert_close(backbone["layer3.0.conv2.weight"], state["layer3.0.conv2.weight"])
    norm = "layer1.1.bn2.2.weight" if network.endswith("pyramid") else "layer1.1.bn2.weight"
    torch.testing.assert_close(backbone[norm], state["layer1.1.bn2.weight"])
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        build(config_of(camvid, tmp_path, network=network, backbone=tmp_path / "bad.pth"))


def test_the_published_numbers_are_the_defaults() -> None:
    config = SegmentationConfig()
    assert (config.epochs, config.batch, config.crop, config.betas) == (250, 14, 768, (0.9, 0.99))
    optimizer = torch.optim.Adam(
        [{"params": [torch.zeros(1)], "base": config.lr}, {"params": [torch.zeros(1)], "base": config.backbone_lr}]
    )
    for epoch, expected in ((0, (4e-4, 1e-4)), (125, (2.005e-4, 5.05e-5)), (250, (1e-6, 1e-6))):
        set_rates(optimizer, config, epoch)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
    assert {name: preset().network for name, preset in PRESETS.items()} == {
        "swiftnet": "swiftnet_r18", "pyramid": "swiftnet_r18_pyramid", "bisenet": "bisenet_r18",
        "camvid": "swiftnet_r18",
    }  # fmt: skip
    assert dataclasses.asdict(PRESETS["camvid"]())["dataset"] == "camvid"


def test_border_weights_fall_with_the_distance() -> None:
    labels = np.zeros((4, 400), np.uint8)
    labels[:, 200:] = 1
    row = border_weights(labels)[0]
    assert [float(row[at]) for at in (199, 190, 180, 150, 100, 10)] == [8, 8, 4, 4, 2, 1]
    np.testing.assert_array_equal(row, row[::-1])
    assert (border_weights(np.zeros((5, 5), np.uint8)) == 1).all()
    cv2.setNumThreads(-1)


def test_the_focal_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    scores, labels, weights = torch.randn(1, 3, 4, 5), torch.randint(0, 3, (1, 4, 5)), torch.rand(1, 4, 5)
    labels[0, 0, 0] = 255
    right = scores.softmax(1).gather(1, labels.clamp(max=2).unsqueeze(1))[:, 0]
    every = (weights * torch.exp(0.5 * (1 - right)) * -right.log())[labels < 3]
    torch.testing.assert_close(boundary_focal(scores, labels, weights), every.mean())


def test_hard_pixels_alone_count() -> None:
    labels = torch.zeros(1, 4, 8, dtype=torch.long)
    scores = torch.zeros(1, 2, 4, 8)
    scores[:, 0] = 9.0  # all right and sure
    scores[:, 0, 0, :4] = -1.0  # but four
    labels[0, 3, 7] = 255
    expected = F.cross_entropy(scores[:, :, 0, :4], labels[:, 0, :4])
    torch.testing.assert_close(hard_cross_entropy(scores, labels), expected)
    sure = torch.zeros(1, 2, 4, 8)
    sure[:, 0] = 9.0
    assert 0 < hard_cross_entropy(sure, labels).item() < 1e-3, "the least share counts where nothing is hard"
    assert hard_cross_entropy(sure, torch.full_like(labels, 255)).item() == 0
