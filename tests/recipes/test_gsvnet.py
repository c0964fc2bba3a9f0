"""The GSVNet recipe on tiny driving videos: what moves, what stays, resuming, and the published numbers."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.data.driving_trees import make_camvid, make_cityscapes
from tests.processes import run_processes
from twospeed import CheckpointError, DatasetError, InputError, create_model
from twospeed.evaluation.semseg import evaluate_segmentation
from twospeed.models.flow.builders import flow_network
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.network import GSVNet
from twospeed.models.pixels import ImageNetwork
from twospeed.recipes import gsvnet as recipe
from twospeed.recipes.gsvnet import GsvnetConfig, epoch_keys, groups, released, train
from twospeed.weights.load import save_model

TINY = {
    "dataset": "camvid",
    "train_split": "val",
    "val_split": None,
    "distances": (1, 2),
    "batch": 2,
    "epochs": 1,
    "workers": 0,
    "log_every": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A run of eight labelled frames, and an image network of eleven classes with random weights."""
    folder = tmp_path_factory.mktemp("scene")
    make_camvid(folder / "camvid", frames=8)
    torch.manual_seed(0)
    save_model(
        create_model("swiftnet_r18", None, num_classes=11), folder / "keyframe.safetensors", model_name="swiftnet_r18"
    )
    return folder


