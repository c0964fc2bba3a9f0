"""GSVNet, piece by piece and whole, against what the authors' code computes (provenance in each case.json)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.goldens import seeded
from tests.goldens.semseg import canvas, ideal_delays, relative_error, score_map, weights
from twospeed.models.gsv.filtering import delay_kernels, delay_places, edge_map, filter_scores, unit_gain
from twospeed.models.gsv.network import GSVNet, resize
from twospeed.ops.warp import backward_warp
from twospeed.weights.load import create_model


def part(case, network: str) -> dict[str, torch.Tensor]:
    return weights(case["state_dict"][network], case["fill"][network], case["constants"].get(network))


@pytest.fixture(scope="module")
def whole():
    """The whole model of the pipeline case, built once from three state dicts in the authors' names."""
    made: list[GSVNet] = []

    def build(case) -> GSVNet:
        if not made:
            sources = {"keyframe": "segnet", "flow": "ofnet", "propagation": "network"}
            made.append(
                create_model("gsvnet_swiftnet_r18", {ours: part(case, theirs) for ours, theirs in sources.items()})
            )
        return made[0]

    return build


def case_frames(model: GSVNet, case) -> torch.Tensor:
    """The case's normalised BGR frames as the RGB 0..255 images that the model takes: (T, 3, H, W)."""
    frames = canvas(case["inputs"]["frames"]).flip(1)
    return frames * model.pixel_std.view(3, 1, 1) + model.pixel_mean.view(3, 1, 1)


def mostly_close(actual: torch.Tensor, expected: np.ndarray) -> bool:
    """The case's rule after an edge map: at most 0.005 of the elements off by more than 1e-3 of the largest."""
    off = np.abs(actual.numpy() - expected) > 1e-3 * np.abs(expected).max()
    return bool(off.mean() <= 0.005)


@torch.inference_mode()
def test_warp_delays_and_fusion(golden):
    out = golden("semseg/gsvnet_warp_fuse").outputs
    scores = score_map("semseg/gsvnet_warp/scores", (7, 40, 56))
    raw = torch.from_numpy(np.float32(12) * seeded.array("semseg/gsvnet_warp/flow", (1, 2, 5, 7)))
    warped = backward_warp(scores, resize(raw, (40, 56)) / 4)
    assert relative_error(warped, out["warped"]) < 1e-5
    edges = edge_map(warped)
    assert (edges[0, 0].numpy() == out["edge"]).mean() > 0.999
    kernels = unit_gain(torch.from_numpy(seeded.array("semseg/gsvnet_warp/kernels", (1, 11, 1, 40, 56), 0, 1))[:, :, 0])
    intra = score_map("semseg/gsvnet_warp/intra", (7, 40, 56))
    for places in (None, delay_places(3)):
        assert relative_error(filter_scores(warped, kernels, delay_kernels(3), intra, places), out["fused"]) < 1e-5


@pytest.mark.parametrize(("size", "rows", "columns"), [(3, 2, 1), (5, 4, 2)])
@torch.inference_mode()
def test_each_delay_shifts_as_recorded(golden, size, rows, columns):
    out = golden("semseg/gsvnet_warp_fuse").outputs
    warped = torch.from_numpy(out["warped"])[None, :2]
    delays = delay_kernels(size)
    assert delay_places(size) == [tuple(place) for place in out[f"delay_positions{size}"].tolist()[:-1]]
    assert not delays[-1].any()
    for tap in range(len(delays) + 1):
        kernels = torch.zeros(1, len(delays) + 1, 40, 56)
        kernels[:, tap] = 1
        copy = filter_scores(warped, kernels, delays, None)[0, :, ::rows, ::columns]
        np.testing.assert_allclose(copy, out[f"delay{size}"][tap], atol=1e-6)


