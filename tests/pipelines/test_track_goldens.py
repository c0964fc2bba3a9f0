"""Whole STCN runs on real frames, through the Tracker that users hold, against the authors' inference code."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twospeed.pipelines.tracker import Tracker
from twospeed.weights.load import create_model


def image(davis16, sequence: str, index: int, size: tuple[int, int]) -> np.ndarray:
    path = davis16 / "JPEGImages" / "480p" / sequence / f"{index:05d}.jpg"
    return np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))


def mask(davis16, sequence: str, index: int, size: tuple[int, int]) -> np.ndarray:
    path = davis16 / "Annotations" / "480p" / sequence / f"{index:05d}.png"
    return (np.asarray(Image.open(path).convert("L").resize(size, Image.Resampling.NEAREST)) > 127).astype(np.uint8)


def compare(results, case) -> None:
    out, tolerance = case.outputs, case.case["tolerance"]
    objects, frames = out["prob"].shape[0] - 1, len(results)
    height, width = results[0].labels.shape
    probabilities = np.zeros((objects + 1, frames, height, width), np.float32)
    for t, result in enumerate(results):
        probabilities[: len(result.probabilities), t] = result.probabilities
    error = np.abs(probabilities[:, :, 4::8, 4::8] - out["prob"])
    assert error.max() < tolerance["prob_max_abs"]
    assert error.mean() < tolerance["prob_mean_abs"]
    np.testing.assert_allclose(probabilities.mean((2, 3)), out["prob_mean"], atol=tolerance["prob_mean_abs"])
    shape = tuple(out["label_shape"])
    expected = np.unpackbits(out["label"])[: np.prod(shape)].reshape(shape) @ np.arange(1, objects + 1)
    actual = np.stack([result.labels for result in results])
    best_two = np.sort(probabilities, axis=0)[-2:]
    decided = best_two[1] - best_two[0] > 2e-2
    assert (actual == expected)[decided].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stcn_infer_blackswan_m5", "stcn_infer_blackswan_m5_last"])
def test_davis_protocol(golden, davis16, name):
    case = golden(f"vos/{name}")
    options = case.case["inputs"]["options"]
    tracker = Tracker(
        create_model("stcn", case.state_dict()),
        memory_every=options["mem_every"],
        include_last=options["include_last"],
        top_k=options["top_k"],
        size=None,
    )
    size = (427, 240)
    results = [
        tracker.step(image(davis16, "blackswan", t, size), mask(davis16, "blackswan", 0, size) if t == 0 else None)
        for t in range(12)
    ]
    compare(results, case)


@pytest.mark.slow
def test_an_object_that_appears_later(golden, davis16):
    case = golden("vos/stcn_infer_late_object_blackswan")
    tracker = Tracker(create_model("stcn", case.state_dict()), memory_every=3, size=None)
    size = (320, 180)
    first, second = mask(davis16, "blackswan", 0, size), 2 * mask(davis16, "blackswan", 4, size)
    first[:, 126:] = 0
    second[:, :130] = 0
    given = {0: first, 4: second}
    results = [tracker.step(image(davis16, "blackswan", t, size), given.get(t)) for t in range(10)]
    assert results[3].object_ids == (1,)
    assert results[4].object_ids == (1, 2)
    compare(results, case)
