"""A whole STM run on real frames, through the Tracker that users hold, against the authors' inference code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.goldens import seeded
from tests.pipelines.test_track_goldens import image, mask
from twospeed.pipelines.tracker import Tracker
from twospeed.weights.load import create_model


def authors_state(case) -> dict[str, torch.Tensor]:
    """The case's weights under the names of the published file, which starts every one with `module.`."""
    values = seeded.state_dict(case.case["state_dict"], **case.case["fill"])
    state = {name: torch.from_numpy(value) for name, value in values.items()}
    for names, change in case.case["fill_overrides"].items():
        for name in names.split(", "):
            if "set" in change:
                state[name].copy_(torch.tensor(change["set"]).view_as(state[name]))
            else:
                state[name] *= change["multiply"]
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.slow
def test_davis_protocol(golden, davis16):
    case = golden("vos/stm_infer_blackswan_2obj")
    out, tolerance = case.outputs, case.case["tolerance"]
    model = create_model("stm", authors_state(case))
    every = case.case["inputs"]["options"]["mem_every"]
    tracker = Tracker(model, memory_every=every, include_last=True, top_k=None, size=None)
    size = (256, 144)
    first = mask(davis16, "blackswan", 0, size)
    first[:, 100:] *= 2
    results = [tracker.step(image(davis16, "blackswan", 0, size), first)]
    with torch.inference_mode():
        bank = tracker._state.bank
        keys = torch.stack([b._keys[: 9 * 16].mean(0) for b in bank.banks])
        values = torch.stack([b._values[0, : 9 * 16].mean(0) for b in bank.banks])
        np.testing.assert_allclose(keys, out["mid.memory_key.mean"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(values, out["mid.memory_value.mean"], rtol=1e-3, atol=1e-4)
    for t in range(1, 7):
        if t == 6:
            assert tracker.memory_frames == out["memory_frames_last_step"]
        results.append(tracker.step(image(davis16, "blackswan", t, size)))
    probabilities = np.stack([r.probabilities for r in results], 1)  # (K+1, T, H, W)
    error = np.abs(probabilities[:, :, 4::8, 4::8] - out["prob"])
    assert error.max() < tolerance["prob_max_abs"]
    assert error.mean() < tolerance["prob_mean_abs"]
    shape = tuple(out["label_shape"])
    expected = np.unpackbits(out["label"])[: np.prod(shape)].reshape(shape) @ np.arange(1, 3)
    actual = np.stack([r.labels for r in results])
    best_two = np.sort(probabilities, axis=0)[-2:]
    decided = best_two[1] - best_two[0] > 2e-2
    assert (actual == expected)[decided].all()
    areas = np.stack([(actual == label).sum((1, 2)) for label in range(3)])
    assert np.abs(areas - out["area"]).max() <= (~decided).sum((1, 2)).max()
