"""The classes of Cityscapes (Cordts et al., CVPR 2016): names and colours, and its label ids as classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twospeed.values import LabelMap

VOID = 255
"""Class of pixels that are not scored."""

# Label id in the annotation files, name, colour: in the order of the classes
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)

CLASSES = LabelMap(tuple(name for _, name, _ in _CLASSES), tuple(colour for _, _, colour in _CLASSES))


def classes_from_ids(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn label ids, as `gtFine/*_labelIds.png` hold them, into classes 0..18 and void (255). Any shape, uint8."""
    table = np.full(256, VOID, np.uint8)
    for index, (label_id, _, _) in enumerate(_CLASSES):
        table[label_id] = index
    return table[ids]


def ids_from_classes(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn classes into label ids, as the test server wants them; what is no class becomes id 0. Any shape, uint8."""
    table = np.zeros(256, np.uint8)
    table[: len(_CLASSES)] = [label_id for label_id, _, _ in _CLASSES]
    return table[classes]
