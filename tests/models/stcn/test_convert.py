"""From stage 0 to the later stages, widths, and the ImageNet start."""

from __future__ import annotations

import pytest
import torch

from twospeed.errors import CheckpointError
from twospeed.models.encoders.imagenet import start_from_imagenet
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.stcn.builders import stcn
from twospeed.models.stcn.convert import for_training, to_ours
from twospeed.models.stm.builders import stm
from twospeed.weights.load import create_model

MASKS = "value_encoder.backbone.conv1.weight"


def test_stage_0_weights_train_on_with_an_orthogonal_channel_for_the_others():
    state = stcn(width=8, mask_channels=1).state_dict()
    torch.manual_seed(3)
    grown = for_training(state)
    assert grown[MASKS].shape == (8, 5, 7, 7)
    assert torch.equal(grown[MASKS][:, :4], state[MASKS])
    others = grown[MASKS][:, 4].flatten(1)  # (8, 49)
    torch.testing.assert_close(others @ others.T, torch.eye(8), atol=1e-5, rtol=0)
    stcn(width=8).load_state_dict(grown)
    assert all(torch.equal(value, state[name]) for name, value in grown.items() if name != MASKS)


def test_stage_0_weights_are_evaluated_with_a_channel_of_zeros():
    state = stcn(width=8, mask_channels=1).state_dict()
    evaluated = to_ours(state)[MASKS]
    assert torch.equal(evaluated[:, :4], state[MASKS])
    assert not evaluated[:, 4].any()
    for unchanged in (for_training(state, mask_channels=1), {MASKS: state[MASKS]}):
        assert unchanged[MASKS].shape == (8, 4, 7, 7)


@torch.inference_mode()
def test_one_object_has_the_same_masks_before_and_after_the_step_to_two():
    """Logits of the whole network; the golden `stcn_stage0` holds the value."""
    torch.manual_seed(0)
    single = stcn(width=8, mask_channels=1).eval()
    double = create_model("stcn", single.state_dict())
    frame, mask = torch.randn(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    for model in (single, double):
        features = model.encode_key(frame)
        value = model.encode_value(frame, features.f16, mask)
        logits = model.decode(value, features)
        if model is single:
            expected = logits
    torch.testing.assert_close(logits, expected)
    theirs = {"value_encoder.conv1.weight": torch.rand(64, 4, 7, 7)}  # the authors' names pass the same door
    assert for_training(theirs)[MASKS].shape == to_ours(theirs)[MASKS].shape == (64, 5, 7, 7)


@pytest.mark.parametrize("width", [8, 16])
def test_narrow_networks_are_read_from_their_shapes(width):
    for name, network in (("stcn", stcn(width=width, backbone="wide_resnet50", aspp=True)), ("stm", stm(width=width))):
        loaded = create_model(name, network.state_dict())
        assert loaded.state_dict().keys() == network.state_dict().keys()
    with pytest.raises(CheckpointError, match="the weights say width="):
        create_model("stm", network.state_dict(), width=64)


def test_a_backbone_starts_from_imagenet_with_orthogonal_masks_and_no_biases():
    theirs = ResNetFeatures("basic", (1, 1, 1, 1), width=8, stem_width=8).state_dict()  # has a layer4
    theirs = {name: torch.randn_like(v) if v.is_floating_point() else v for name, v in theirs.items()}
    theirs |= {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    backbone = ResNetFeatures("basic", (1, 1, 1), width=8, stem_width=8, channels_in=5, bias=True)
    start_from_imagenet(backbone, theirs)
    ours = backbone.state_dict()
    assert torch.equal(ours["conv1.weight"][:, :3], theirs["conv1.weight"])
    masks = ours["conv1.weight"][:, 3:].flatten(1)
    torch.testing.assert_close(masks @ masks.T, torch.eye(8), atol=1e-5, rtol=0)
    for name, value in ours.items():
        if name in theirs and name != "conv1.weight":
            assert torch.equal(value, theirs[name]), name
        elif name != "conv1.weight":
            assert name.endswith(".bias")
            assert not value.any()


def test_imagenet_weights_of_another_network_are_refused():
    deeper = ResNetFeatures("basic", (2, 1, 1), width=8, stem_width=8).state_dict()
    backbone = ResNetFeatures("basic", (1, 1, 1), width=8, stem_width=8)
    with pytest.raises(CheckpointError, match=r"layer1\.1\.conv1\.weight \(not in the backbone\)"):
        start_from_imagenet(backbone, deeper)
    with pytest.raises(CheckpointError, match=r"layer1\.1\.conv1\.weight \(missing\)|conv1.weight .* is expected"):
        start_from_imagenet(ResNetFeatures("basic", (2, 1, 1), width=4, stem_width=4), backbone.state_dict())


def test_torchvisions_names_are_those_of_the_backbones():
    from torchvision.models import resnet18, resnet50, wide_resnet50_2

    with torch.device("meta"):  # names and shapes alone
        backbones = {
            resnet50: ResNetFeatures("bottleneck", (3, 4, 6)),
            wide_resnet50_2: ResNetFeatures("bottleneck", (3, 4, 6), bottleneck_scale=2),
            resnet18: ResNetFeatures("basic", (2, 2, 2)),
        }
        for make, backbone in backbones.items():
            theirs = {key: v.shape for key, v in make().state_dict().items() if not key.startswith(("layer4", "fc"))}
            assert theirs == {key: v.shape for key, v in backbone.state_dict().items()}
