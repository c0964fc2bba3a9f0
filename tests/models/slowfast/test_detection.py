"""Detectors: the authors' logits for boxes, and what users of `model(clip, boxes)` rely on."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import twospeed
from tests.conftest import GOLDENS
from tests.models.slowfast.test_convert import as_caffe2, as_pytorchvideo
from tests.models.slowfast.test_goldens import assert_close, assert_stages_close, clip_of, record_stages
from twospeed.errors import CheckpointError, InputError
from twospeed.models.slowfast import convert, detection
from twospeed.models.slowfast.inference import for_inference
from twospeed.weights.catalog import find
from twospeed.weights.cost import cost_of
from twospeed.weights.load import save_model

NAMES = twospeed.list_models("detect")
SMALL = {"width": 8, "num_classes": 6, "zero_init_final_bn": False}


def small(name="slowfast_r50_8x8_ava", seed=0, **options):
    torch.manual_seed(seed)
    network = twospeed.create_model(name, None, **{**SMALL, **options})
    torch.nn.init.normal_(network.head.projection.weight, std=0.5)
    return network


def boxes_of(case, clips):
    rows = torch.tensor(case.case["inputs"]["boxes"]["values"])
    return [rows[rows[:, 0] == clip, 1:] for clip in range(clips)]


@pytest.mark.slow
@torch.no_grad()
def test_the_authors_logits_for_boxes_on_two_clips(golden):
    case = golden("slowfast/slowfast_32x2_r50_ava")
    state, clip = case.state_dict(), clip_of(case, "v128x176")
    network = twospeed.create_model("slowfast_r50_8x8_ava", weights=state, roi_aligned=True)
    seen = record_stages(network)
    logits = network(clip, boxes_of(case, 2))
    assert_stages_close(seen, case)
    assert_close(logits, case.outputs["logits"])
    assert_close(logits.sigmoid(), case.outputs["scores"])
    assert_close(for_inference(network)(clip, boxes_of(case, 2)), case.outputs["logits"])
    network.head.roi_aligned = False
    assert_close(network(clip, boxes_of(case, 2)), case.outputs["logits_aligned_false"])


def test_every_recogniser_has_a_detector():
    published = [name for name in twospeed.list_models("classify") if name != "slowfast_lite0"]
    assert {f"{name}_ava" for name in published} == set(NAMES)


@pytest.mark.parametrize("name", ["slowfast_r50_8x8_ava", "slowfast_r101_16x8_nl_ava", "fast_r101_32x2_ava"])
def test_a_detector_is_rebuilt_from_its_weights(name):
    with torch.device("meta"):
        state = getattr(detection, name)(context=True, context_channels=64).state_dict()
    options = convert.options_from(convert.to_ours(state), name)
    assert options["num_classes"] == 80
    with torch.device("meta"):
        rebuilt = getattr(detection, name)(**options).state_dict()
    assert {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("name", ["slowfast_r50_8x8_ava", "slow_r50_4x16_ava"])
@torch.no_grad()
def test_logits_are_one_row_for_each_box_in_order(name):
    network = small(name)
    clip = torch.randn(2, 3, network.frames, 64, 96)
    one, other = (
        torch.tensor([[4.0, 6.0, 40.0, 60.0]]),
        torch.tensor([[50.0, 10.0, 90.0, 50.0], [0.0, 0.0, 95.0, 63.0]]),
    )
    together = network(clip, [one, other])
    assert together.shape == (3, 6)
    apart = torch.cat([network(clip[:1], [one]), network(clip[1:], [other])])
    assert torch.allclose(together, apart, atol=1e-5)
    assert not torch.allclose(together[1], together[2], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slowfast_r50_8x8_nl_ava", {"context": True}),
        ("slowfast_r101_8x8_nl_ava", {}),
        ("fast_r101_32x2_nl_ava", {"context": True}),
    ],
)
@torch.no_grad()
def test_the_fast_form_of_a_detector_gives_its_logits(name, options):
    network = small(name, frames=8, roi_aligned=True, **options)
    clip = torch.randn(3, 3, 8, 48, 64)
    boxes = [
        torch.tensor([[4.0, 6.0, 40.0, 47.0], [50.0, 10.0, 63.0, 30.0]]),
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0.0, 63.0, 47.0]]),
    ]
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.momentum = None  # so that one pass gives statistics that fit
    network.train()(clip, boxes)
    expected = network.eval()(clip, boxes)
    found = for_inference(network)(clip, boxes)
    assert float(expected.std()) > 1e-3
    assert found.shape == (3, 6)
    # 101 layers of random weights amplify rounding: the plain form is 2e-4 from its float64 as well
    assert float((found - expected).abs().max()) < 1e-3 * float(expected.abs().max())


@torch.no_grad()
def test_clips_without_boxes_give_no_rows():
    for context in (False, True):
        network = small("slow_r50_4x16_ava", context=context)
        clip = torch.randn(2, 3, 4, 64, 64)
        none, one = torch.zeros(0, 4), torch.tensor([[4.0, 6.0, 40.0, 60.0]])
        assert network(clip, [none, none]).shape == (0, 6)
        assert torch.allclose(network(clip, [none, one]), network(clip[1:], [one]), atol=1e-5)


@torch.no_grad()
def test_with_context_a_box_sees_what_is_outside_of_it():
    """Features of the box itself stay the same; what changes is far away from it."""
    box = [torch.tensor([[0.0, 0.0, 40.0, 40.0]])]
    features = [torch.rand(1, 16, 4, 8, 12), torch.rand(1, 8, 4, 8, 12)]
    changed = [x.clone() for x in features]
    for x in changed:
        x[..., 6:, 8:] += 3
    torch.manual_seed(1)
    plain = detection.RegionHead(24, 6).eval()
    aware = detection.RegionHead(24, 6, context=True, context_channels=12).eval()
    assert torch.equal(plain(features, box), plain(changed, box))
    assert float((aware(features, box) - aware(changed, box)).abs().max()) > 1e-3


def test_the_context_branch_learns():
    head = detection.RegionHead(24, 6, context=True, context_channels=12)
    features = [torch.rand(2, 24, 4, 8, 8)]
    box = torch.tensor([[8.0, 8.0, 60.0, 60.0]])
    head(features, [box, box]).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0 or name == "context.phi.bias", name


def test_published_formats_load_by_their_own_names():
    network = small(seed=3)
    ours = network.state_dict()
    theirs = {f"model.{name}": value for name, value in as_pytorchvideo(ours, 2).items() if "proj" not in name}
    theirs |= {f"detection_head.proj.{kind}": ours[f"head.projection.{kind}"] for kind in ("weight", "bias")}
    clip, box = torch.randn(1, 3, 32, 48, 48), [torch.tensor([[3.0, 5.0, 44.0, 41.0]])]
    network.head.roi_aligned = False
    with torch.no_grad():
        expected = network(clip, box)
        for weights in (theirs, {"model_state": theirs}, {"blobs": as_caffe2(ours)}):
            loaded = twospeed.create_model("slowfast_r50_8x8_ava", weights=weights)
            assert not loaded.head.roi_aligned  # as PyTorchVideo and the released Caffe2 weights learned
            assert torch.allclose(loaded(clip, box), expected, atol=1e-5)
        loaded = twospeed.create_model("slowfast_r50_8x8_ava", weights={"model_state": ours, "epoch": 3})
        assert loaded.head.roi_aligned  # PySlowFast's own R50 configuration
        assert twospeed.create_model("slowfast_r50_8x8_ava", weights=theirs, roi_aligned=True).head.roi_aligned
    assert convert.recognise(theirs) == "slowfast_r50_8x8_ava"


def test_saved_weights_remember_their_alignment(tmp_path):
    network = small("slow_r50_4x16_ava", roi_aligned=False, context=True, context_channels=24)
    save_model(network, tmp_path / "w.safetensors", model_name="slow_r50_4x16_ava")
    assert "head.context.phi.weight" in load_file(tmp_path / "w.safetensors")
    loaded = twospeed.create_model("slow_r50_4x16_ava", weights=tmp_path / "w.safetensors")
    assert loaded.head.roi_aligned is False
    assert loaded.head.context.phi.out_features == 24
    with pytest.raises(CheckpointError, match="context=True"):
        twospeed.create_model("slow_r50_4x16_ava", weights=tmp_path / "w.safetensors", context=False)


@pytest.mark.slow
def test_costs_are_the_published_ones():
    facts = json.loads((GOLDENS / "slowfast" / "slowfast_32x2_r50_ava" / "facts.json").read_text())
    cost = cost_of("slowfast_r50_8x8_ava")
    assert cost.parameters == facts["parameters"]
    assert cost.gmacs == pytest.approx(facts["view_256"]["gmacs"], abs=1e-3)
    cost = cost_of("slowfast_r101_8x8_nl_ava")
    assert cost.parameters == pytest.approx(59.3425e6, abs=50)
    assert cost.gmacs == pytest.approx(146.549, abs=1e-3)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(1, 4), r"boxes are a tensor of shape \(1, 4\); give a list of 1"),
        ([torch.zeros(1, 4), torch.zeros(1, 4)], "boxes are 2 tensors; give a list of 1"),
        ([torch.zeros(1, 5)], r"boxes of clip 0 have shape \(1, 5\); give \(n, 4\) xyxy in pixels"),
    ],
)
def test_boxes_of_another_form_are_refused(boxes, message):
    with pytest.raises(InputError, match=message):
        small("slow_r50_4x16_ava")(torch.zeros(1, 3, 4, 32, 32), boxes)


def test_options_that_make_no_detector_are_refused():
    with pytest.raises(InputError, match="res5_stride=2, res5_dilation=2: the region head needs"):
        twospeed.create_model("slowfast_r50_8x8_ava", None, res5_stride=2)
    with pytest.raises(InputError, match="a detector brings its own head"):
        twospeed.create_model("slowfast_r50_8x8_ava", None, head=torch.nn.Identity())


def test_labels_are_the_80_of_the_data_set_and_agree_with_the_60_that_are_scored():
    from twospeed.pipelines.action_labels import read_labels

    assert {find(name).labels for name in NAMES} == {"ava"}
    names = read_labels("ava")
    assert len(names) == 80
    pairs = re.findall(r'name: "(.*)"\s+id: (\d+)', (GOLDENS / "ava_metric" / "label_map.pbtxt").read_text())
    assert len(pairs) == 60
    assert np.all([names[int(number) - 1] == name for name, number in pairs])
