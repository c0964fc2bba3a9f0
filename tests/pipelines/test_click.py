"""Masks from prompts: the window that the network sees, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from twospeed.errors import InputError, MaskError
from twospeed.models.click.network import ClickNetwork
from twospeed.pipelines.click import ClickSegmenter


class Box(ClickNetwork):
    """Answers with the inside of the box, or discs around clicks where there is none."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
        self.seen.append((images.shape[-2], images.shape[-1]))
        said = planes[:, 2] if bool(planes[:, 3].any()) else planes[:, 0]
        return 20 * torch.maximum(said, planes[:, 4]) - 10


class Red(ClickNetwork):
    """Answers with what is red, wherever the clicks are."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
        return 40 * (images[:, 0] - images[:, 1]) - 20


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (240, 400, 3), dtype=np.uint8)


def test_a_mask_comes_back_where_the_box_was(image):
    mask = ClickSegmenter(Box()).predict(image, box=(100, 60, 180, 140))
    assert mask.shape == (240, 400)
    assert mask.dtype == bool
    truth = np.zeros_like(mask)
    truth[60:140, 100:180] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    assert not (mask & ~truth).any()  # nothing outside a box


def test_small_objects_are_looked_at_again_closer(image):
    network = Box()
    mask = ClickSegmenter(network, size=320).predict(image, [(200, 100, 1)])
    assert network.seen == [(192, 320), (320, 320)]  # the whole image, then a square around what was found
    ys, xs = np.nonzero(mask)
    assert abs(xs.mean() - 200) < 3
    assert abs(ys.mean() - 100) < 3


def test_small_parts_that_nobody_clicked_are_left_out():
    """Nor is a large one, which may be the object behind a pole; a click on a small one keeps it."""
    image = np.zeros((240, 400, 3), np.uint8)
    for part in (np.s_[40:120, 40:160], np.s_[40:120, 200:280], np.s_[180:200, 300:320]):
        image[part][..., 0] = 255
    segmenter = ClickSegmenter(Red())
    one = segmenter.predict(image, [(100, 80, 1)])
    assert one[80, 100]
    assert one[80, 240]
    assert not one[190, 310]
    both = segmenter.predict(image, [(100, 80, 1), (310, 190, 1)])
    assert both[190, 310]
    assert segmenter.predict(image, [(5, 5, 1)])[190, 310]  # a click beside all parts says nothing of them


def test_a_mask_to_correct_decides_where_to_look(image):
    start = np.zeros((240, 400), bool)
    start[20:120, 20:120] = True
    network = Box()
    mask = ClickSegmenter(network).predict(image, [(110, 110, 1)], start=start)
    assert network.seen == [(320, 320)]
    assert (mask & start).sum() > 0.9 * start.sum()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "no prompt: give points, a box, or both"),
        ({"points": [(400, 10, 1)]}, "point 400,10 lies outside the 400x240 image"),
        ({"points": [(4, 10, 0)]}, r"has sign 0; give \+1"),
        ({"points": [(4, 10, -1)]}, "all points are beside the object"),
        ({"box": (10, 10, 10, 40)}, "the box from 10,10 to 10,40 covers no pixel"),
        ({"box": (500, 10, 600, 40)}, "covers no pixel of the 400x240 image"),
        ({"points": [(4, 10, 1)], "start": np.zeros((10, 20), bool)}, "the mask to correct is 20x10"),
    ],
)
def test_what_cannot_be_meant_is_refused(image, prompts, message):
    with pytest.raises(MaskError, match=message):
        ClickSegmenter(Box()).predict(image, **prompts)


def test_images_and_networks_of_another_kind_are_refused(image):
    with pytest.raises(InputError, match=r"image is float64 of shape \(240, 400, 3\)"):
        ClickSegmenter(Box()).predict(image / 255, [(4, 4, 1)])
    with pytest.raises(InputError, match="Linear draws no masks from clicks"):
        ClickSegmenter(nn.Linear(1, 1))
    with pytest.raises(InputError, match="size is 32"):
        ClickSegmenter(Box(), size=32)
