"""What GSVNet promises beside the recorded numbers: any size, any image network, all options, its cost."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import GOLDENS
from twospeed import CheckpointError, InputError, create_model
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.loss import roll_out, start_from_holding
from twospeed.models.gsv.network import GSVNet
from twospeed.models.optimise import optimise
from twospeed.models.pixels import ImageNetwork
from twospeed.ops.warp import backward_warp
from twospeed.pipelines.segment import Segmenter
from twospeed.weights.load import recognise, save_model

FACTS = json.loads((GOLDENS / "semseg" / "facts.json").read_text())


class Colours(nn.Module):
    """The smallest image network: scores are the colours themselves, plus their mean."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image.mean(1, keepdim=True)], 1) / 255


def light(**options) -> GSVNet:
    torch.manual_seed(0)
    return GSVNet(Colours(), FlowLight(), 4, **options).eval()


@pytest.mark.parametrize("size", [(64, 96), (90, 131), (45, 61), (8, 8), (17, 200)])
@pytest.mark.parametrize("options", [{}, {"fusion": "accel"}, {"fine": True}])
@torch.inference_mode()
def test_any_size_works(size, options):
    model = light(**options)
    first, second = torch.rand(2, 1, 3, *size) * 255
    scores = model.keyframe(first)
    grid = [8 * max(1, round(length / 32)) + 1 if model.fine else length // 8 for length in size]
    assert scores.shape == (1, 4, *grid)
    for _ in range(2):
        scores = model.propagate(scores, first, second)
        assert scores.shape == (1, 4, *grid)
        assert scores.isfinite().all()


@pytest.mark.parametrize(("size", "seen", "grid"), [
    ((360, 480), (480, 640), (89, 121)), ((1080, 1920), (554, 985), (105, 185)), ((20, 6000), (27, 8000), (9, 1505)),
])  # fmt: skip
@torch.inference_mode()
def test_a_fine_network_sees_large_frames_at_the_size_of_its_training(size, seen, grid):
    model = light(fine=True, keyframe_scale=4 / 3)
    sizes = []
    model.keyframe_network.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[-2:])))
    frame = torch.rand(1, 3, *size) * 255
    assert model.keyframe(frame).shape[-2:] == model.small(frame).shape[-2:] == grid
    assert sizes == [seen]


@torch.inference_mode()
def test_a_lite_mixes_the_frame_with_the_moved_keyframe():
    """Accel's fusion: what is carried on is the keyframe's scores, moved twice, and never the mixture."""
    model = light(fusion="accel")
    model.mix.weight.normal_()
    frames = [model.small(frame) for frame in torch.rand(3, 1, 3, 64, 96) * 255]
    keyframe = torch.randn(1, 4, 8, 12)
    moved, result = keyframe, None
    for before, now in pairwise(frames):
        result = model.step(moved if result is None else result.carried, before, now)
        moved = backward_warp(moved, model.flow(before, now))
        assert torch.equal(result.carried, moved)
        mixed = torch.einsum("kc,nchw->nkhw", model.mix.weight[..., 0, 0], torch.cat([moved, model.intra(now)], 1))
        assert torch.allclose(result.scores, mixed + model.mix.bias[:, None, None], atol=1e-5)
    images = torch.rand(1, 3, 3, 64, 96) * 255
    path = roll_out(model, images)
    smalls = [model.small(frame) for frame in images.unbind(1)]
    first = model.step(path[0], smalls[0], smalls[1])
    assert torch.equal(path[2], model.step(first.carried, smalls[1], smalls[2]).scores)
    with pytest.raises(ValueError, match="mixes the frame's own scores"):
        light(fusion="accel", intra=False)


def test_a_lite_is_recognised_in_its_file(tmp_path):
    torch.manual_seed(0)
    model = create_model("gsvnet_bisenet_r18", None, num_classes=6, fusion="accel")
    save_model(model, tmp_path / "a_lite.safetensors", model_name="gsvnet_bisenet_r18")
    read = create_model("gsvnet_bisenet_r18", tmp_path / "a_lite.safetensors")
    assert torch.equal(read.mix.weight, model.mix.weight)
    assert recognise(model.state_dict()) == "gsvnet_bisenet_r18"
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    segmenter = Segmenter(read, 3, device="cpu")
    results = [segmenter.step(np.roll(image, shift, 1)) for shift in range(4)]
    assert [result.is_keyframe for result in results] == [True, False, False, True]


