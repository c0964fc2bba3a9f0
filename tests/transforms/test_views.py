"""The crops of a test lie inside the scaled image and together see its longer side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.transforms.spatial import view_crops


@given(st.integers(20, 120), st.floats(1.0, 3.0), st.booleans())
def test_three_crops_cover_the_image(short, ratio, upright):
    size = (int(short * ratio), short) if upright else (short, int(short * ratio))
    views = view_crops(*size, short_side=32, crop=32)
    seen = np.zeros(views[0].scaled, dtype=int)
    for view in views:
        assert view.scaled == views[0].scaled
        seen[view.top : view.top + view.height, view.left : view.left + view.width] += 1
    assert len(views) == 3
    assert (seen >= 1).all()


def test_offsets_are_the_authors():
    views = view_crops(240, 341, short_side=256, crop=256)  # long side floor(341 * 256 / 240) = 363
    assert [v.left for v in views] == [0, 54, 107]  # ceil(107 / 2)
    assert {v.top for v in views} == {0}
    upright = view_crops(341, 240, short_side=256, crop=224)
    assert [v.top for v in upright] == [0, 70, 139]
    assert {v.left for v in upright} == {16}
    assert not any(v.flip for v in (*views, *upright))


def test_one_crop_is_the_centre_of_the_image():
    (view,) = view_crops(64, 96, short_side=32, crop=16, crops=1)
    assert (view.top, view.left) == (8, 16)
    image = torch.arange(64.0)[:, None] + torch.zeros(64, 96)
    assert view.frames(image[None]).mean() == pytest.approx(31.5, abs=1e-3)


def test_other_counts_and_sizes_are_refused():
    with pytest.raises(InputError, match="crops must be 1"):
        view_crops(100, 100, crops=2)
    with pytest.raises(InputError, match="does not fit a short side of 224"):
        view_crops(100, 100, short_side=224, crop=256)
