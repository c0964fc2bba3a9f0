"""Cityscapes (Cordts et al., CVPR 2016): classes, label ids, the labelled frames of a split and what leads to them.

leftImg8bit_sequence/SPLIT/CITY/CITY_SSSSSS_FFFFFF_leftImg8bit.png     2048 x 1024, 30 frames a snippet, 17 Hz
gtFine/SPLIT/CITY/CITY_SSSSSS_FFFFFF_gtFine_labelIds.png               of the 20th frame of each snippet
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import listing, read_lines
from twospeed.data.benchmarks.label_files import read_indices
from twospeed.data.samples import LabelledFrame
from twospeed.errors import DatasetError, InputError
from twospeed.results import LabelMap

Split = Literal["train", "val", "test"]

OFFICIAL_FRAMES = {"train": 2975, "val": 500, "test": 1525}
"""Labelled frames of each split."""

LAST_LABEL_ID = 33

_IMAGE, _LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png"
_NAME = re.compile(r"(?P<sequence>[a-zA-Z-]+_\d{6})_(?P<number>\d{6})")

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


class Cityscapes:
    """The labelled frames of a split, by city and name: a map-style data set of `LabelledFrame`.

    root: the folder that holds `gtFine` and `leftImg8bit_sequence` (30 frames for each labelled one, at 17 Hz) or
    `leftImg8bit` (the labelled frames alone: nothing can be propagated then). split: "train", "val" or "test", whose
    images are listed without labels where there are none. list_file: a list as GSVNet's instead of all of the split,
    one "image label" a line, both relative to root.
    Raises DatasetError when folders, labels or images are missing, InputError for another split.
    """

    def __init__(self, root: Path | str, split: Split = "train", *, list_file: Path | None = None):
        if split not in get_args(Split):
            raise InputError(f"split {split!r} of Cityscapes; choose {', '.join(get_args(Split))}")
        self.root, self.split = Path(root), split
        self.frames = _find(self.root, split) if list_file is None else _listed(self.root, list_file)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.frames[index]

    def before(self, frame: LabelledFrame, count: int, step: int | None = None) -> tuple[LabelledFrame, ...] | None:
        """Return `count` frames before one and itself, `step` (1) frames apart, or None where images are missing."""
        found = [_earlier(frame, (step or 1) * back) for back in range(count, 0, -1)]
        return (*found, frame) if all(f.image_file.is_file() for f in found) else None


def _earlier(frame: LabelledFrame, back: int) -> LabelledFrame:
    # Numbers run on through long recordings: the snippet's are those around the label's own, six digits
    number = frame.number - back
    name = f"{frame.sequence}_{number:06d}"
    image = frame.image_file.with_name(frame.image_file.name.replace(frame.name, name, 1))
    return LabelledFrame(name, frame.sequence, number, image, None, frame.read_labels)


def _find(root: Path, split: str) -> tuple[LabelledFrame, ...]:
    folders = [root / kind / split for kind in ("leftImg8bit_sequence", "leftImg8bit")]
    if not any(folder.is_dir() for folder in folders):
        raise DatasetError(
            f"{root}: no images of split {split!r}; expected leftImg8bit_sequence/{split} or leftImg8bit/{split}"
        )
    images: dict[str, Path] = {}
    for folder in reversed(folders):  # those with neighbours win
        images |= {path.name.removesuffix(_IMAGE): path for path in sorted(folder.glob(f"*/*{_IMAGE}"))}
    labels = root / "gtFine" / split
    annotations = {path.name.removesuffix(_LABELS): path for path in sorted(labels.glob(f"*/*{_LABELS}"))}
    if not annotations and split != "test":
        raise DatasetError(f"{labels}: no labels; expected {labels.name}/CITY/CITY_SSSSSS_FFFFFF{_LABELS}")
    if missing := [name for name in annotations if name not in images]:
        raise DatasetError(f"{folders[0]}: no images for the labelled {listing(missing)}")
    names = list(annotations) or [path.name.removesuffix(_IMAGE) for path in sorted(folders[1].glob(f"*/*{_IMAGE}"))]
    if not names:
        raise DatasetError(f"{folders[1]}: no images of split {split!r}, which has no labels here")
    return tuple(_frame(name, images[name], annotations.get(name)) for name in names)


def _listed(root: Path, list_file: Path) -> tuple[LabelledFrame, ...]:
    frames = []
    for number, line in read_lines(list_file):
        files = [root / part for part in line.split()]
        if len(files) != 2:
            raise DatasetError(f"{list_file}:{number}: {line!r} is not an image and a label, relative to {root}")
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DatasetError(f"{list_file}:{number}: {missing[0]} does not exist; is {root} the data's root?")
        frames.append(_frame(files[0].name.removesuffix(_IMAGE), *files))
    return tuple(frames)


def _frame(name: str, image: Path, annotation: Path | None) -> LabelledFrame:
    found = _NAME.fullmatch(name)
    if found is None:
        raise DatasetError(f"{image}: not a name of Cityscapes; expected CITY_SSSSSS_FFFFFF{_IMAGE}")
    return LabelledFrame(name, found["sequence"], int(found["number"]), image, annotation, read_classes)


def read_classes(path: Path) -> NDArray[np.uint8]:
    """Read a file of label ids as classes 0..18 and void (255), uint8 (H, W).

    Files whose name says TrainIds hold classes already. Raises DatasetError for an unreadable file and for values that
    are no label.
    """
    values, _ = read_indices(path)
    most = len(_CLASSES) - 1 if "TrainIds" in path.name else LAST_LABEL_ID
    wrong = values[(values > most) & (values != VOID)]
    if len(wrong):
        kind = "classes" if most < LAST_LABEL_ID else "label ids"
        raise DatasetError(
            f"{path}: holds the value {int(wrong[0])}; Cityscapes has the {kind} 0 to {most}, 255 is void"
        )
    return values if most < LAST_LABEL_ID else classes_from_ids(values)