def config(scene, out, **changes) -> GsvnetConfig:
    files = {"data": scene / "camvid", "keyframe_weights": scene / "keyframe.safetensors", "out": out}
    return GsvnetConfig(**{**TINY, **files, **changes})


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_trains_the_propagation_alone_and_resumes_exactly(scene, tmp_path):
    straight = config(scene, tmp_path / "straight", val_split="val", validate_frames=3, scales=(0.75, 1.0))
    assert train(straight) == straight.out
    table = rows(straight.out / "train.csv")
    assert len(table) == 7 // 2 + 6 // 2
    assert sorted(row["distance"] for row in table) == ["1"] * 3 + ["2"] * 3
    (validation,) = rows(straight.out / "validation.csv")
    assert 0 <= float(validation["minimum_mIoU"]) <= 1
    assert list(validation)[-3:] == ["mIoU_0", "mIoU_1", "mIoU_2"]

    weights = load_file(straight.out / "gsvnet.safetensors")
    before = load_file(scene / "keyframe.safetensors")
    assert all(torch.equal(weights[f"keyframe_network.{name}"], value) for name, value in before.items())
    model = create_model("gsvnet_swiftnet_r18", straight.out / "gsvnet.safetensors")
    assert model.keyframe_scale == 0.75
    assert model.guide.encode.norm.num_batches_tracked > 6

    stopped = config(
        scene, tmp_path / "stopped", val_split="val", validate_frames=3, scales=(0.75, 1.0), stop_after_steps=4
    )
    train(stopped)
    assert not (stopped.out / "gsvnet.safetensors").exists()
    train(recipe.GsvnetConfig(**{**vars(stopped), "stop_after_steps": None}), resume=True)
    again = load_file(stopped.out / "gsvnet.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert rows(stopped.out / "train.csv") == table


def test_the_released_loss_and_an_ablation_run(scene, tmp_path):
    settings = {**vars(released()), **TINY, "learned_delay": True, "stop_after_steps": 1, "batch": 4}
    files = {"data": scene / "camvid", "keyframe_weights": scene / "keyframe.safetensors", "out": tmp_path / "run"}
    train(GsvnetConfig(**{**settings, **files}))
    (row,) = rows(tmp_path / "run" / "train.csv")
    parts = float(row["cross_entropy"]), float(row["divergence"])
    assert float(row["loss"]) == pytest.approx(10 * (parts[0] + 10 * parts[1]), rel=1e-5)
    assert row["distance"] == "1"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["lr_flow"] == 1e-4


def test_the_propagation_is_trained_around_any_image_network(tmp_path):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    backbone = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    model = GSVNet(ImageNetwork(backbone), FlowLight(8), 11, width=8)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    make_camvid(tmp_path / "camvid", frames=5)
    settings = {**TINY, "distances": (1,), "data": tmp_path / "camvid", "out": tmp_path / "run"}
    out = train(GsvnetConfig(**settings), network=model)
    assert model.keyframe_scale == 0.75
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    again = GSVNet(ImageNetwork(backbone), FlowLight(8), 11, width=8)
    again.load_state_dict(load_file(out / "gsvnet.safetensors"))
    scores = evaluate_segmentation("camvid", tmp_path / "camvid", model=again).scores
    assert list(scores["by_distance"]) == ["0", "1", "2", "3"]
    with pytest.raises(InputError, match="the network has 5 classes, camvid has 11"):
        train(
            GsvnetConfig(**{**settings, "out": tmp_path / "five"}),
            network=GSVNet(ImageNetwork(backbone), FlowLight(8), 5),
        )


def test_cityscapes_and_its_lists(tmp_path):
    root = make_cityscapes(tmp_path / "data", "train", before=2)
    make_cityscapes(root, "val", before=2)
    pairs = [
        f"leftImg8bit_sequence/train/ulm/ulm_00000{n}_000019_leftImg8bit.png "
        f"gtFine/train/ulm/ulm_00000{n}_000019_gtFine_labelIds.png"
        for n in (1, 2)
    ]
    (tmp_path / "train.txt").write_text("\n".join(pairs))
    settings = {**TINY, "dataset": "cityscapes", "data": root, "train_split": "train", "val_split": "val"}
    network = GSVNet(torch.nn.Conv2d(3, 19, 1), FlowLight(4), 19, width=4)
    files = {"train_list": tmp_path / "train.txt", "out": tmp_path / "run"}
    train(GsvnetConfig(**settings, **files, weigh_classes=True), network=network)
    assert sorted(row["distance"] for row in rows(tmp_path / "run" / "train.csv")) == ["1", "2"]
    assert len(rows(tmp_path / "run" / "validation.csv")) == 1


def test_learning_rates_go_to_their_networks(scene, tmp_path):
    settings = {**vars(released()), **TINY, "learned_delay": True}
    chosen = GsvnetConfig(**{**settings, "keyframe_weights": scene / "keyframe.safetensors"})
    model = recipe.build(chosen, 11)
    found = groups(model, chosen)
    assert [round(chosen.lr * group["lr_scale"], 6) for group in found] == [0.01, 0.04, 1e-4, 0.01]
    assert found[3]["params"] == [model.delays]
    counted = {id(p) for group in found for p in group["params"]}
    assert not counted & {id(p) for p in model.keyframe_network.parameters()}
    assert len(counted) + len(list(model.keyframe_network.parameters())) == len(list(model.parameters()))


def test_a_lite_trains(scene, tmp_path):
    """The paper's baseline: its mixture learns, and its keyframe network stays as it is."""
    settings = config(scene, tmp_path / "run", fusion="accel", distances=(2,))
    weights = load_file(train(settings) / "gsvnet.safetensors")
    started = recipe.build(settings, 11)
    assert len(groups(started, settings)) == 3
    assert not torch.equal(weights["mix.weight"], started.mix.weight)
    before = load_file(scene / "keyframe.safetensors")
    assert all(torch.equal(weights[f"keyframe_network.{name}"], value) for name, value in before.items())
    model = create_model("gsvnet_swiftnet_r18", tmp_path / "run" / "gsvnet.safetensors")
    assert model.guide is None
    assert recipe.a_lite().model == "gsvnet_bisenet_r18"


def test_the_flow_network_starts_from_its_weights(scene, tmp_path):
    """FlowNet2S as published; without the file it starts at random."""
    published = flow_network("flownet2s")
    torch.save(published.state_dict(), tmp_path / "flownet2s.pth")
    settings = config(scene, tmp_path / "run", flow="flownet2s", flow_weights=tmp_path / "flownet2s.pth")
    started = recipe.build(settings, 11).flow_network.state_dict()
    assert started.keys() == published.state_dict().keys()
    assert all(torch.equal(started[name], value) for name, value in published.state_dict().items())
    other = recipe.build(config(scene, tmp_path / "run", flow="flownet2s"), 11).flow_network.state_dict()
    assert any(not torch.equal(other[name], value) for name, value in started.items())


def test_ablations_are_compared_at_a_tiny_size(scene, tmp_path):
    """Drives made of single frames, around the shipped image network, with the published propagation."""
    small = {
        "data": scene / "camvid",
        "train_split": "val",
        "val_split": None,
        "drives": 4,
        "batch": 2,
        "device": "cpu",
    }
    settings = {**vars(recipe.tiny()), **small, "log_every": 1, "patch": 1.0}
    out = train(GsvnetConfig(**{**settings, "out": tmp_path / "run", "stop_after_steps": 3}))
    train(GsvnetConfig(**{**settings, "out": out}), resume=True)
    straight = train(GsvnetConfig(**{**settings, "out": tmp_path / "straight"}))
    assert sorted(row["distance"] for row in rows(out / "train.csv")) == [d for d in "1234" for _ in range(2)]
    weights, again = load_file(out / "gsvnet.safetensors"), load_file(straight / "gsvnet.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in again.items())
    shipped = create_model("segment_nano", "default")
    model = create_model("segment_nano", out / "gsvnet.safetensors")
    assert (shipped.fine, model.fine, model.keyframe_scale) == (True, False, pytest.approx(4 / 3))
    theirs = shipped.keyframe_network.state_dict()
    assert all(torch.equal(model.keyframe_network.state_dict()[name], value) for name, value in theirs.items())
    start = recipe.build(GsvnetConfig(**{**settings, "intra": False}), 11)
    assert start.intra is None
    assert float(start.flow_network.predict.bias.detach().abs().max()) == 0, "no motion at first"
    with pytest.raises(InputError, match="drives are made of CamVid's frames; dataset is 'cityscapes'"):
        GsvnetConfig(drives=2)
    with pytest.raises(InputError, match="start='holding' is for guided fusion"):
        GsvnetConfig(start="holding", fusion="accel")


def test_mixed_precision_trains(scene, tmp_path):
    out = train(config(scene, tmp_path / "run", precision="bf16", stop_after_steps=2))
    assert len(rows(out / "train.csv")) == 2


def test_the_papers_numbers():
    paper = GsvnetConfig()
    assert (paper.lr, paper.decay, paper.decay_every, paper.batch, paper.weight_decay) == (0.002, 0.992, 100, 8, 5e-4)
    assert (paper.momentum, paper.patch, paper.distances, paper.teacher_weight) == (0.9, 0.75, (1, 2, 3, 4), 0)
    assert released().gradient_steps == 2


@pytest.mark.parametrize("order", ["mixed", "by_distance"])
def test_every_batch_has_one_distance(order):
    batches = epoch_keys({1: 7, 4: 5}, 2, seed=0, epoch=3, order=order)
    assert all(epoch == 3 for batch in batches for epoch, _ in batch)
    kinds = [{int(index >= 7) for _, index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert sorted(kind.pop() for kind in kinds) == [0, 0, 0, 1, 1]
    assert len({index for batch in batches for _, index in batch}) == 10
    assert batches == epoch_keys({1: 7, 4: 5}, 2, seed=0, epoch=3, order=order)


def test_what_cannot_be_trained_is_one_clear_line(scene, tmp_path):
    for changes, error, message in (
        ({"keyframe_weights": None}, InputError, "which image network labels the keyframes"),
        ({"distances": (0,)}, InputError, "at 0 nothing is propagated"),
        ({"distances": (7,)}, InputError, "1 snippets at distance 7 do not fill a batch of 2"),
        ({"distances": (9,)}, DatasetError, "none of the 8 labelled frames has 9 frames before it"),
        ({"batch": 0}, InputError, "batch is 0"),
        ({"train_list": tmp_path}, InputError, "CamVid is read without a list"),
    ):
        with pytest.raises(error, match=message):
            train(config(scene, tmp_path / "run", **changes))
    root = make_cityscapes(tmp_path / "cityscapes", "train")
    with pytest.raises(CheckpointError, match="num_classes"):
        train(config(scene, tmp_path / "run", dataset="cityscapes", data=root, train_split="train"))
    assert not (tmp_path / "run").exists()


SHARED = """
import sys, torch
from pathlib import Path
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.network import GSVNet
from twospeed.recipes.gsvnet import GsvnetConfig, train
torch.set_num_threads(1)
torch.manual_seed(0)
network = GSVNet(torch.nn.Conv2d(3, 11, 1), FlowLight(4), 11, width=4)
train(GsvnetConfig(**eval(sys.argv[1], {"PosixPath": Path})), network=network)
"""


@pytest.mark.slow
def test_two_processes_share_steps_and_validation(tmp_path):
    make_camvid(tmp_path / "camvid", frames=6)
    settings = {**TINY, "distances": (1,), "data": tmp_path / "camvid", "out": tmp_path / "run", "val_split": "val"}
    run_processes(SHARED, repr(settings))
    table = rows(tmp_path / "run" / "train.csv")
    assert [row["step"] for row in table] == ["1", "2"]
    torch.manual_seed(0)
    network = GSVNet(torch.nn.Conv2d(3, 11, 1), FlowLight(4), 11, width=4)
    alone = train(GsvnetConfig(**{**settings, "out": tmp_path / "alone"}), network=network)
    # Batch norm sees half of the batch in each process: the first losses are alike, not the same
    assert float(table[0]["loss"]) == pytest.approx(float(rows(alone / "train.csv")[0]["loss"]), rel=0.2)
    scores = (rows(run / "validation.csv")[-1] for run in (tmp_path / "run", alone))
    assert len({tuple(score) for score in scores}) == 1
    weights = load_file(tmp_path / "run" / "gsvnet.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
