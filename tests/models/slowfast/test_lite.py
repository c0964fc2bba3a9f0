"""The small SlowFast: two pathways at two rates, one connection between them, names that travel with its weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from twospeed.errors import CheckpointError, InputError
from twospeed.models.optimise import optimise
from twospeed.models.slowfast.builders import slowfast_r50_4x16
from twospeed.models.slowfast.lite import slowfast_lite0
from twospeed.pipelines.classify import Classifier
from twospeed.weights.load import create_model, model_of, save_model


@pytest.fixture
def network():
    torch.manual_seed(0)
    return slowfast_lite0(num_classes=3, frames=8, alpha=4).eval()


def test_features_of_both_pathways_lie_on_one_grid(network):
    clip = torch.randn(2, 3, 8, 64, 96)
    slow, joined, fast = network.features(clip)
    assert slow.shape == (2, 320, 2, 2, 3)
    assert joined.shape == (2, 256, 2, 2, 3)
    assert fast.shape == (2, 64, 8, 2, 3)
    assert network(clip).shape == (2, 1, 3)


def test_the_slow_pathway_sees_its_frames_alone(network):
    clip = torch.randn(1, 3, 8, 64, 64)
    other = clip.clone()
    other[:, :, 3] += 1  # neither the first nor the last frame
    with torch.no_grad():
        before, after = network.features(clip), network.features(other)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_the_network_made_fast_computes_the_same(network):
    clip = torch.randn(1, 3, 8, 64, 96)
    with torch.no_grad():
        assert torch.allclose(optimise(network)(clip), network(clip), atol=1e-4)


def test_clips_of_another_shape_are_refused(network):
    with pytest.raises(InputError, match="70x64 pixels; sides are multiples of 32"):
        network(torch.zeros(1, 3, 8, 64, 70))
    with pytest.raises(InputError, match="7 frames, not a multiple of alpha"):
        network(torch.zeros(1, 3, 7, 64, 64))
    with pytest.raises(InputError, match="alpha=3: a number that divides frames=8"):
        slowfast_lite0(frames=8, alpha=3)


def test_names_travel_with_the_weights(network, tmp_path):
    path = tmp_path / "mine.safetensors"
    network.class_names = ("wave", "nod\n", "süß")
    save_model(network, path, model_name="slowfast_lite0")
    assert model_of(path) == "slowfast_lite0"
    assert create_model("slowfast_lite0", path).class_names == ("wave", "nod\n", "süß")
    classifier = Classifier(weights=path, device="cpu")
    assert classifier.labels == ("wave", "nod\n", "süß")
    assert classifier.samplings[0].frames == 8
    assert Classifier(weights=path, labels=["a", "b", "c"], device="cpu").labels == ("a", "b", "c")


@pytest.mark.parametrize("names", ['["a", "b"]', '["a", "b", 3]', '["a", "b", ""]', '{"a": 0}', "[", "[" * 5000])
def test_names_that_save_model_would_not_write_are_refused(network, tmp_path, names):
    path = tmp_path / "mine.safetensors"
    save_model(network, path, model_name="slowfast_lite0")
    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
    save_file(load_file(path), path, {**metadata, "classes": names})
    with pytest.raises(CheckpointError, match="class names"):
        create_model("slowfast_lite0", path)


def test_weights_of_another_sampling_are_refused(tmp_path):
    """4x16 and 8x8 fit each other's names; the kernel of the lateral connections shows which a published file is."""
    network = slowfast_r50_4x16(width=16, num_classes=2)
    published = tmp_path / "published.pyth"
    torch.save({"model_state": network.state_dict()}, published)
    assert model_of(published) == "slowfast_r50_4x16"
    with pytest.raises(CheckpointError, match="holds weights of slowfast_r50_4x16; choose that model"):
        create_model("slowfast_r50_8x8", published)
    save_model(network, tmp_path / "ours.safetensors", model_name="slowfast_r50_4x16")
    with pytest.raises(CheckpointError, match="holds weights of slowfast_r50_4x16; choose that model"):
        create_model("slowfast_r50_8x8", tmp_path / "ours.safetensors")


def test_a_file_of_no_known_network_names_none(tmp_path):
    save_file({"layer": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"has 1 keys \('layer', \.\.\.\), which is none that twospeed has"):
        model_of(tmp_path / "other.safetensors")
    save_file({"layer": torch.zeros(1)}, tmp_path / "named.safetensors", {"model": "a\nb", "classes": json.dumps([])})
    with pytest.raises(CheckpointError, match=r"records the model a\\nb"):
        model_of(tmp_path / "named.safetensors")
