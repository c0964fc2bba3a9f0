"""The classes of CamVid (Brostow et al., 2009) in the grouping of eleven that SegNet introduced."""

from __future__ import annotations

from twospeed.values import LabelMap

VOID = 11
"""Class of pixels that are not scored."""

CLASSES = LabelMap(
    (
        "sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
