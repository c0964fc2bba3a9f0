"""Frames, masks and boxes of one drawn transform end at the same place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.transforms.spatial import (
    AffineTransform,
    CropTransform,
    draw_affine,
    draw_train_crop,
    scale_only,
    short_side_size,
)

sizes = st.tuples(st.integers(9, 48), st.integers(9, 48))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def crops(draw, scaled: bool = True):
    source = draw(sizes)
    target = draw(sizes) if scaled else source
    height, width = draw(st.integers(1, target[0])), draw(st.integers(1, target[1]))
    top, left = draw(st.integers(0, target[0] - height)), draw(st.integers(0, target[1] - width))
    return CropTransform(source, target, top, left, height, width, draw(st.booleans()))


def blob(seed: int, height: int, width: int) -> torch.Tensor:
    """A binary mask of a few rectangles."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    for _ in range(3):
        y1, y2 = sorted(rng.integers(0, height + 1, 2))
        x1, x2 = sorted(rng.integers(0, width + 1, 2))
        mask[y1:y2, x1:x2] = 1
    return mask


@given(crops(), seeds)
def test_mask_agrees_with_frame_wherever_the_frame_is_certain(transform, seed):
    mask = blob(seed, *transform.source)
    moved = transform.masks(mask)
    image = transform.frames(mask[None].float())[0]  # the mask shown as an image, resized bilinearly
    assert moved.dtype == torch.uint8
    assert moved.shape == image.shape == (transform.height, transform.width)
    certain = ((image < 1e-4) | (image > 1 - 1e-4)).numpy()
    np.testing.assert_array_equal(moved.numpy()[certain], image.round().byte().numpy()[certain])


@given(crops(scaled=False), seeds)
def test_without_scaling_nothing_is_blended(transform, seed):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (2, 3, *transform.source), dtype=np.uint8))
    assert torch.equal(transform.frames(image), transform.masks(image).float())