@torch.inference_mode()
def test_a_fine_network_that_has_learned_to_hold_holds_on_all_cells():
    """Kernels that are the identity alone and no flow leave the scores as they are, borders of classes included."""
    model = light(fine=True)
    start_from_holding(model)
    model.guide.predict.norm.weight.zero_()
    model.guide.predict.norm.bias[1:] = 0
    model.flow_network.predict.weight.zero_()
    first, second = torch.rand(2, 1, 3, 96, 128) * 255
    scores = torch.randn(1, 4, 25, 33)
    torch.testing.assert_close(model.propagate(scores, first, second), scores, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_fine_network_is_fused_to_the_same_scores():
    model = light(fine=True)
    first, second = torch.rand(2, 1, 3, 100, 150) * 255
    scores = torch.randn(1, 4, *model.grid(first))
    expected = model.propagate(scores, first, second)
    torch.testing.assert_close(optimise(model).propagate(scores, first, second), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"delay_kernel": 5},
        {"learned_delay": True},
        {"intra": False},
        {"intra": False, "delay_kernel": 5},
        {"fine": True},
    ],
)
def test_options_of_the_ablations_run_and_train(options):
    model = light(**options)
    first, second = torch.rand(2, 1, 3, 64, 64) * 255
    with torch.no_grad():
        scores = model.keyframe(first)
    model.propagate(scores, first, second).square().mean().backward()
    assert model.guide.predict.conv.weight.grad.abs().sum() > 0
    assert model.flow_network.predict.weight.grad.abs().sum() > 0
    assert (model.delays.grad is not None) == options.get("learned_delay", False)


@torch.inference_mode()
def test_an_off_the_shelf_network_labels_the_keyframes():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)
    model = GSVNet(ImageNetwork(network), FlowLight(), 7).eval()
    image = torch.rand(1, 3, 96, 130) * 255
    scores = model.keyframe(image)
    assert scores.shape == (1, 7, 12, 16)
    assert model.propagate(scores, image, image).shape == scores.shape


def test_wrong_shapes_and_options_are_one_clear_line():
    model = light()
    with pytest.raises(InputError, match="a frame of 64x7 is too small"):
        model.keyframe(torch.zeros(1, 3, 7, 64))
    with pytest.raises(InputError, match=r"previous_segmentation is \(1, 4, 8, 9\), expected \(1, 4, 8, 8\)"):
        model.propagate(torch.zeros(1, 4, 8, 9), torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="the keyframe network gives 4 classes, the propagation has 5"):
        GSVNet(Colours(), FlowLight(), 5).keyframe(torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="delay_kernel is 7; choose 3"):
        create_model("gsvnet_swiftnet_r18", None, delay_kernel=7)
    with pytest.raises(InputError, match="flow is 'raft'"):
        create_model("gsvnet_bisenet_r18", None, flow="raft")


