"""STCN's parts against what the authors' code computes (provenance in each case.json)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.goldens import seeded
from twospeed.models.banks import MemoryBank
from twospeed.ops.masks import soft_aggregate
from twospeed.weights.load import create_model


def block_masks() -> torch.Tensor:
    cells = torch.from_numpy(seeded.array("stcn.blockmasks", (3, 1, 8, 12), 0, 1))
    return cells.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, 0]  # (3, 128, 192)


def frame(name: str) -> torch.Tensor:
    return torch.from_numpy(seeded.array(name, (1, 3, 128, 192)))


def close(actual, expected, tolerance) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, **tolerance)


@torch.inference_mode()
def test_encoders(golden):
    case = golden("vos/stcn_encoders")
    model, out = create_model("stcn", case.state_dict()), case.outputs
    features = model.encode_key(frame("stcn.frame0"))
    tolerance = case.case["tolerance"]
    close(features.key, out["k16"], tolerance)
    close(features.thin[:, ::4], out["f16_thin"], tolerance)
    for name, feature in (("f16", features.f16), ("f8", features.f8), ("f4", features.f4)):
        close(feature.mean((2, 3)), out[f"mid.{name}.mean"], tolerance)
        close(feature[..., :8, 2:6, 3:7], out[f"mid.{name}.corner"], tolerance) if f"mid.{name}.corner" in out else None
    for count, step in ((1, 4), (2, 8), (3, 16)):
        value = model.encode_value(frame("stcn.frame0"), features.f16, block_masks()[None, :count])
        close(value[0, :, ::step, None], out[f"value_{count}obj"], tolerance)


@torch.inference_mode()
def test_stage0_weights_give_the_same_value_for_one_object(golden):
    case = golden("vos/stcn_stage0")
    model = create_model("stcn", case.state_dict())
    features = model.encode_key(frame("stcn.frame0"))
    value = model.encode_value(frame("stcn.frame0"), features.f16, block_masks()[None, :1])
    close(value[0, :, ::8, None], case.outputs["value"], case.case["tolerance"])


def overflowed(bank: MemoryBank, query_key: torch.Tensor) -> torch.Tensor:
    """Query cells at which the authors' test code loses its readout: (h, w).

    It sums raw exponentials; where the sum passes fp32's range, every weight is divided by infinity and the readout is
    zero. One cell of this case is such a cell. Ours subtracts the maximum and reads it; the comparison puts the zero
    back, so that all other cells and the decoder are still held to the recorded numbers.
    """
    keys = bank._keys[: len(bank.slots) * query_key[0].numel()]  # (N, C)
    similarity = (2 * keys @ query_key.flatten(1) - keys.square().sum(1, keepdim=True)) / 8
    lost = similarity.topk(20, 0).values.exp().sum(0).isinf()
    assert lost.sum() == 1
    return lost.view(query_key.shape[1:])


@pytest.mark.parametrize("count", [1, 2])
@torch.inference_mode()
def test_segment(golden, count):
    case = golden("vos/stcn_segment")
    model, out = create_model("stcn", case.state_dict()), case.outputs
    bank = MemoryBank(top_k=20)
    for i in range(2):
        features = model.encode_key(frame(f"stcn.frame{i}"))
        value = model.encode_value(frame(f"stcn.frame{i}"), features.f16, block_masks()[None, i : i + count])
        bank.add(features.key[0], value[0], permanent=True)
    query = model.encode_key(frame("stcn.frame2"))
    readout = bank.read(query.key[0]) * (~overflowed(bank, query.key[0]))
    logits = model.decode(readout[None], query)
    tolerance = case.case["tolerance"]
    close(logits[0, :, None, ::4, ::4], out[f"logits_{count}obj"], tolerance)
    close(logits.sigmoid()[0, :, None, ::4, ::4], out[f"prob_{count}obj"], tolerance)
    together = soft_aggregate(logits.sigmoid()).softmax(1)
    close(together[0, :, None, ::4, ::4], out[f"aggregated_{count}obj"], tolerance)
