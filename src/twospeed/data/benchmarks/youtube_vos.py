"""YouTube-VOS in its official layout: videos whose objects may appear at any frame.

    <root>/{train,valid}/meta.json                                  videos.<video>.objects.<id>: category,
    frames <root>/{train,valid}/Annotations/<video>/<frame>.png            valid: only where objects are first
    seen <root>/{train,valid}/JPEGImages/<video>/<frame>.jpg             every fifth frame
    <root>/all_frames/<split>_all_frames/JPEGImages/<video>/...     every frame, 30 a second

Source: Xu et al., "YouTube-VOS: A Large-Scale Video Object Segmentation Benchmark" (2018).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import files_by_stem, listing, subfolders
from twospeed.data.samples import SequenceSample, SequenceSet, VideoObject
from twospeed.errors import DatasetError
from twospeed.files import read_json

# Classes of the training videos: objects of these are "seen", all others "unseen".
# fmt: off
TRAINING_CATEGORIES = frozenset((
    "airplane", "ape", "bear", "bike", "bird", "boat", "bucket", "bus", "camel", "cat", "cow",
    "crocodile", "deer", "dog", "dolphin", "duck", "eagle", "earless_seal", "elephant", "fish", "fox",
    "frisbee", "frog", "giant_panda", "giraffe", "hand", "hat", "hedgehog", "horse", "knife", "leopard",
    "lion", "lizard", "monkey", "motorbike", "mouse", "others", "owl", "paddle", "parachute", "parrot",
    "penguin", "person", "plant", "rabbit", "raccoon", "sedan", "shark", "sheep", "sign", "skateboard",
    "snail", "snake", "snowboard", "squirrel", "surfboard", "tennis_racket", "tiger", "toilet", "train",
    "truck", "turtle", "umbrella", "whale", "zebra",
))
# fmt: on


class YouTubeVos(SequenceSet):
    """The videos of one YouTube-VOS split, as `SequenceSample`s in the order of `meta.json`.

    root: folder that holds `valid` (or that folder itself). sequences: take only these videos. images:
    whether frames are needed. every_frame: whether all frames at 30 a second were found; where not, only
    every fifth is there. seen_categories: classes of the training set, from `train/meta.json` where it lies
    beside. official: how many videos `meta.json` lists.

    Raises DatasetError when a folder, the list, a video, a frame or a mask is missing.
    """

    def __init__(
        self, root: Path | str, split: str = "valid", sequences: Sequence[str] | None = None, *, images: bool = True
    ):
        root = Path(root)
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder; give the one that holds {split}/meta.json")
        self.root = next((p for p in (root / split, root) if (p / "meta.json").is_file()), None) or root
        if not (self.root / "meta.json").is_file():
            raise DatasetError(
                f"{root}: found neither {split}/meta.json nor meta.json; it holds {listing(subfolders(root))}"
            )
        self.images = images
        self._videos = _read_meta(self.root / "meta.json")
        self.names = tuple(sequences) if sequences is not None else tuple(self._videos)
        if unknown := [name for name in self.names if name not in self._videos]:
            raise DatasetError(
                f"{self.root / 'meta.json'}: does not list {listing(unknown)}; it lists {listing(tuple(self._videos))}"
            )
        self.official = len(self._videos)
        folder = f"{split}_all_frames"
        places = (self.root.parent / "all_frames" / folder, self.root.parent / folder, self.root / folder)
        every = next((place / "JPEGImages" for place in places if (place / "JPEGImages").is_dir()), None)
        self._images, self.every_frame = every or self.root / "JPEGImages", every is not None
        training = self.root.parent / "train" / "meta.json"
        self.seen_categories = (
            frozenset(o.category for objects in _read_meta(training).values() for o in objects.values())
            if training.is_file()
            else TRAINING_CATEGORIES
        )

    def sequence(self, name: str) -> SequenceSample:
        """Return one video, its files listed and checked but not read."""
        objects = self._videos[name]
        annotations = files_by_stem(self.root / "Annotations" / name, (".png",))
        images = files_by_stem(self._images / name, (".jpg", ".jpeg", ".png")) if self.images else {}
        listed = {frame for o in objects.values() for frame in o.frames}
        if images and (missing := sorted((listed | set(annotations)) - set(images))):
            raise DatasetError(
                f"{self._images / name}: no image of {listing(missing)}, which meta.json or a mask names"
            )
        frames = tuple(images) if images else tuple(sorted(listed | set(annotations)))
        return SequenceSample(name, frames, images, annotations, objects=objects)


def required_frames(sample: SequenceSample) -> frozenset[str]:
    """Return the frames whose masks the benchmark asks for: those that `meta.json` lists for any object."""
    return frozenset(frame for o in sample.objects.values() for frame in o.frames)


def first_masks(sample: SequenceSample) -> dict[str, NDArray[np.uint8]]:
    """Read the masks that are given to a tracker: each object's first one, nothing else.

    Returns uint8 (H, W) by frame, in time order; objects that were given before are left out (0).
    Raises DatasetError when an object of the list has no mask in any file.
    """
    wanted = set(sample.objects)
    given: dict[str, NDArray[np.uint8]] = {}
    for frame in sample.frames:
        if not wanted:
            break
        if frame not in sample.annotations:
            continue
        labels = sample.labels(frame)
        new = wanted & {int(label) for label in np.unique(labels)}
        if new:
            given[frame] = np.where(np.isin(labels, sorted(new)), labels, np.uint8(0))
            wanted -= new
    if wanted:
        raise DatasetError(
            f"{sample.name}: object {listing([str(label) for label in sorted(wanted)])} of meta.json has no mask "
            f"in the {len(sample.annotations)} files of Annotations/{sample.name}"
        )
    return given


def _read_meta(path: Path) -> dict[str, dict[int, VideoObject]]:
    """Read videos and their objects by label. Raises DatasetError, naming the entry that is not as it should be."""
    try:
        videos = read_json(path, DatasetError)["videos"]
        found = {name: _read_objects(path, name, entry["objects"]) for name, entry in videos.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not a YouTube-VOS list (videos.<video>.objects.<id>)") from error
    if not found:
        raise DatasetError(f"{path}: lists no videos")
    return found


def _read_objects(path: Path, video: str, entries: Mapping[str, Any]) -> dict[int, VideoObject]:
    objects = {}
    for label, entry in entries.items():
        if not re.fullmatch(r"[0-9]{1,3}", label) or not 0 < int(label) < 255:
            raise DatasetError(f"{path}: {video}: object id {label!r} is not a number from 1 to 254")
        frames = entry.get("frames")
        if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
            raise DatasetError(f"{path}: {video}: object {label} has no list of frames' names")
        objects[int(label)] = VideoObject(int(label), entry.get("category", ""), tuple(sorted(frames)))
    if not objects:
        raise DatasetError(f"{path}: {video}: lists no objects")
    return objects
