"""Still images with a mask of one object each, as STCN's static pretraining takes them.

Layouts, below one folder; each set may also lie as the authors of STCN keep it (images and masks side by side):

    fss/<class>/1.jpg, 1.png                            FSS-1000 (also fewshot_data)
    DUTS-TR/DUTS-TR-Image/x.jpg, DUTS-TR-Mask/x.png     DUTS, training; DUTS-TE the same
    ecssd/images/0001.jpg, ground_truth_mask/0001.png   ECSSD (also ECSSD)
    BIG_small or BIG/val/x_im.jpg, x_gt.png             BIG, val and test
    HRSOD_small or HRSOD/HRSOD_train/x.jpg, HRSOD_train_mask/x.png     HRSOD, train and test
    davis/JPEGImages/480p/<sequence>/00000.jpg          frames of DAVIS, taken as stills (not the authors')

    python -m twospeed.data.benchmarks.stills STATIC/BIG STATIC/BIG_small     once: reduces large images to 512 pixels

Sources: Cheng 2021, supplement; Li 2020 (FSS-1000), Wang 2017 (DUTS), Shi 2016 (ECSSD), Cheng 2020 (BIG), Zeng 2019
(HRSOD).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.benchmarks.folders import entries, find_resolution, listing, subfolders
from twospeed.data.benchmarks.label_files import read_foreground
from twospeed.errors import DatasetError
from twospeed.files import atomic_file, make_folder
from twospeed.video.folders import read_image

LONGER_EDGE = 512
"""Pixels to which larger images of BIG and HRSOD are reduced (Cheng 2021, supplement)."""

_HERE = ((".", "."),)  # images and masks side by side


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a set lies: names of its folder, pairs of (images, masks) below it; and how often it is seen."""

    folders: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    repeats: int = 1
    by_folder: bool = False  # a folder for each class or sequence below those of `pairs`


LAYOUTS = {
    "fss": _Layout(("fss", "fewshot_data", "FSS-1000"), _HERE, by_folder=True),
    "duts-tr": _Layout(("DUTS-TR",), (*_HERE, ("DUTS-TR-Image", "DUTS-TR-Mask"))),
    "duts-te": _Layout(("DUTS-TE",), (*_HERE, ("DUTS-TE-Image", "DUTS-TE-Mask"))),
    "ecssd": _Layout(("ecssd", "ECSSD"), (*_HERE, ("images", "ground_truth_mask"))),
    "big": _Layout(("BIG_small", "BIG"), (*_HERE, ("val", "val"), ("test", "test")), repeats=5),
    "hrsod": _Layout(
        ("HRSOD_small", "HRSOD"),
        (*_HERE, ("HRSOD_train", "HRSOD_train_mask"), ("HRSOD_test", "HRSOD_test_mask")),
        repeats=5,
    ),
    "davis": _Layout(("davis", "DAVIS"), (("JPEGImages", "Annotations"),), by_folder=True),
}
"""The sets by name, with how often each is seen in an epoch."""