def gmacs(call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


def test_parameters_and_multiply_adds_of_the_papers_table_2():
    """Bytes of float32, and multiply-adds of convolutions, are what the paper calls parameters and FLOPs."""
    with torch.device("meta"), torch.inference_mode():
        model = create_model("gsvnet_swiftnet_r18", None)
        frame, small = torch.empty(1, 3, 1024, 2048), torch.empty(1, 3, 128, 256)
        count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        extra = count["flow_network"] + count["intra"] + count["guide"]
        assert count["keyframe_network"] == FACTS["parameters"]["swiftnet_r18"]["count"] == 11_797_071
        assert extra == FACTS["parameters"]["propagation_total_without_delays"]["count"] == 396_406
        assert round(4 * extra / 1e6, 1) == 1.6  # the paper's "1.6M"
        measured = FACTS["gmacs"]
        key = gmacs(lambda: model.keyframe(frame))
        assert key == pytest.approx(measured["swiftnet_0.75"], rel=1e-4)
        assert gmacs(lambda: model.flow_network(small, small)) == pytest.approx(measured["flow_light"], rel=1e-3)
        assert gmacs(lambda: model.intra(small)) == pytest.approx(measured["intra"], rel=1e-3)
        # The delayed copies are not formed, which saves most of the original's delay convolution
        step = gmacs(lambda: model.propagate(torch.empty(1, 19, 128, 256), frame, frame))
        assert measured["non_key_frame_light"] - measured["ideal_delay_conv"] <= step <= measured["non_key_frame_light"]
        assert (key + 3 * step) / 4 == pytest.approx(FACTS["paper_says"]["average_l4"], rel=0.01)
        for name, fact in (("swiftnet_r18_pyramid", "swiftnet_r18_pyramid"), ("bisenet_r18", "bisenet_r18_test")):
            found = sum(p.numel() for p in create_model(name, None).parameters())
            assert found == FACTS["parameters"][fact]["count"]
        with_heads = create_model("bisenet_r18", None, auxiliary_heads=True)
        assert sum(p.numel() for p in with_heads.parameters()) == 13_494_777
        flow = create_model("gsvnet_bisenet_r18", None, flow="flownet2s").flow_network
        assert sum(p.numel() for p in flow.parameters()) == FACTS["parameters"]["flow_flownet2s"]["count"]
        assert gmacs(lambda: flow(small, small)) == pytest.approx(measured["flow_flownet2s"], rel=1e-3)


@pytest.fixture(scope="module")
def authors_files(tmp_path_factory):
    """The authors' files: SwiftNet's bare state dict, and GSVNet's `.tar` with its command line inside."""
    case = json.loads((GOLDENS / "semseg" / "gsvnet_swiftnet_r18" / "case.json").read_text())
    folder = tmp_path_factory.mktemp("authors")
    states = {
        part: {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
        for part, shapes in case["state_dict"].items()
    }
    torch.save(states["segnet"], folder / "swiftnet.pt")
    content = {
        "state_dict": states["network"],
        "state_dict_of": states["ofnet"],
        "epoch": 3,
        "best_pred": np.float64(0.7),
        "args": argparse.Namespace(segnet="swiftnet", lr=0.01),
    }
    torch.save(content, folder / "gsv.tar")
    return folder


def test_authors_files_and_the_round_trip(authors_files, tmp_path):
    model = create_model(
        "gsvnet_swiftnet_r18", authors_files / "gsv.tar", keyframe_weights=authors_files / "swiftnet.pt"
    )
    assert model.delays.requires_grad  # half-way values are no ideal delays: they were learned
    assert all((p == 0.5).all() for p in model.parameters())
    path = tmp_path / "whole.safetensors"
    save_model(model, path, model_name="gsvnet_swiftnet_r18")
    again = create_model("gsvnet_swiftnet_r18", path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert recognise(again.state_dict()) == "gsvnet_swiftnet_r18"
    named = {"keyframe": authors_files / "swiftnet.pt", "propagation": authors_files / "gsv.tar"}
    assert create_model("gsvnet_swiftnet_r18", named, pixel_mean=(1.0, 2.0, 3.0)).pixel_mean.tolist() == [1, 2, 3]


def test_parts_that_are_missing_are_named(authors_files):
    keyframe, tar = authors_files / "swiftnet.pt", authors_files / "gsv.tar"
    with pytest.raises(CheckpointError, match="holds no keyframe network; give that network's own file"):
        create_model("gsvnet_swiftnet_r18", tar)
    with pytest.raises(CheckpointError, match="weights give no flow and no propagation"):
        create_model("gsvnet_swiftnet_r18", {"keyframe": keyframe})
    with pytest.raises(CheckpointError, match="weights for 'intra'; the parts are keyframe, flow, propagation"):
        create_model("gsvnet_swiftnet_r18", {"keyframe": keyframe, "intra": tar})
    with pytest.raises(InputError, match="swiftnet_r18 takes no keyframe_weights"):
        create_model("swiftnet_r18", keyframe, keyframe_weights=keyframe)
    start = create_model("gsvnet_swiftnet_r18", {"keyframe": keyframe, "flow": None, "propagation": None})
    assert (start.keyframe_network.classifier.conv.weight == 0.5).all()
    assert not (start.guide.predict.conv.weight == 0.5).any()


@torch.inference_mode()
def test_weights_keep_which_edge_map_they_learned(tmp_path):
    torch.manual_seed(0)
    model = create_model("segment_nano", None, edges="sigmoid")
    save_model(model, tmp_path / "w.safetensors", model_name="segment_nano")
    read = create_model("segment_nano", tmp_path / "w.safetensors")
    assert read.edges == "sigmoid"
    scores, images = torch.randn(1, 11, 17, 25), torch.rand(2, 1, 3, 64, 96) * 255
    stepped = read.propagate(scores, *images)
    assert torch.equal(stepped, model.propagate(scores, *images))
    read.edges = "binary"
    assert not torch.equal(stepped, read.propagate(scores, *images))
    with pytest.raises(InputError, match="edges is 'soft'; choose 'binary'"):
        create_model("segment_nano", None, edges="soft")
