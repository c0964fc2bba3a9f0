"""BiSeNet against what the authors' code computes (provenance in case.json)."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.semseg import canvas, relative_error, weights
from twospeed import CheckpointError
from twospeed.weights.load import create_model, recognise

PLAIN = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}  # the case's images are normalised already


@pytest.fixture(scope="module")
def state_of():
    made = {}

    def make(case):
        if not made:
            made.update(weights(case["state_dict"], case["fill"], case["constants"]))
        return made

    return make


@pytest.mark.parametrize("name", ["v256x512", "v160x224"])
@torch.inference_mode()
def test_whole_network(golden, state_of, name):
    case = golden("semseg/bisenet_r18")
    model = create_model("bisenet_r18", state_of(case.case), **PLAIN)
    scores = model.scores(canvas(case.case["inputs"][name]))
    assert relative_error(scores, case.outputs[f"logits/{name}"]) < 1e-4
    assert (scores[0].argmax(0) == torch.from_numpy(case.outputs[f"labels8/{name}"])).float().mean() >= 0.9995


@torch.inference_mode()
def test_its_own_preprocessing_is_imagenets(golden, state_of):
    case = golden("semseg/bisenet_r18")
    model = create_model("bisenet_r18", state_of(case.case))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    image = (canvas(case.case["inputs"]["v160x224"]) * std + mean) * 255
    assert relative_error(model.scores(image), case.outputs["logits/v160x224"]) < 1e-4
    assert model(image).shape == (1, 19, 160, 224)
    turned = dict(state_of(case.case))
    for name in ("spatial_path.conv_7x7.conv.weight", "context_path.conv1.weight"):
        turned[name] = turned[name].flip(1)
    bgr = create_model("bisenet_r18", turned, input_order="bgr")
    assert torch.allclose(bgr.scores(image), model.scores(image), atol=1e-4)


@torch.inference_mode()
def test_pieces_and_auxiliary_heads(golden, state_of):
    case = golden("semseg/bisenet_r18")
    model = create_model("bisenet_r18", state_of(case.case), **PLAIN)
    image = canvas(case.case["inputs"]["v256x512"])
    found = model.features(image)
    for name, value in (("ffm", found.fused), ("refines.0", found.refined16), ("refines.1", found.refined8)):
        assert list(value.shape) == case.case["intermediate"]["entries"][name]["shape"]
        assert relative_error(value[0].mean((1, 2)), case.outputs[f"mid/{name}/mean"]) < 1e-4
        assert relative_error(value[0, :6, :4, :4], case.outputs[f"mid/{name}/slice"]) < 1e-4
    _, first, second = model.training_scores(image)
    for index, value in enumerate((first, second)):
        key = next(key for key in case.outputs if key.startswith(f"mid/aux{index}"))
        assert relative_error(value[0, :, ::16, ::16], case.outputs[key]) < 1e-4


def test_auxiliary_heads_follow_the_weights(golden):
    shapes = golden("semseg/bisenet_r18").case["state_dict"]
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert recognise(state) == "bisenet_r18"
    assert create_model("bisenet_r18", state).auxiliary_heads is not None
    with pytest.raises(CheckpointError, match="the weights say auxiliary_heads=True"):
        create_model("bisenet_r18", state, auxiliary_heads=False)
    bare = {name: value for name, value in state.items() if not name.startswith(("heads.0", "heads.1"))}
    model = create_model("bisenet_r18", bare)
    with pytest.raises(ValueError, match="has no auxiliary heads"):
        model.training_scores(torch.zeros(1, 3, 64, 64))
