"""DAVIS 2016 and 2017 in their official layouts: sequences of frames with a mask for each.

    <root>/JPEGImages/480p/<sequence>/00000.jpg
    <root>/Annotations/480p/<sequence>/00000.png                  (2016: 0/255 grey; 2017: palette, index =
    object) <root>/Annotations_unsupervised/480p/<sequence>/00000.png     (2017, unsupervised task; 255 =
    void) <root>/ImageSets/{480p,2016,2017,2019}/<split>.txt            (which sequences)

Sources: Perazzi et al. 2016; Pont-Tuset et al. 2017; Caelles et al. 2019 (unsupervised task).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from twospeed.data.benchmarks.folders import (
    check_no_gaps,
    files_by_stem,
    find_resolution,
    listing,
    read_lines,
    subfolders,
)
from twospeed.data.samples import SequenceSample, SequenceSet
from twospeed.errors import DatasetError

Year = Literal[2016, 2017]
Task = Literal["semi-supervised", "unsupervised"]

# Validation sequences, so that a report states how much of the set a folder without lists holds.
# fmt: off
VAL_2016 = (
    "blackswan", "bmx-trees", "breakdance", "camel", "car-roundabout", "car-shadow", "cows",
    "dance-twirl", "dog", "drift-chicane", "drift-straight", "goat", "horsejump-high", "kite-surf", "libby",
    "motocross-jump", "paragliding-launch", "parkour", "scooter-black", "soapbox",
)
VAL_2017 = (
    *VAL_2016,
    "bike-packing", "dogs-jump", "gold-fish", "india", "judo", "lab-coat", "loading", "mbike-trick",
    "pigs", "shooting",
)
# fmt: on


class Davis(SequenceSet):
    """The sequences of one DAVIS split, as `SequenceSample`s in the order of its list.

    root: folder that holds `Annotations` (or its parent in the authors' tree: `2016`, `2017/trainval`,
    `2017/test-dev`). split: name of a list in `ImageSets`. sequences: take only these, whatever the lists
    say; a folder without `ImageSets` needs none and gives all it has. images: whether frames are needed
    (scoring files needs annotations only). resolution: name of the folder of frames, 480p or the largest that there
    is. official: how many sequences the split has, None when that is not known.

    Raises DatasetError when a folder, a list, a sequence, a frame or an annotation is missing, saying what
    was looked for and what is there.
    """

    def __init__(
        self,
        root: Path | str,
        year: Year = 2017,
        split: str = "val",
        task: Task = "semi-supervised",
        sequences: Sequence[str] | None = None,
        *,
        images: bool = True,
    ):
        self.year, self.split, self.task, self.images = year, split, task, images
        unsupervised = year == 2017 and task == "unsupervised"
        kind = "Annotations_unsupervised" if unsupervised else "Annotations"
        self.root, resolution = _find_root(Path(root), year, split, kind)
        self.resolution = resolution
        self._annotations = self.root / kind / resolution
        self._images = self.root / "JPEGImages" / resolution
        if images and not self._images.is_dir():
            raise DatasetError(f"{self._images}: no such folder; frames are needed to run a model on DAVIS")
        self.list_file = _find_list(self.root, year, split, task, resolution, needed=sequences is None)
        listed = _read_list(self.list_file) if self.list_file else None
        present = subfolders(self._annotations)
        self.names = tuple(sequences) if sequences is not None else tuple(listed or present)
        if not self.names:
            raise DatasetError(f"{self._annotations}: holds no sequence folder")
        missing = [name for name in self.names if name not in present]
        if missing:
            raise DatasetError(
                f"{self._annotations}: has no folder for {listing(missing)}; it holds {listing(present)}"
                + ("" if sequences else f" (the list is {self.list_file}; choose some by name)"),
                option="sequences",
            )
        known = VAL_2016 if year == 2016 else VAL_2017
        is_val = split == "val" and set(self.names) <= set(known)
        self.official = len(listed) if listed else len(known) if is_val else None

    def sequence(self, name: str) -> SequenceSample:
        """Return one sequence, its files listed and checked but not read."""
        annotations = files_by_stem(self._annotations / name, (".png",))
        # Where frames lie, they also show which annotations are missing; only a model needs them.
        wanted = self.images or (self._images / name).is_dir()
        images = files_by_stem(self._images / name, (".jpg", ".jpeg", ".png")) if wanted else {}
        frames = tuple(images or annotations)
        check_no_gaps(self._images / name if images else self._annotations / name, frames)
        if frames[0] not in annotations:
            raise DatasetError(f"{self._annotations / name}: no mask of the first frame, {frames[0]}.png")
        if images and (strangers := [frame for frame in annotations if frame not in images]):
            raise DatasetError(f"{self._images / name}: no image for the annotated {listing(strangers)}")
        return SequenceSample(name, frames, images, annotations, foreground=self.year == 2016)


def _find_root(root: Path, year: Year, split: str, kind: str) -> tuple[Path, str]:
    """Return the folder that holds the masks, `root` or the place below it in the authors' tree, and their size."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the one that holds Annotations/480p")
    below = "2016" if year == 2016 else f"2017/{'trainval' if split in ('train', 'val') else split}"
    candidates = (root, root / below, root / Path(below).name)
    for candidate in candidates:
        if found := find_resolution(candidate / kind):
            return candidate, found
    raise DatasetError(f"{root}: found no {kind}/480p there or in its {below}; it holds {listing(subfolders(root))}")


def _find_list(root: Path, year: Year, split: str, task: Task, resolution: str, *, needed: bool) -> Path | None:
    """Return the file that lists a split; None without `ImageSets`, or when it is missing and not needed."""
    sets = root / "ImageSets"
    if not sets.is_dir():
        return None
    if year == 2016:
        folders = list(dict.fromkeys((resolution, "480p", "2016")))
    else:  # the unsupervised test sets came in 2019
        folders = ["2019" if task == "unsupervised" and split.startswith("test") else "2017"]
    for folder in folders:
        if (sets / folder / f"{split}.txt").is_file():
            return sets / folder / f"{split}.txt"
    if not needed:
        return None
    looked_for = " or ".join(f"{folder}/{split}.txt" for folder in folders)
    found = sorted(str(path.relative_to(sets)) for path in sets.rglob("*.txt"))
    raise DatasetError(f"{sets}: no list {looked_for}; it holds {listing(found)}")


def _read_list(path: Path) -> tuple[str, ...]:
    """Read sequence names: one a line, or (DAVIS-2016) one "/JPEGImages/480p/x/0.jpg mask" pair a frame."""
    names: dict[str, None] = {}
    for number, line in read_lines(path):
        parts = line.split()[0].strip("/").split("/")
        if len(parts) == 1:
            names[parts[0]] = None
        elif len(parts) >= 3:
            names[parts[-2]] = None
        else:
            raise DatasetError(f"{path}:{number}: {line!r} is neither a name nor a pair of files")
    return tuple(names)