@torch.inference_mode()
def test_guide_and_intra(golden, whole):
    pipeline = golden("semseg/gsvnet_swiftnet_r18").case
    case = golden("semseg/gsvnet_guide_intra")
    state = weights(case.case["state_dict"], case.case["fill"], case.case["constants"])
    sources = {"keyframe": part(pipeline, "segnet"), "flow": part(pipeline, "ofnet"), "propagation": state}
    model, out = create_model("gsvnet_swiftnet_r18", sources), case.outputs
    image = canvas(case.case["inputs"]["image"])
    intra = model.intra(image)
    assert relative_error(intra[0, :, ::2, ::2], out["intra"]) < 1e-4
    scores = score_map("semseg/gsvnet_guide/scores", (19, 32, 64))
    edges = edge_map(scores)
    assert (edges[0, 0].numpy() == out["edge"]).all()
    smooth = edge_map(scores, "sigmoid")  # the paper's: 0.5 exactly where the code says no edge
    assert ((smooth[0, 0] != 0.5).numpy() == out["edge"].astype(bool)).all()
    assert 0 <= float(smooth.min()) < 0.1
    assert 0.9 < float(smooth.max()) <= 1
    raw = model.guide(torch.cat([score_map("semseg/gsvnet_guide/intra", (19, 32, 64)), edges], 1))
    assert relative_error(raw, out["guide"]) < 1e-4
    assert relative_error(unit_gain(raw)[0, :, ::2, ::2], out["kernels"]) < 1e-4
    kernels = unit_gain(model.guide(torch.cat([intra, edges], 1)))
    assert relative_error(kernels[0, :, ::2, ::2], out["fused_kernels"]) < 1e-4
    assert relative_error(filter_scores(scores, kernels, model.delays, intra), out["fused"]) < 1e-4
    assert torch.equal(model.delays, ideal_delays().flatten(0, 2))


@torch.inference_mode()
def test_keyframe_and_three_steps(golden, whole):
    case = golden("semseg/gsvnet_swiftnet_r18")
    model, out = whole(case.case), case.outputs
    frames = case_frames(model, case.case)
    scores = model.keyframe(frames[:1])
    assert relative_error(scores[0, :, ::2, ::2], out["scores/0"]) < 1e-4
    assert (scores[0].argmax(0).numpy() == out["labels8/0"]).mean() >= 0.995
    full = F.interpolate(scores, (256, 512), mode="bilinear", align_corners=True)[0].argmax(0)
    assert (full.numpy() == out["labels/0"]).mean() >= 0.995
    small = model.small(frames)
    for t in (1, 2, 3):
        step = model.step(scores, small[t - 1 : t], small[t : t + 1])
        propagated = model.propagate(scores, frames[t - 1 : t], frames[t : t + 1])
        assert torch.allclose(propagated, step.scores, atol=1e-5)
        raw = model.flow_network(small[t : t + 1], small[t - 1 : t])
        assert relative_error(raw, out[f"mid/{t}/flow_network"]) < 1e-4
        assert relative_error(step.flow[0, :, ::2, ::2], out[f"mid/{t}/flow_pixels"]) < 1e-4
        assert relative_error(step.intra[0, :, ::4, ::4], out[f"mid/{t}/intra"]) < 1e-4
        assert (step.edges[0, 0].numpy() == out[f"mid/{t}/edge"]).mean() >= 0.995
        assert mostly_close(step.warped[0, :, ::4, ::4], out[f"mid/{t}/warped"])
        assert mostly_close(step.kernels[0, :, ::4, ::4], out[f"mid/{t}/kernels"])
        assert mostly_close(step.scores[0, :, ::2, ::2], out[f"scores/{t}"])
        assert (step.scores[0].argmax(0).numpy() == out[f"labels8/{t}"]).mean() >= 0.995
        scores = step.scores
    full = F.interpolate(scores, (256, 512), mode="bilinear", align_corners=True)[0].argmax(0)
    assert (full.numpy() == out["labels/3"]).mean() >= 0.995
