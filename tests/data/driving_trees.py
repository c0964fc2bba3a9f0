"""Tiny driving videos in the layouts of Cityscapes and CamVid: coloured columns that shift by some pixels a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from twospeed.data.benchmarks import camvid, cityscapes

COLUMN = 32  # pixels of one class


def classes_at(time: int, classes: tuple[int, ...], size: tuple[int, int], speed: int = 8) -> np.ndarray:
    """Classes of a frame, uint8 (H, W): columns of the given classes, moving left by `speed` pixels a frame."""
    columns = (np.arange(size[1]) + speed * time) // COLUMN % len(classes)
    return np.broadcast_to(np.array(classes, np.uint8)[columns], size).copy()


def image_of(labels: np.ndarray, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Paint every class in its own colour."""
    return np.array(colours, np.uint8)[labels]


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_cityscapes(
    root: Path,
    split: str = "val",
    *,
    names: tuple[str, ...] = ("ulm_000001_000019", "ulm_000002_000019", "bonn_000000_012345"),
    before: int = 3,
    size: tuple[int, int] = (64, 128),
    classes: tuple[int, ...] = (0, 2, 10, 13),
) -> Path:
    """Labelled frames, each with some frames before it, in the official layout."""
    for start, name in enumerate(names):
        city, sequence, number = name.split("_")
        for back in range(before + 1):
            labels = classes_at(start - back, classes, size)
            file = f"{city}_{sequence}_{int(number) - back:06d}_leftImg8bit.png"
            write(root / "leftImg8bit_sequence" / split / city / file, image_of(labels, cityscapes.CLASSES.colours))
        labels = classes_at(start, classes, size)
        labels[:4] = cityscapes.VOID
        write(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", cityscapes.ids_from_classes(labels))
    return root


def make_camvid(root: Path, split: str = "val", *, frames: int = 6, size: tuple[int, int] = (64, 128)) -> Path:
    """A run of labelled frames, every second one of 30 Hz."""
    for time in range(frames):
        labels = classes_at(time, (0, 1, 3, 8), size)
        name = f"0016E5_{7959 + 2 * time:05d}"
        write(root / split / "images" / f"{name}.png", image_of(labels, camvid.CLASSES.colours))
        labels[:4] = camvid.VOID
        write(root / split / "labels" / f"{name}.png", labels)
    return root
