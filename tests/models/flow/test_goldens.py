"""The light flow network against what the authors' code computes (provenance in case.json)."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.semseg import canvas, relative_error, weights
from twospeed.models.flow.builders import flow_network
from twospeed.models.flow.convert import name_of, to_ours
from twospeed.models.gsv.network import resize


@pytest.mark.parametrize("name", ["v64x128", "v36x52"])
@torch.inference_mode()
def test_light(golden, name):
    case = golden("semseg/gsvnet_flow_light")
    model = flow_network("light").eval()
    model.load_state_dict(to_ours(weights(case.case["state_dict"], case.case["fill"])))
    previous, current = canvas(case.case["inputs"][name])[:, None]
    flow = model(current, previous)
    assert relative_error(flow, case.outputs[f"flow/{name}"]) < 1e-4
    pixels = resize(flow, current.shape[-2:]) / 4
    assert relative_error(pixels[0, :, ::2, ::2], case.outputs[f"flow_pixels/{name}"]) < 1e-4


def test_names_of_both_networks():
    for name in ("light", "flownet2s"):
        with torch.device("meta"):
            state = flow_network(name).state_dict()
        assert name_of(state) == name
        assert to_ours(state).keys() == state.keys()
    with pytest.raises(ValueError, match="flow is 'raft'; choose 'light' or 'flownet2s'"):
        flow_network("raft")


def test_authors_names_of_flownets():
    """Names as in their file: Sequential around convolutions, `predict_flow`, `upsampled_flow`."""
    with torch.device("meta"):
        ours = flow_network("flownet2s").state_dict()
    theirs = {}
    for name, value in ours.items():
        layer, kind = name.rsplit(".", 1)
        if layer.startswith(("conv", "deconv")):
            layer += ".0"
        layer = layer.replace("predict", "predict_flow")
        if layer.startswith("upflow"):
            layer = f"upsampled_flow{layer[-1]}_to_{int(layer[-1]) - 1}"
        theirs[f"{layer}.{kind}"] = value
    assert "upsampled_flow6_to_5.bias" in theirs
    assert "conv3_1.0.weight" in theirs
    assert to_ours(theirs).keys() == ours.keys()


@pytest.mark.parametrize("size", [(45, 60), (128, 256), (8, 8), (1, 5)])
@torch.inference_mode()
def test_flownets_takes_any_size(size):
    frame = torch.rand(1, 3, *size)
    flow = flow_network("flownet2s").eval()(frame, frame)
    assert flow.shape[:2] == (1, 2)
    assert all(length >= 1 for length in flow.shape[-2:])
    if size == (128, 256):
        assert flow.shape == (1, 2, 16, 32)
