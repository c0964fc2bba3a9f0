"""Colours change alike in every frame of a clip, and normalisation is what its line says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional

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


def reference(change, image):
    """What torchvision makes of an image (H, W, 3), one change after the other: float, 0..255."""
    out = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    factors = (change.brightness, change.contrast, change.saturation, change.hue)
    steps = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
             functional.adjust_hue)  # fmt: skip
    for step in change.order:
        out = steps[step](out, factors[step])
    if change.grey:
        out = functional.rgb_to_grayscale(out, num_output_channels=3)
    return 255 * out.permute(1, 2, 0).numpy()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_draw_treats_every_frame_of_a_film_alike(seed):
    rng = np.random.default_rng(seed)
    change = draw_colour(rng, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey_probability=0.2)
    image = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    film = change.image(np.stack([image, image]))
    assert film.dtype == np.uint8
    assert (film == change.image(image)).all()


def test_factors_mean_what_they_say():
    flat = np.full((2, 2, 3), 100, np.uint8)
    assert np.unique(ColourTransform(brightness=1.5).image(flat)).tolist() == [150]
    image = np.repeat(np.array([[[0], [200]]], np.uint8), 3, axis=2)
    assert ColourTransform(contrast=0.5).image(image)[0, :, 0].tolist() == [50, 150]
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert ColourTransform(saturation=0.0).image(red).ravel().tolist() == [76] * 3
    assert ColourTransform(grey=True).image(red).ravel().tolist() == [76] * 3
    assert ColourTransform(hue=1 / 3).image(red).ravel().tolist() == pytest.approx([0, 255, 0], abs=4)
    assert (ColourTransform().image(image) == image).all()


def test_no_jitter_asked_for_is_no_jitter():
    change = draw_colour(np.random.default_rng(0))
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert (change.image(image) == image).all()
    with pytest.raises(InputError, match="hue"):
        draw_colour(np.random.default_rng(0), hue=0.7)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=60)
def test_one_matrix_gives_the_colours_that_torchvision_gives(seed, hue):
    rng = np.random.default_rng(seed)
    spread = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1 if hue else 0.0}
    change = draw_colour(rng, **spread, grey_probability=0.2)
    image = rng.integers(70, 150, (6, 7, 3), dtype=np.uint8)  # far from 0 and 255: nothing is clamped on the way
    # Hue is kept in 256 steps. One is 1.4 of 60 degrees, over which a channel crosses the range of the pixel: at most
    # 115 values after contrast and saturation. Brightness, contrast and saturation then enlarge 2.7 up to 1.7 times,
    # and saturation and value are rounded, too. In the mean it is less than one
    difference = np.abs(change.image(image) - reference(change, image))
    assert difference.max() <= (7 if hue else 1)
    assert difference.mean() < 1
