"""The SlowFast module and the whole detector against what the report's code computes (provenance in each case.json)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.goldens import seeded
from twospeed.models.slowfast_maskrcnn.convert import to_ours
from twospeed.models.slowfast_maskrcnn.inference import for_inference
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream, SlowFastModule
from twospeed.models.slowfast_maskrcnn.stream import DetectionStream
from twospeed.weights.load import create_model

CONFIGURATIONS = ["1-1", "3-3", "7-7", "1-7", "3-7"]


def module_of(case, configuration: str) -> SlowFastModule:
    """The case's module, filled by its authors' names."""
    shapes = case.case["configurations"][configuration]["state_dict"]
    values = seeded.state_dict(shapes, **case.case["fill"])
    ours = to_ours({f"slow_fast.{name}": torch.from_numpy(value) for name, value in values.items()})
    module = SlowFastModule(*map(int, configuration.split("-"))).eval()
    module.load_state_dict({name.removeprefix("slow_fast."): value for name, value in ours.items()})
    return module


def window_of(configuration: str) -> torch.Tensor:
    shape = (1, 256, int(configuration[2]), 7, 9)
    return torch.from_numpy(seeded.array(f"slowfast_vos_layers.fast.{configuration}", shape))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@torch.inference_mode()
def test_layers(golden, configuration):
    case = golden("vos/slowfast_vos_layers")
    module, out, tolerance = module_of(case, configuration), case.outputs, case.case["tolerance"]
    m, n = module.slow_frames, module.fast_frames
    window = window_of(configuration)
    recorded = case.case["configurations"][configuration]["kernel_t"]
    ours = {f"{p}_conv{i}": module.get_submodule(f"{p}{i}").frames for p in ("slow", "fast") for i in (1, 2, 3)}
    assert ours | {"conv_f2s1": module.fuse1.frames, "conv_f2s2": module.fuse2.frames} == recorded
    fast = module.fast1(window)
    slow = module.slow1(window[:, :, (n - m) // 2 : (n + m) // 2])
    fused = torch.cat([slow, module.fuse1(fast)], 1)
    np.testing.assert_allclose(fast.mean((3, 4)), out[f"mid.{configuration}.fast1.mean"], **tolerance)
    np.testing.assert_allclose(fused.mean((3, 4)), out[f"mid.{configuration}.fuse1.mean"], **tolerance)
    np.testing.assert_allclose(module(window)[:, :, 0], out[f"out.{configuration}"], **tolerance)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@torch.inference_mode()
def test_a_stream_gives_the_recorded_window(golden, configuration):
    """Frame by frame, the middle frame of the recorded window comes out as recorded: no frame is computed twice."""
    case = golden("vos/slowfast_vos_layers")
    module = module_of(case, configuration)
    stream, window = PathwayStream(module), window_of(configuration)
    results = [r for t in range(window.shape[2]) if (r := stream.push(window[:, :, t])) is not None]
    results += stream.finish()
    assert len(results) == window.shape[2]
    middle = results[window.shape[2] // 2]
    np.testing.assert_allclose(middle, case.outputs[f"out.{configuration}"], **case.case["tolerance"])


@pytest.mark.slow
@torch.inference_mode()
def test_whole_detector(golden, davis16):
    case = golden("vos/slowfast_vos_model_3-7")
    out, tolerance = case.outputs, case.case["tolerance"]
    model = create_model("slowfast_maskrcnn_3_7", case.state_dict(), min_size=160, max_size=320)
    assert sum(p.numel() for p in model.parameters()) == case.case["parameters"]
    frames = []
    for index in range(5):
        path = davis16 / "JPEGImages" / "480p" / "blackswan" / f"{index:05d}.jpg"
        image = Image.open(path).convert("RGB").resize((320, 180), Image.Resampling.BICUBIC)
        frames.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    features = [model.encode(frame) for frame in frames]
    padded = [None] * 3 + features + [None] * 3
    for t, frame in enumerate(features):
        assert len(frame.proposals) == out[f"n_proposals.{t}"]
        np.testing.assert_allclose(frame.proposals[:20], out[f"proposals.{t}"], atol=tolerance["boxes_atol"])
        enhanced = model.enhance(padded[t : t + 7])
        for name, level in enhanced.items():
            recorded = out[f"mid.enhanced.{name}.{t}.mean"]
            np.testing.assert_allclose(level.mean((2, 3)), recorded, **tolerance["features"])
    for way in (model, for_inference(model)):  # as it is trained, and as it is used
        results = way(torch.stack(frames))
        assert len(results) == 5
        for t, found in enumerate(results):
            masks = found["masks"][:, 0]
            np.testing.assert_allclose(found["boxes"], out[f"boxes.{t}"], atol=tolerance["boxes_atol"])
            np.testing.assert_allclose(found["scores"], out[f"scores.{t}"], atol=tolerance["scores_atol"])
            np.testing.assert_allclose(masks[:, 2::6, 2::6], out[f"mask.{t}"], atol=tolerance["mask_atol"])
            np.testing.assert_allclose(masks.mean((1, 2)), out[f"mask_mean.{t}"], atol=tolerance["mask_atol"])
            merged = np.unpackbits(out[f"merged.{t}"])[: 180 * 320].reshape(180, 320).astype(bool)
            assert ((masks >= 0.5).any(0).numpy() != merged).mean() < 1e-3
            assert (found["labels"] == 1).all()

    stream = DetectionStream(model)
    assert [len(stream.push(frame)) for frame in frames] == [0, 0, 0, 1, 1]
    assert len(stream.finish()) == 3
