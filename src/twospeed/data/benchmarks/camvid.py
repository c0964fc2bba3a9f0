"""CamVid (Brostow et al., 2009): classes in the grouping of eleven that SegNet introduced, and splits.

Four layouts are read, distinguished by their folders; NAME is SEQUENCE_FRAME, the frame's number at 30 Hz:

    SPLIT/images/NAME.*      SPLIT/labels/NAME.png        480 x 360, classes as values
    SPLIT/NAME.png           SPLITannot/NAME.png          the same in SegNet's tutorial
    701_StillsRaw_full/NAME.png   LabeledApproved_full/NAME_L.png    the release: 960 x 720, 32 colours
    frames/SEQUENCE/NAME.*   label_id/NAME_L.png          960 x 720, classes as values

In the last two, frames of the videos may lie beside the labelled ones; `camvid_frames` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import entries, files_by_stem, listing
from twospeed.data.benchmarks.label_files import read_indices
from twospeed.data.samples import LabelledFrame
from twospeed.errors import DatasetError, InputError
from twospeed.results import LabelMap
from twospeed.video.image_files import open_image

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

Split = Literal["train", "val", "test"]

FRAME_RATE = 30  # of the recordings; frame numbers count these frames

# The 32 labels of the release that belong to each class, by colour; every other colour of the release is void
_COLOURS_OF = (
    ((128, 128, 128),),  # sky
    ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),  # building, archway, bridge, tunnel, wall
    ((192, 192, 128), (0, 0, 64)),  # column or pole, traffic cone
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # road, replica markings to drive on and not
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # sidewalk, parking block, road shoulder
    ((128, 128, 0), (192, 192, 0)),  # tree, other vegetation
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # sign, text, traffic light
    ((64, 64, 128),),  # fence
    ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),  # car, pickup, truck, train, other
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # pedestrian, child, cart or pram, animal
    ((0, 128, 192), (192, 0, 192)),  # bicyclist, motorcycle
)
_VOID_COLOURS = ((0, 0, 0),)

# Where the splits lie in the recordings: first and last frame, both inclusive
_RANGES: dict[Split, tuple[tuple[str, int, int], ...]] = {
    "train": (("0001TP", 6690, 8520), ("0006R0", 930, 3930), ("0016E5", 390, 7920), ("0016E5", 8190, 8640)),
    "val": (("0016E5", 7959, 8159),),
    "test": (("0001TP", 8550, 10380), ("Seq05VD", 0, 5100)),
}
_IMAGES = (".jpg", ".jpeg", ".png")
_NAME = re.compile(r"(?P<sequence>[A-Za-z0-9]+)_f?(?P<number>\d+)(_L)?")


class CamVid:
    """The labelled frames of a split, in order of recording: a map-style data set of `LabelledFrame`.

    root: the data set in one of the layouts above. split: "train", "val" or "test". The full-size layouts hold no
    splits; they are cut as SegNet cut them (367, 101 and 233 frames). Whatever labelled frames of a split exist are
    taken.
    Raises DatasetError when folders, labels or images are missing, InputError for another split.
    """

    def __init__(self, root: Path | str, split: Split = "train"):
        if split not in get_args(Split):
            raise InputError(f"split {split!r} of CamVid; choose {', '.join(get_args(Split))}")
        self.root, self.split = Path(root), split
        self.frames, self.images = _find(self.root, split)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.frames[index]

    def before(self, frame: LabelledFrame, count: int, step: int | None = None) -> tuple[LabelledFrame, ...] | None:
        """Return `count` frames before one and itself, `step` frames of the recording apart, or None where some lack.

        Frames between the labelled ones count where the layout has them (`frames/SEQUENCE`). step: None takes the
        finest that the run has (1 if all frames of the video are there).
        """
        if step is None:
            step = next((n for n in range(1, FRAME_RATE + 1) if (frame.sequence, frame.number - n) in self.images), 1)
        numbers = [frame.number - step * back for back in range(count, -1, -1)]
        found = [self.images.get((frame.sequence, number)) for number in numbers]
        return tuple(f for f in found if f is not None) if all(found) else None


def _find(root: Path, split: Split) -> tuple[tuple[LabelledFrame, ...], dict[tuple[str, int], LabelledFrame]]:
    """Return a split's labelled frames, and every frame that has an image by recording and number."""
    own_split, read = True, read_classes
    if (root / split / "images").is_dir():
        image_folder, labels = root / split / "images", root / split / "labels"
    elif (root / f"{split}annot").is_dir():
        image_folder, labels = root / split, root / f"{split}annot"
    elif (root / "LabeledApproved_full").is_dir():
        image_folder, labels = root / "701_StillsRaw_full", root / "LabeledApproved_full"
        own_split, read = False, read_colours
    elif (root / "label_id").is_dir():
        image_folder, labels, own_split = root / "frames", root / "label_id", False
    else:
        raise DatasetError(
            f"{root}: no CamVid for split {split!r}; expected {split}/images, {split}annot, "
            "701_StillsRaw_full with LabeledApproved_full, or frames with label_id"
        )
    nested = not own_split and labels.name == "label_id" and image_folder.is_dir()
    folders = [p for p in entries(image_folder) if p.is_dir()] if nested else [image_folder]
    images: dict[tuple[str, int], Path] = {}
    for folder in folders or [image_folder]:
        images |= {place_of(path): path for path in files_by_stem(folder, _IMAGES).values()}
    annotations = {place_of(path): path for path in files_by_stem(labels, (".png",)).values()}
    if not own_split:
        annotations = {
            (sequence, number): path
            for (sequence, number), path in annotations.items()
            if any(sequence == name and first <= number <= last for name, first, last in _RANGES[split])
        }
        if not annotations:
            raise DatasetError(f"{labels}: no labels of split {split!r}; is the data set complete?")
    if missing := [annotations[place].name for place in sorted(annotations) if place not in images]:
        raise DatasetError(f"{image_folder}: no images for the labels {listing(missing)} of {labels}")
    if own_split and (bare := [images[place].name for place in sorted(images) if place not in annotations]):
        raise DatasetError(f"{labels}: no labels for the images {listing(bare)} of {image_folder}")
    frames = {
        place: LabelledFrame(path.stem, *place, image_file=path, annotation=annotations.get(place), read_labels=read)
        for place, path in sorted(images.items())
    }
    return tuple(frames[place] for place in sorted(annotations)), frames


