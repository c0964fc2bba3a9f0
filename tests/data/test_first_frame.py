"""One image becomes clips whose masks are known to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twospeed.data.clips.first_frame import FirstFrame
from twospeed.errors import MaskError


def random_image() -> tuple[np.ndarray, np.ndarray]:
    """A red and a blue object (labels 3 and 255) on green noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((120, 160), np.uint8)
    labels[30:70, 20:60], labels[60:100, 90:140] = 3, 255
    image = rng.integers(0, 60, (120, 160, 3)).astype(np.uint8)
    image[..., 1] += 120
    image[labels == 3], image[labels == 255] = (210, 30, 30), (30, 30, 210)
    return image, labels


IMAGE, LABELS = random_image()
SOURCE = FirstFrame(IMAGE, LABELS)


@pytest.fixture
def own_ground(monkeypatch):
    """Samples before the image's own background alone, whose colour is known."""
    monkeypatch.setattr(FirstFrame, "_ground", lambda self, rng: self.background)
    monkeypatch.setattr(SOURCE.occluders, "procedural", 0.0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 2))
def test_masks_lie_on_their_objects_to_the_pixel(own_ground, seed: int, most: int):
    sample = SOURCE.draw(np.random.default_rng(seed), size=96, objects=most)
    assert sample.frames.shape == (3, 96, 96, 3)
    assert sample.labels.shape == (3, 96, 96)
    assert sample.objects == most
    assert set(np.unique(sample.labels)) <= set(range(most + 1))
    colours = []
    for k in range(1, most + 1):
        assert (sample.labels[0] == k).sum() >= 18, "an object to follow is seen in the first frame"
        marked = sample.frames[sample.labels == k].astype(int)
        loudest = marked.argmax(1)  # red or blue; occluders are cut from green ground and take their pixels with them
        colour = np.bincount(loudest, minlength=3).argmax()
        assert colour != 1
        assert (loudest == colour).mean() > 0.9, "the outermost pixels are mixed, no more"
        colours.append(colour)
    assert len(set(colours)) == most
    ground = sample.frames[sample.labels == 0].astype(int).argmax(1)
    for colour in colours:
        assert (ground == colour).mean() < 0.05, "nothing of a followed object is left out of its mask"


def test_backgrounds_vary():
    means = [SOURCE.draw(np.random.default_rng(seed), size=64).frames.mean((0, 1, 2)) for seed in range(20)]
    greenest = sum(mean.argmax() == 1 for mean in means)
    assert 5 <= greenest < 20, "the image's own, often but not always"


def test_a_sample_is_a_function_of_its_seed():
    one, same, other = (FirstFrame(IMAGE, LABELS).draw(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(one.frames, same.frames)
    assert np.array_equal(one.labels, same.labels)
    assert not np.array_equal(one.frames, other.frames)


def test_nothing_of_the_objects_is_left_in_the_background():
    red, green, blue = SOURCE.background.astype(int).transpose(2, 0, 1)
    assert (green > red).all()
    assert (green > blue).all()


def test_an_object_that_fills_the_image_still_gives_samples():
    sample = FirstFrame(IMAGE, np.ones_like(LABELS)).draw(np.random.default_rng(0), size=64)
    assert (sample.labels[0] == 1).any()


def test_a_few_pixels_are_an_object():
    labels = np.zeros_like(LABELS)
    labels[50:54, 70:74] = 9
    source = FirstFrame(IMAGE, labels)
    for seed in range(10):
        assert (source.draw(np.random.default_rng(seed)).labels[0] == 1).any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros_like(LABELS), "nothing to learn"),
        (LABELS[:, 1:], "is 159x120, its frame 160x120"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(labels: np.ndarray, message: str):
    with pytest.raises(MaskError, match=message):
        FirstFrame(IMAGE, labels)