@given(crops(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_boxes_follow_the_pixels(transform, xa, xb, ya, yb):
    height, width = transform.source
    box = np.array([[min(xa, xb) * width, min(ya, yb) * height, max(xa, xb) * width, max(ya, yb) * height]])
    x1, y1, x2, y2 = transform.boxes(box)[0].tolist()
    assert 0 <= x1 <= x2 <= transform.width
    assert 0 <= y1 <= y2 <= transform.height
    if transform.flip:  # of pixel numbers, from the right; here edges are compared
        x1, x2 = x1 + 1, x2 + 1
    # Every output pixel whose centre is well inside the moved box comes from inside the source box, and back.
    columns = torch.arange(width, dtype=torch.float32).expand(height, width)
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    came_from_x, came_from_y = transform.masks(columns) + 0.5, transform.masks(rows) + 0.5
    out_x = torch.arange(transform.width) + 0.5
    out_y = torch.arange(transform.height) + 0.5
    reach_x = 0.5 * transform.scaled[1] / width + 0.51  # half a source pixel, seen in the output, and rounding
    reach_y = 0.5 * transform.scaled[0] / height + 0.51
    inside_x = (out_x > x1 + reach_x) & (out_x < x2 - reach_x)
    inside_y = (out_y > y1 + reach_y) & (out_y < y2 - reach_y)
    inside = inside_y[:, None] & inside_x[None, :]
    left, top, right, bottom = box[0].tolist()
    assert (came_from_x[inside] >= left).all()
    assert (came_from_x[inside] <= right).all()
    assert (came_from_y[inside] >= top).all()
    assert (came_from_y[inside] <= bottom).all()


def test_a_flip_mirrors_boxes_by_pixel_numbers():
    flip = CropTransform((10, 20), (10, 20), 0, 0, 10, 20, flip=True)
    assert flip.boxes(np.array([[2.0, 1.0, 5.0, 4.0]])).tolist() == [[14.0, 1.0, 17.0, 4.0]]
    assert flip.boxes(np.array([[0.0, 0.0, 20.0, 10.0]])).tolist() == [[0.0, 0.0, 19.0, 9.0]]


def test_resize_is_bilinear_with_half_pixel_centres():
    double = CropTransform((1, 2), (1, 4), 0, 0, 1, 4)
    assert double.frames(torch.tensor([[[0.0, 8.0]]]))[0, 0].tolist() == [0.0, 2.0, 6.0, 8.0]
    assert double.masks(torch.tensor([[3, 7]])).tolist() == [[3, 3, 7, 7]]


@given(seeds, st.integers(30, 200), st.integers(30, 200), st.booleans())
def test_drawn_crops_are_inside_and_sized_as_asked(seed, height, width, inverse):
    rng = np.random.default_rng(seed)
    drawn = draw_train_crop(rng, height, width, short_side=(32, 48), crop=24, inverse_uniform=inverse)
    assert 32 <= min(drawn.scaled) <= 48
    assert (drawn.height, drawn.width) == (24, 24)
    assert 0 <= drawn.top <= drawn.scaled[0] - 24
    assert 0 <= drawn.left <= drawn.scaled[1] - 24


def test_draws_reach_all_scales_and_corners_and_repeat_with_the_seed():
    rng = np.random.default_rng(1)
    drawn = [draw_train_crop(rng, 60, 80, short_side=(32, 36), crop=32) for _ in range(400)]
    assert {min(d.scaled) for d in drawn} == {32, 33, 34, 35, 36}
    assert {d.top for d in drawn} == {0, 1, 2, 3, 4}
    assert 0 in {d.left for d in drawn}
    assert any(d.left == d.scaled[1] - 32 for d in drawn)
    assert 140 < sum(d.flip for d in drawn) < 260
    again = np.random.default_rng(1)
    assert drawn[0] == draw_train_crop(again, 60, 80, short_side=(32, 36), crop=32)


def test_inverse_uniform_prefers_small_scales():
    draws = {}
    for inverse in (False, True):
        rng = np.random.default_rng(2)
        draws[inverse] = np.mean(
            [
                min(draw_train_crop(rng, 50, 50, short_side=(20, 80), crop=20, inverse_uniform=inverse).scaled)
                for _ in range(500)
            ]
        )
    assert abs(draws[False] - 50) < 3  # mean of a uniform draw
    assert abs(draws[True] - np.log(80 / 20) / (1 / 20 - 1 / 80)) < 3  # mean of 1 / u


@given(sizes, st.integers(1, 64))
def test_short_side_rule(size, short):
    height, width = short_side_size(*size, short)
    assert min(height, width) == short
    assert max(height, width) == max(size) * short // min(size)


def test_wrong_images_crops_and_ranges_are_refused():
    view = scale_only(20, 30, 10)
    assert (view.height, view.width) == (10, 15)
    with pytest.raises(InputError, match="do not fit a transform drawn for 20x30"):
        view.frames(torch.zeros(3, 30, 20))
    with pytest.raises(InputError, match="leaves the image"):
        CropTransform((10, 10), (10, 10), 5, 0, 6, 6)
    with pytest.raises(InputError, match=r"crop=224, short_side=\(200, 340\)"):
        draw_train_crop(np.random.default_rng(0), 300, 300, short_side=(200, 340))
    with pytest.raises(InputError, match=r"\(n, 4\)"):
        view.boxes(np.zeros((3, 5)))


@settings(deadline=None)
@given(sizes, seeds)
def test_affine_mask_agrees_with_frame_wherever_the_frame_is_certain(size, seed):
    rng = np.random.default_rng(seed)
    transform = draw_affine(rng, *size, degrees=40, shear_degrees=20, scale=(0.7, 1.4), shift=0.2)
    mask = blob(seed, *size)
    image = transform.frames(mask[None].float())[0]
    moved = transform.masks(mask)
    certain = ((image < 1e-3) | (image > 1 - 1e-3)).numpy()
    np.testing.assert_array_equal(moved.numpy()[certain], image.round().byte().numpy()[certain])


def test_affine_identity_shift_fill_and_quarter_turn():
    image = torch.arange(12.0).reshape(1, 3, 4)
    identity = draw_affine(np.random.default_rng(0), 3, 4)
    assert torch.allclose(identity.frames(image), image, atol=1e-5)
    assert torch.equal(identity.masks(image), image)
    right = AffineTransform((3, 4), ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0)))
    shifted = right.frames(image)
    assert torch.allclose(shifted[..., 1:], image[..., :-1], atol=1e-4)
    assert torch.allclose(shifted[..., 0], torch.tensor(0.0))
    assert right.masks(image.long() + 1)[..., 0].unique().tolist() == [0]
    turn = AffineTransform((4, 4), ((0.0, -1.0, 4.0), (1.0, 0.0, 0.0)))  # x right -> y down: clockwise
    square = torch.arange(16.0).reshape(1, 4, 4)
    assert torch.allclose(turn.frames(square), torch.rot90(square, -1, (1, 2)), atol=1e-4)
    assert torch.equal(turn.masks(square), torch.rot90(square, -1, (1, 2)))
    with pytest.raises(InputError, match="cannot be inverted"):
        AffineTransform((4, 4), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))).frames(square)
