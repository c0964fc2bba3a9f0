"""Colours change alike in every frame of a clip, and normalisation is what its line says."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.transforms.colour import ColourTransform, draw_colour, normalise


def test_normalise_divides_by_255_and_orders_channels():
    clip = torch.tensor([0, 102, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 2, 4, 4)
    out = normalise(clip, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225), channel_dim=0)
    assert out.shape == (3, 2, 4, 4)
    assert out[:, 0, 0, 0].tolist() == pytest.approx([-2.0, (0.4 - 0.45) / 0.225, (1 - 0.45) / 0.225])
    bgr = normalise(clip[:, 0], (0.1, 0.2, 0.3), (1, 1, 1), order="bgr")
    assert bgr[:, 0, 0].tolist() == pytest.approx([0.7, 0.2, -0.1])
    with pytest.raises(InputError, match="3 channels"):
        normalise(torch.zeros(1, 4, 4), (0, 0, 0), (1, 1, 1))


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(-0.5, 0.5))
@settings(deadline=None)
def test_hue_shift_turns_the_colour_circle(rgb, shift):
    image = torch.tensor(rgb, dtype=torch.float32).reshape(3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    expected = [255 * c for c in colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)]
    out = ColourTransform(hue=shift).frames(image).flatten().tolist()
    assert out == pytest.approx(expected, abs=0.5)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_draw_treats_every_frame_alike_and_stays_in_range(seed):
    rng = np.random.default_rng(seed)
    change = draw_colour(rng, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_probability=0.2)
    frames = torch.from_numpy(rng.integers(0, 256, (2, 3, 5, 6), dtype=np.uint8))
    out = change.frames(frames)
    assert out.dtype == torch.float32
    assert out.shape == frames.shape
    assert float(out.min()) >= 0
    assert float(out.max()) <= 255
    assert torch.allclose(out[1], change.frames(frames[1]), atol=1e-3)
    assert torch.allclose(out[0], change.frames(frames)[0])


def test_factors_mean_what_they_say():
    frames = torch.full((3, 2, 2), 100.0)
    assert ColourTransform(brightness=1.5).frames(frames).unique().tolist() == [150.0]
    image = torch.tensor([0.0, 200.0]).expand(3, 1, 2)
    assert ColourTransform(contrast=0.5).frames(image)[0, 0].tolist() == pytest.approx([50.0, 150.0], abs=0.01)
    red = torch.tensor([255.0, 0.0, 0.0]).reshape(3, 1, 1)
    assert ColourTransform(saturation=0.0).frames(red).flatten().tolist() == pytest.approx([76.245] * 3)
    assert ColourTransform(grey=True).frames(red).flatten().tolist() == pytest.approx([76.245] * 3)
    assert torch.equal(ColourTransform().frames(image), image)


def test_no_jitter_asked_for_is_no_jitter():
    change = draw_colour(np.random.default_rng(0))
    frames = torch.rand(3, 4, 4) * 255
    assert torch.equal(change.frames(frames), frames)
    with pytest.raises(InputError, match="hue"):
        draw_colour(np.random.default_rng(0), hue=0.7)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_quick_way_for_one_image_gives_the_same_colours(seed, hue):
    rng = np.random.default_rng(seed)
    spread = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1 if hue else 0.0}
    change = draw_colour(rng, **spread, grey_probability=0.2)
    image = rng.integers(70, 150, (6, 7, 3), dtype=np.uint8)  # far from 0 and 255: nothing is clamped on the way
    expected = change.frames(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    # Hue is kept in 256 steps. One is 1.4 of 60 degrees, over which a channel crosses the range of the pixel: at most
    # 115 values after contrast and saturation. Brightness, contrast and saturation then enlarge 2.7 up to 1.7 times,
    # and saturation and value are rounded, too. In the mean it is less than one
    difference = np.abs(change.image(image) - expected)
    assert difference.max() <= (7 if hue else 1)
    assert difference.mean() < 1
