"""STM's network and its memory, one bank for each object."""

from __future__ import annotations

import pytest
import torch

from twospeed import CheckpointError, InputError, create_model
from twospeed.models.banks import MemoryBank, ObjectBanks
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.stm.convert import to_ours
from twospeed.models.stm.network import STM
from twospeed.weights.load import recognise


def small_stm() -> STM:
    """An STM that is quick to run, with random weights."""
    return STM(
        ResNetFeatures("basic", (1, 1, 1), width=8, stem_width=8),
        ResNetFeatures("basic", (1, 1, 1), width=8, stem_width=8, channels_in=5),
        key_channels=6,
        value_channels=10,
        decoder_channels=8,
    ).eval()


@pytest.fixture(scope="module")
def small() -> STM:
    torch.manual_seed(0)
    return small_stm()


def test_parameters_are_the_papers():
    with torch.device("meta"):
        model = create_model("stm", None)
    assert sum(p.numel() for p in model.parameters()) == 38_925_570
    assert model.similarity == "dot"


def test_an_unknown_similarity_is_refused():
    with pytest.raises(InputError, match="similarity is 'cosine'; choose 'dot'"):
        create_model("stm", None, similarity="cosine")


def test_the_authors_names_are_recognised(golden):
    shapes = golden("vos/stm_infer_blackswan_2obj").case["state_dict"]
    state = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert recognise(state) == "stm"
    with torch.device("meta"):
        expected = create_model("stm", None).state_dict()
    ours = to_ours({f"module.{name}": value for name, value in state.items()})
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    assert to_ours(ours).keys() == ours.keys()


def test_a_missing_mask_stem_is_named(golden):
    shapes = golden("vos/stm_infer_blackswan_2obj").case["state_dict"]
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if "conv1_o" not in name and "res" not in name}
    with pytest.raises(CheckpointError, match=r"memory_encoder\.backbone\.conv1_m\.weight"):
        create_model("stm", state)


@torch.inference_mode()
def test_an_object_is_encoded_knowing_the_others(small):
    frames, masks = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48) / 3
    keys, values = small.encode_memory(frames, None, masks)
    assert keys.shape == (1, 3, 6, 2, 3)
    assert values.shape == (1, 3, 10, 2, 3)
    alone, _ = small.encode_memory(frames, None, masks[:, :1])
    assert not torch.allclose(alone[:, 0], keys[:, 0])
    pair, _ = small.encode_memory(frames, None, torch.stack([masks[:, 0], masks[:, 1] + masks[:, 2]], 1))
    torch.testing.assert_close(pair[:, 0], keys[:, 0])


@torch.inference_mode()
def test_others_are_clamped_to_one(small):
    """STM's difference from STCN: where two others overlap, their sum stays a mask."""
    frames, masks = torch.rand(1, 3, 32, 48), torch.ones(1, 3, 32, 48)
    keys, _ = small.encode_memory(frames, None, masks)
    pair, _ = small.encode_memory(frames, None, masks[:, :2])
    torch.testing.assert_close(pair[:, 0], keys[:, 0])


@torch.inference_mode()
def test_objects_are_decoded_independently(small):
    features, readout = small.encode_key(torch.rand(1, 3, 32, 48)), torch.randn(1, 3, 10, 2, 3)
    together = small.decode(readout, features)
    assert together.shape == (1, 3, 32, 48)
    one_by_one = [small.decode(readout[:, k : k + 1], features) for k in range(3)]
    torch.testing.assert_close(torch.cat(one_by_one, 1), together, rtol=1e-4, atol=1e-5)


def test_each_object_reads_its_own_keys():
    torch.manual_seed(0)
    keys, values, query = torch.randn(3, 2, 4, 2, 3), torch.randn(3, 2, 5, 2, 3), torch.randn(4, 2, 3)
    banks = ObjectBanks()
    single = [MemoryBank(top_k=None, similarity="dot") for _ in range(2)]
    for t in range(3):
        present = 1 if t == 0 else 2  # the second object appears at frame 1
        banks.add(keys[t, :present], values[t, :present], temporary=t == 2)
        for k in range(present):
            single[k].add(keys[t, k], values[t, k : k + 1])
    assert banks.frames == 3
    expected = torch.cat([bank.read(query) for bank in single])
    torch.testing.assert_close(banks.read(query), expected)
    banks.add(keys[0], values[0])
    assert banks.frames == 3  # the temporary frame went
