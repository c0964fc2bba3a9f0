from itertools import islice

import numpy as np
import pytest

from twospeed.data.clips.layers import Layer, Motion, place_layer
from twospeed.data.clips.synthetic import MovingObjects, render_clip
from twospeed.data.clips.textures import procedural_texture, random_shape, region_of
from twospeed.errors import InputError
from twospeed.transforms.colour import jitter_colours


def still(centre, *, velocity=(0, 0), scale=1.0, angle=0.0):
    """A motion without deformation."""
    return Motion(
        centre=np.array(centre, np.float32),
        velocity=np.array(velocity, np.float32),
        sway=np.zeros(2, np.float32),
        rate=1.0,
        phase=0.0,
        scale=scale,
        growth=0.0,
        pulse=0.0,
        angle=angle,
        spin=0.0,
        swing=0.0,
        shear=0.0,
        still=np.zeros((4, 4, 2), np.float32),
        bending=np.zeros((2, 4, 4, 2), np.float32),
    )


def square(side=20, colour=(200, 40, 10)):
    rgba = np.zeros((side + 8, side + 8, 4), np.uint8)
    rgba[..., :3] = colour
    rgba[4:-4, 4:-4, 3] = 255
    return rgba


def drawn(*layers, t=0.0, size=64):
    canvas, labels = np.full((size, size, 3), 90, np.uint8), np.zeros((size, size), np.uint8)
    for layer in layers:
        place_layer(canvas, labels, layer, t)
    return canvas, labels


def test_a_layer_lands_where_its_motion_says_and_moves_with_it():
    layer = Layer(square(), still((30, 26), velocity=(3, -2)), label=5)
    canvas, labels = drawn(layer)
    assert np.count_nonzero(labels == 5) == 400
    assert labels[16:36, 20:40].min() == 5
    assert (canvas[labels == 5] == (200, 40, 10)).all()
    assert (canvas[labels == 0] == 90).all()
    _, later = drawn(layer, t=2.0)
    np.testing.assert_array_equal(later, np.roll(labels, (-4, 6), (0, 1)))


def test_front_layers_hide_those_behind_in_image_and_labels():
    back = Layer(square(30), still((30, 30)), label=1)
    front = Layer(square(10, (0, 255, 0)), still((30, 30)), label=0)
    canvas, labels = drawn(back, front)
    assert np.count_nonzero(labels == 1) == 900 - 100
    assert (canvas[25:35, 25:35] == (0, 255, 0)).all()


def test_layers_outside_the_image_leave_it_alone():
    canvas, labels = drawn(Layer(square(), still((500, -300)), label=3))
    assert not labels.any()
    assert (canvas == 90).all()


def test_rotation_and_scale_keep_the_area():
    _, labels = drawn(Layer(square(), still((32, 32), scale=1.5, angle=0.7), label=1))
    assert np.count_nonzero(labels) == pytest.approx(400 * 1.5**2, rel=0.03)


@pytest.mark.parametrize("real", [False, True])
def test_samples_show_what_they_label(real):
    rng = np.random.default_rng(0)
    frames = [procedural_texture(rng, 120, 160) for _ in range(3)] if real else None
    masks = [np.pad(np.ones((40, 60), np.uint8), ((30, 50), (50, 50))) for _ in range(3)] if real else None
    source = MovingObjects(frames, masks)
    moved = 0
    for number in range(12):
        sample = source.draw(np.random.default_rng([1, number]), size=96)
        assert sample.frames.shape == (3, 96, 96, 3)
        assert sample.frames.dtype == np.uint8
        assert sample.labels.shape == (3, 96, 96)
        assert set(np.unique(sample.labels[0])) == set(range(sample.objects + 1)) or sample.labels[0].min() > 0
        assert sample.labels.max() <= sample.objects <= 2
        for k in range(1, sample.objects + 1):
            assert np.count_nonzero(sample.labels[0] == k) >= 0.003 * 96 * 96
        moved += bool((sample.labels[0] != sample.labels[1]).any())
    assert moved >= 10


def test_samples_depend_on_the_generator_alone():
    source = MovingObjects()
    first, again = (source.draw(np.random.default_rng([2, 5]), size=64) for _ in range(2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.labels, again.labels)
    other = source.draw(np.random.default_rng([2, 6]), size=64)
    assert (first.frames != other.frames).any()


def test_a_single_object_is_asked_for():
    source = MovingObjects()
    for number in range(6):
        sample = source.draw(np.random.default_rng(number), size=64, objects=1)
        assert sample.objects == 1
        assert sample.labels.max() == 1


def test_masks_without_their_frames_are_refused():
    frame = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="2 masks for 1 frames"):
        MovingObjects([frame], [frame[..., 0], frame[..., 0]])
    with pytest.raises(InputError, match="procedural"):
        MovingObjects([])


def test_textures_and_shapes():
    rng = np.random.default_rng(3)
    for kind in ("cloud", "stripes", "tiles", "dots", "marble"):
        image = procedural_texture(rng, 48, 80, kind=kind)
        assert image.shape == (48, 80, 3)
        assert image.std() > 5, f"{kind} is flat"
    for kind in ("blob", "polygon", "body", "ring"):
        share = (random_shape(rng, 96, kind=kind) > 0).mean()
        assert 0.02 < share < 0.95
    half = np.zeros((80, 80, 3), np.uint8)
    half[:, 40:] = 255
    region = region_of(np.random.default_rng(0), half)
    assert region.any()
    sides = {bool(half[y, x, 0]) for y, x in zip(*np.nonzero(region[:, [10, 70]]), strict=True)}
    assert len(sides) <= 1, "a region may not cross the only edge of the image"


def test_colour_jitter_without_strength_changes_nothing():
    image = procedural_texture(np.random.default_rng(1), 32, 32)
    np.testing.assert_array_equal(jitter_colours(np.random.default_rng(0), image, 0.0), image)


# ---------------------------------------------------------------- the clip


def test_the_clip_repeats_itself_and_shows_all_objects_first():
    for seed in range(4):
        clip = list(render_clip(seed, frames=3, height=120, width=200, objects=3))
        again = list(render_clip(seed, frames=3, height=120, width=200, objects=3))
        assert len(clip) == 3
        for (image, labels), (same, same_labels) in zip(clip, again, strict=True):
            np.testing.assert_array_equal(image, same)
            np.testing.assert_array_equal(labels, same_labels)
        image, labels = clip[0]
        assert image.shape == (120, 200, 3)
        assert image.dtype == labels.dtype == np.uint8
        sizes = np.bincount(labels.ravel(), minlength=4)[1:]
        assert (sizes > 0.005 * labels.size).all(), f"seed {seed}: objects cover {sizes} pixels"


def test_objects_of_the_clip_move_and_hide_each_other():
    centres, smallest, largest = [], np.full(3, np.inf), np.zeros(3)
    for _, labels in islice(render_clip(0), 60):
        sizes = np.bincount(labels.ravel(), minlength=4)[1:4]
        smallest, largest = np.minimum(smallest, sizes), np.maximum(largest, sizes)
        centres.append(np.mean(np.nonzero(labels == 1), axis=1))
    assert np.ptp(centres, axis=0).max() > 20
    assert (smallest < 0.8 * largest).any()


def test_the_clip_streams():
    image, _ = next(render_clip(1, frames=10**9, height=64, width=64))
    assert image.shape == (64, 64, 3)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"height": 8}, {"objects": 0}, {"objects": 50}])
def test_impossible_clips_are_refused_at_the_call(wrong):
    with pytest.raises(InputError, match="cannot render"):
        render_clip(0, **wrong)
