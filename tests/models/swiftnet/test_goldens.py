"""SwiftNet against what the authors' code computes (provenance in case.json)."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.semseg import canvas, relative_error, weights
from twospeed.weights.load import create_model, recognise


@pytest.fixture(scope="module")
def state_of():
    made = {}

    def make(case):
        if case["case"] not in made:
            made[case["case"]] = weights(case["state_dict"], case["fill"], case["constants"])
        return made[case["case"]]

    return make


@pytest.mark.parametrize(("name", "step"), [("v256x512", 8), ("v192x320", 16)])
@torch.inference_mode()
def test_whole_network(golden, state_of, name, step):
    case = golden("semseg/swiftnet_r18")
    model = create_model("swiftnet_r18", state_of(case.case))
    image = 80 + 45 * canvas(case.case["inputs"][name])
    before = image.clone()
    logits = model(image)
    assert torch.equal(image, before)  # the authors' code changes it in place
    assert relative_error(logits[0, :, 3::step, 5::step], case.outputs[f"logits/{name}"]) < 1e-4
    expected = torch.from_numpy(case.outputs[f"labels/{name}"])
    assert (logits[0].argmax(0) == expected).float().mean() >= 0.9995


@torch.inference_mode()
def test_pieces(golden, state_of):
    case = golden("semseg/swiftnet_r18")
    model = create_model("swiftnet_r18", state_of(case.case))
    found: dict[str, torch.Tensor] = {}
    for ours, theirs in [("backbone.layer1", "layer1"), ("backbone.layer4", "layer4"), ("upsample.0", "upsample.0"),
                         ("upsample.2", "upsample.2")]:  # fmt: skip
        model.get_submodule(ours).register_forward_hook(lambda _m, _i, out, key=theirs: found.update({key: out}))
    model(80 + 45 * canvas(case.case["inputs"]["v256x512"]))
    assert len(found) == 4
    for name, value in found.items():
        assert list(value.shape) == case.case["intermediate"]["entries"][name]["shape"]
        assert relative_error(value[0].mean((1, 2)), case.outputs[f"mid/{name}/mean"]) < 1e-4
        assert relative_error(value[0, :6, :4, :4], case.outputs[f"mid/{name}/slice"]) < 1e-4


def test_is_recognised_and_reads_its_classes(golden):
    case = golden("semseg/swiftnet_r18").case
    state = {name: torch.zeros(shape) for name, shape in case["state_dict"].items()}
    state["backbone.img_std"] += 1
    assert recognise(state) == "swiftnet_r18"
    state["logits.conv.weight"], state["logits.conv.bias"] = torch.zeros(11, 128, 1, 1), torch.zeros(11)
    assert create_model("swiftnet_r18", state).num_classes == 11
