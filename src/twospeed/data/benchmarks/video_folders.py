"""Annotated videos as folders of frames and masks: YouTube-VOS's training part, BL30K, and sets of your own.

    <root>/JPEGImages/<video>/00000.jpg, <root>/Annotations/<video>/00000.png
    <youtube>/train_480p or train                                   every fifth frame annotated
    <BL30K>: some 30,000 rendered videos of 160 frames with exact masks, about 700 GB from six archives

Sources: Xu 2018 (YouTube-VOS); Cheng, Tai and Tang, "Modular Interactive Video Object Segmentation", CVPR 2021 (BL30K).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twospeed.data.benchmarks.folders import files_by_stem, listing, read_lines, subfolders
from twospeed.data.samples import SequenceSample, SequenceSet
from twospeed.errors import DatasetError


class VideoFolders(SequenceSet):
    """The videos below one folder, as `SequenceSample`s.

    names: only these. Raises DatasetError for missing folders and names.
    """

    def __init__(self, root: Path | str, names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        for needed in (self.root / "JPEGImages", self.root / "Annotations"):
            if not needed.is_dir():
                raise DatasetError(f"{needed}: no such folder; {self.root} holds {_held(self.root)}")
        present = subfolders(self.root / "Annotations")
        self.names = present if names is None else tuple(names)
        if missing := sorted(set(self.names) - set(present)):
            raise DatasetError(f"{self.root / 'Annotations'}: has no folder for {listing(missing)}")

    def sequence(self, name: str) -> SequenceSample:
        """Return one video. Raises DatasetError when a mask has no image, or its folders are missing or empty."""
        masks = files_by_stem(self.root / "Annotations" / name, (".png",))
        images = files_by_stem(self.root / "JPEGImages" / name, (".jpg", ".jpeg", ".png"))
        if bare := [mask for mask in masks if mask not in images]:
            raise DatasetError(f"{self.root / 'JPEGImages' / name}: no image for the masks {listing(bare)}")
        return SequenceSample(name, tuple(images), images, masks)


def youtube_vos_training(root: Path | str, *, subset: Path | None = None) -> VideoFolders:
    """Return YouTube-VOS's training videos, from `train_480p` where frames were scaled before, else `train`.

    subset: a file with one video name a line; the authors of STCN left a few badly annotated ones of the 3,471 out.
    """
    root = Path(root)
    folder = next((p for p in (root / "train_480p", root / "train", root) if (p / "Annotations").is_dir()), None)
    if folder is None:
        raise DatasetError(f"{root}: found neither train_480p nor train with Annotations; it holds {_held(root)}")
    return VideoFolders(folder, read_names(subset))


def read_names(path: Path | None) -> list[str] | None:
    """Read a file of names, one a line; None for no file. Raises DatasetError."""
    return None if path is None else [line for _, line in read_lines(path)]


def _held(folder: Path) -> str:
    return listing(subfolders(folder)) if folder.is_dir() else "nothing: there is no such folder"