def place_of(path: Path) -> tuple[str, int]:
    """Return sequence and frame number of an image or label file. Raises DatasetError for another name."""
    found = _NAME.fullmatch(path.stem)
    if found is None:
        raise DatasetError(f"{path}: not a name of CamVid; expected SEQUENCE_FRAME, such as 0016E5_07959")
    return found["sequence"], int(found["number"])


def read_classes(path: Path) -> NDArray[np.uint8]:
    """Read a label image whose values are classes, uint8 (H, W) of 0..11. Raises DatasetError for other values."""
    labels, _ = read_indices(path)
    if labels.size and int(labels.max()) > VOID:
        raise DatasetError(
            f"{path}: holds the value {int(labels.max())}; CamVid has classes 0 to {VOID - 1} and {VOID} for void"
        )
    return labels


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Read a label image in the release's 32 colours as classes, uint8 (H, W) of 0..11.

    Raises DatasetError for an unreadable image or a colour that is none of the 32.
    """
    with open_image(path, DatasetError) as image:
        colours = np.asarray(image.convert("RGB"), np.uint32)
    numbers = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    known = _numbers(colour for group in (*_COLOURS_OF, _VOID_COLOURS) for colour in group)
    classes = np.repeat(np.arange(VOID + 1, dtype=np.uint8), [len(group) for group in (*_COLOURS_OF, _VOID_COLOURS)])
    order = np.argsort(known)
    at = np.searchsorted(known[order], numbers).clip(max=len(known) - 1)
    wrong = known[order][at] != numbers
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        colour = tuple(int(v) for v in colours[row, column])
        raise DatasetError(f"{path}: the colour {colour} at row {row}, column {column} is none of CamVid's 32 labels")
    found: NDArray[np.uint8] = classes[order][at]
    return found


def _numbers(colours: Iterable[tuple[int, int, int]]) -> NDArray[np.uint32]:
    return np.array([red << 16 | green << 8 | blue for red, green, blue in colours], np.uint32)
