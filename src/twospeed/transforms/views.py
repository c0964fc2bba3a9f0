"""The spatial crops of a test: one in the centre, or three along the longer side."""

from __future__ import annotations

from twospeed.errors import InputError
from twospeed.transforms.spatial import CropTransform, short_side_size


def view_crops(
    height: int, width: int, *, short_side: int = 256, crop: int = 256, crops: int = 3
) -> tuple[CropTransform, ...]:
    """Return the test crops of an image, left to right (or top to bottom when it is upright).

    Along the longer side the offsets are 0, ceil((L - crop) / 2) and L - crop; across it, ceil((S - crop) /
    2). With crop = short_side, three crops cover an image of up to 3:1. crops: 1 (the centre) or 3.
    """
    if crops not in (1, 3):
        raise InputError(f"crops must be 1 (centre) or 3 (along the longer side), got {crops}")
    if crop > short_side:
        raise InputError(f"a crop of {crop} does not fit a short side of {short_side}")
    scaled = short_side_size(height, width, short_side)
    middle_top, middle_left = -(-(scaled[0] - crop) // 2), -(-(scaled[1] - crop) // 2)
    source = (height, width)
    if crops == 1:
        return (CropTransform(source, scaled, middle_top, middle_left, crop, crop),)
    if height > width:
        tops = (0, middle_top, scaled[0] - crop)
        return tuple(CropTransform(source, scaled, top, middle_left, crop, crop) for top in tops)
    lefts = (0, middle_left, scaled[1] - crop)
    return tuple(CropTransform(source, scaled, middle_top, left, crop, crop) for left in lefts)