@dataclass(frozen=True, slots=True)
class StaticPair:
    """One image and its mask, as files, and the set that they are of."""

    image: Path
    mask: Path
    source: str

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the image, uint8 RGB (H, W, 3), and its foreground, uint8 (H, W) of 0 and 255.

        Images of BIG and HRSOD are reduced to a longer edge of 512 pixels. Raises DatasetError when the sizes differ,
        VideoError when the image cannot be decoded.
        """
        image, mask = read_image(self.image), read_foreground(self.mask) * np.uint8(255)
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"{self.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, its image is "
                f"{image.shape[1]}x{image.shape[0]}; masks must have their image's size"
            )
        return (reduced(image), reduced(mask)) if LAYOUTS[self.source].repeats > 1 else (image, mask)


def reduced(image: NDArray[np.uint8], longer: int = LONGER_EDGE) -> NDArray[np.uint8]:
    """Return an image (H, W) or (H, W, 3) whose longer edge is at most `longer` pixels, averaged over areas."""
    height, width = image.shape[:2]
    scale = longer / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def find_pairs(root: Path, sets: Sequence[str] = (), *, sequences: Sequence[str] = ()) -> dict[str, list[StaticPair]]:
    """Return the pairs of each set below `root`, in order of their files' names.

    sets: names of `LAYOUTS`; none given: those that are there (of the authors' six). sequences: of davis, only these.
    A folder that is itself one of DAVIS serves as `davis`. Raises DatasetError when a set is missing, empty, or has a
    image without a mask.
    """
    if unknown := [name for name in sets if name not in LAYOUTS]:
        raise DatasetError(f"no static set {listing(unknown)}; there are {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the one that holds {', '.join(LAYOUTS)}")
    found, held = {}, listing(subfolders(root))
    for name in sets or LAYOUTS:
        layout = LAYOUTS[name]
        folder = next((root / f for f in layout.folders if (root / f).is_dir()), None)
        if folder is None and name == "davis" and (root / layout.pairs[0][0]).is_dir():
            folder = root
        if folder is None and sets:
            raise DatasetError(f"{root}: has no folder {' or '.join(layout.folders)}; it holds {held}")
        if folder is not None and (sets or name != "davis" or folder == root):
            found[name] = _pairs_of(name, layout, folder, sequences if name == "davis" else ())
    if not found:
        raise DatasetError(f"{root}: holds none of the sets {', '.join(LAYOUTS)}; it holds {held}")
    return found


def _pairs_of(name: str, layout: _Layout, folder: Path, only: Sequence[str]) -> list[StaticPair]:
    pairs: list[StaticPair] = []
    places = [(folder / i, folder / m) for i, m in layout.pairs if (folder / i).is_dir() and (folder / m).is_dir()]
    if name == "davis":  # one folder further down, named for the frames' size
        places = [(i / size, m / size) for i, m in places if (size := find_resolution(m))]
    if layout.by_folder:
        wanted = only or None
        if missing := [f for f in only if not all((images / f).is_dir() for images, _ in places)]:
            raise DatasetError(f"{folder}: has no folder for {listing(missing)}")
        places = [(i / f, m / f) for i, m in places for f in wanted or subfolders(i)]
    for images, masks in places:
        if not masks.is_dir():
            raise DatasetError(f"{images}: has no folder of masks {masks}")
        marks = {p.stem.removesuffix("_gt"): p for p in entries(masks) if p.suffix.lower() == ".png"}
        image_files = [p for p in entries(images) if p.suffix.lower() in (".jpg", ".jpeg") and p.name[0] != "."]
        if bare := [p.name for p in image_files if p.stem.removesuffix("_im") not in marks]:
            raise DatasetError(f"{images}: no mask .png in {masks} for {listing(bare)}")
        pairs += [StaticPair(p, marks[p.stem.removesuffix("_im")], name) for p in image_files]
    if not pairs:
        looked = ", ".join(f"{i} with {m}" for i, m in layout.pairs)
        raise DatasetError(f"{folder}: holds no pair of image (.jpg) and mask (.png); looked in {looked}")
    return pairs


def write_reduced(source: Path, target: Path, longer: int = LONGER_EDGE) -> int:
    """Copy a folder of images and masks with longer edges of at most `longer` pixels; returns how many files.

    Images become JPEG, masks PNG; files that are there already are left. Raises OutputError; DatasetError and
    VideoError for files that cannot be read.
    """
    count = 0
    for path in _images(source):
        to = target / path.relative_to(source)
        if to.exists():
            continue
        is_mask = path.suffix.lower() == ".png"
        small = reduced(read_foreground(path) * np.uint8(255) if is_mask else read_image(path), longer)
        make_folder(to.parent)
        with atomic_file(to) as temporary:
            Image.fromarray(small).save(temporary, quality=95)
        count += 1
    return count


def _images(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder")
    return (p for p in sorted(source.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def main() -> None:
    """Reduce a folder from the command line."""
    parser = argparse.ArgumentParser(description="Copy images and masks with their longer edge reduced.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--longer", type=int, default=LONGER_EDGE, help="pixels of the longer edge")
    chosen = parser.parse_args()
    print(f"{chosen.target}: {write_reduced(chosen.source, chosen.target, chosen.longer)} files")


if __name__ == "__main__":
    main()
