"""The authors' own outputs, from weights and clips that both sides rebuild from names and shapes."""

import numpy as np
import pytest
import torch

import twospeed
from tests.goldens import seeded
from twospeed.models.slowfast.inference import for_inference
from twospeed.models.slowfast.network import slow_frame_indices


def clip_of(case, entry):
    """2 x coarse blocks of 16 pixels + fine noise: float (N, 3, T, H, W)."""
    recipe = case.case["inputs"]["clips"][entry]
    coarse = seeded.array(recipe["coarse"]["array"], recipe["coarse"]["shape"])
    fine = seeded.array(recipe["fine"]["array"], recipe["fine"]["shape"])
    coarse = coarse.repeat(recipe["repeat"], axis=3).repeat(recipe["repeat"], axis=4)
    return torch.from_numpy(2 * coarse + fine)


def assert_close(found, expected, tolerance=1e-4):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def record_stages(network):
    """Return a dict that a forward pass fills: "s3/slow" -> features."""
    seen = {}

    def hook_of(stage):
        def hook(_module, _inputs, outputs):
            for pathway, features in zip(("slow", "fast"), outputs, strict=False):
                seen[f"{stage}/{pathway}"] = features.clone()

        return hook

    for stage in ("s1_fuse", "s2", "s2_fuse", "s3", "s3_fuse", "s4", "s4_fuse", "s5"):
        network.get_submodule(stage).register_forward_hook(hook_of(stage))
    return seen


def assert_stages_close(seen, case):
    compared = 0
    for key, expected in case.outputs.items():
        _, _, stage = key.partition("mid/")
        stage, _, kind = stage.rpartition("/")
        if stage not in seen:
            continue
        features = seen[stage]
        found = features.mean(dim=(0, 2, 3, 4)) if kind == "mean" else features[0, :6, :2, :3, :3]
        assert_close(found, expected)
        compared += 1
    assert compared >= 20


@pytest.mark.slow
@torch.no_grad()
def test_slowfast_4x16(golden):
    case = golden("slowfast/slowfast_4x16_r50")
    network = twospeed.create_model("slowfast_r50_4x16", weights=case.state_dict())
    seen = record_stages(network)
    logits = network(clip_of(case, "v224"))
    assert_stages_close(seen, case)
    assert logits.shape == (1, 1, 400)
    assert_close(logits[:, 0], case.outputs["logits"])
    assert_close(logits.softmax(2).mean(1), case.outputs["scores"])


@pytest.mark.slow
@torch.no_grad()
def test_slowfast_4x16_has_a_position_for_each_window_of_a_larger_crop(golden):
    case = golden("slowfast/slowfast_4x16_r50")
    network = twospeed.create_model("slowfast_r50_4x16", weights=case.state_dict())
    logits = for_inference(network)(clip_of(case, "v256"))
    expected = case.outputs["logits_v256"]  # (N, T', H', W', classes)
    assert_close(logits, expected.reshape(1, 4, 400))
    assert_close(logits.softmax(2).mean(1), case.outputs["scores_v256"])


@pytest.mark.slow
@torch.no_grad()
def test_slowfast_8x8_with_nonlocal_blocks(golden):
    case = golden("slowfast/slowfast_8x8_r50_nl_res4")
    state, clip = case.state_dict(), clip_of(case, "v128")
    network = twospeed.create_model("slowfast_r50_8x8_nl", weights=state, nonlocal_pool=(1, 2, 2), crop_size=128)
    logits = network(clip)
    assert_close(logits[:, 0], case.outputs["logits"])
    assert_close(logits.softmax(2).mean(1), case.outputs["scores"])
    assert_close(for_inference(network)(clip)[:, 0], case.outputs["logits"])

    for s4_module in network.s4.children():
        if hasattr(s4_module, "mode"):
            s4_module.mode = "softmax"
    assert_close(network(clip)[:, 0], case.outputs["logits_softmax"])
    assert_close(for_inference(network)(clip)[:, 0], case.outputs["logits_softmax"])


@pytest.mark.slow
@torch.no_grad()
def test_pytorchvideo_names_and_scores(golden):
    case = golden("slowfast/ptv_slowfast_r50")
    network = twospeed.create_model("slowfast_r50_8x8", weights=case.state_dict())
    assert network.average == "logits"
    fast = for_inference(network)
    assert_close(fast(clip_of(case, "v224"))[:, 0], case.outputs["logits"])
    assert_close(fast(clip_of(case, "v256")).mean(1), case.outputs["logits_v256"])


@pytest.mark.slow
@torch.no_grad()
def test_the_backbone_of_the_ava_network_gives_features_of_stride_16(golden):
    case = golden("slowfast/slowfast_32x2_r50_ava")
    network = twospeed.create_model("slowfast_r50_8x8", weights=case.state_dict(), res5_stride=1, res5_dilation=2)
    seen = record_stages(network)
    slow, fast = network.features(clip_of(case, "v128x176")[:1])
    assert slow.shape == (1, 2048, 8, 8, 11)
    assert fast.shape == (1, 256, 32, 8, 11)
    slices = {key: value for key, value in case.outputs.items() if key.endswith("slice") and "mid/s5/" in key}
    assert len(slices) == 2
    for key, expected in slices.items():
        assert_close(seen[key.removeprefix("mid/").removesuffix("/slice")][0, :6, :2, :3, :3], expected)


@pytest.mark.parametrize(
    ("frames", "alpha", "expected"),
    [
        (32, 4, [0, 4, 8, 13, 17, 22, 26, 31]),
        (32, 8, [0, 10, 20, 31]),
        (64, 4, [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]),
        (4, 4, [0]),
    ],
)
def test_the_slow_pathway_sees_evenly_spread_frames(frames, alpha, expected):
    assert slow_frame_indices(frames, alpha) == expected
