"""The mix of annotated videos that STCN's main training draws its triplets from: DAVIS and YouTube-VOS, or BL30K.

    <davis>/JPEGImages/480p/<sequence>/00000.jpg, Annotations/480p/...     as `data.davis` reads it; five times an epoch
    <youtube>/train_480p or train/JPEGImages/<video>/00000.jpg, Annotations/<video>/00000.png    every fifth frame

Sources: Cheng 2021, section 4 and supplement; STM (Oh 2019) for the growing gaps. Where the paper and the authors'
code differ, the code's way is the default, since the released weights come from it, and the paper's is an option.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.davis import Davis, Year
from twospeed.data.benchmarks.folders import files_by_stem, listing, subfolders
from twospeed.data.benchmarks.label_files import VOID, read_foreground, read_label_file
from twospeed.data.clips.stills import FILL
from twospeed.data.clips.triplets import triplet_indices
from twospeed.data.samples import Triplet
from twospeed.errors import DatasetError, InputError
from twospeed.transforms.colour import draw_colour
from twospeed.transforms.spatial import draw_affine
from twospeed.transforms.warp import Warp, compose, crop_matrix, cut_box, cut_labels, draw_resized_crop
from twospeed.video.folders import read_image

Labels = NDArray[np.uint8]
FrameChoice = Literal["code", "paper"]
ObjectRule = Callable[[Labels], list[int]]
"""Which objects may be followed, given the labels of the three frames (3, H, W)."""

GAPS = (5, 10, 15, 20, 25, 5)
"""Largest distance between neighbouring frames, from one border of the curriculum to the next."""

BORDERS = (0.1, 0.2, 0.3, 0.4, 0.9)
"""Borders of the main training, as shares of the epochs."""

RETRIES = 5


def max_gap(epoch: int, epochs: int, borders: Sequence[float] = BORDERS, gaps: Sequence[int] = GAPS) -> int:
    """Return the largest distance between neighbouring frames in an epoch (counted from 0); it changes between epochs.

    Raises InputError where there is not one gap more than borders.
    """
    if len(gaps) != len(borders) + 1:
        raise InputError(f"{len(gaps)} gaps for {len(borders)} borders; give one gap more than borders")
    return gaps[sum(epoch >= round(epochs * border) for border in borders)]


def choose_frames(
    rng: np.random.Generator, frames: int, gap: int, choice: FrameChoice = "code"
) -> tuple[int, int, int]:
    """Draw three frame indices, in time order or, half of the time, reversed.

    choice: "code": neighbours are 0 to gap + 1 apart, since the authors add 1 to a draw of 0..gap and cap the sum at
    the end of the video, so that a short one may give the same frame twice. "paper": 1 to gap apart. A video shorter
    than that limits the gap. Raises InputError for fewer than three frames.
    """
    if choice == "paper":
        return triplet_indices(rng, frames, gap)
    if frames < 3:
        raise InputError(f"a video of {frames} frames has no triplet: give at least 3")
    jump = min(frames, gap)
    first = int(rng.integers(frames - jump + 1))
    second = min(first + int(rng.integers(jump + 1)) + 1, frames - jump, frames - 1)
    third = min(second + int(rng.integers(jump + 1)) + 1, frames - jump // 2, frames - 1)
    indices = (first, second, third)
    return indices[::-1] if rng.random() < 0.5 else indices


def any_object(labels: Labels) -> list[int]:
    """Return the objects of the first frame, void left out."""
    return [int(k) for k in np.unique(labels[0]) if k not in (0, VOID)]


@dataclass(frozen=True, slots=True)
class TrainingVideo:
    """One annotated video: folders of its frames and masks. Its files are listed when it is drawn, not kept."""

    name: str
    images: Path
    annotations: Path
    foreground: bool = False  # all that is not black is one object (DAVIS-2016)

    def files(self) -> list[tuple[Path, Path]]:
        """Return (image, mask) of every annotated frame, in order of name.

        Raises DatasetError when a mask has no image, or the folders are missing or empty.
        """
        masks = files_by_stem(self.annotations, (".png",))
        images = files_by_stem(self.images, (".jpg", ".jpeg", ".png"))
        if bare := [name for name in masks if name not in images]:
            raise DatasetError(f"{self.images}: no image for the masks {listing(bare)}")
        return [(images[name], mask) for name, mask in masks.items()]

    def labels(self, path: Path) -> Labels:
        """Read one mask, uint8 (H, W)."""
        return read_foreground(path) if self.foreground else read_label_file(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSource:
    """Videos of one set, and how they are drawn from.

    repeats: how often each video is drawn from in an epoch. gap_divisor: what the curriculum's gap is divided by (5
    where every fifth frame is annotated). area: smallest and largest share of the frame in the crop. objects: which may
    be followed.
    """

    name: str
    videos: tuple[TrainingVideo, ...]
    repeats: int = 1
    gap_divisor: int = 1
    area: tuple[float, float] = (0.36, 1.0)
    objects: ObjectRule = any_object


def davis_source(
    root: Path,
    *,
    year: Year = 2017,
    split: str = "train",
    sequences: Sequence[str] | None = None,
    repeats: int = 5,
) -> VideoSource:
    """Return the training sequences of DAVIS (2017: 60 of them), each five times an epoch.

    sequences: only these; needed for a folder without lists. Raises DatasetError as `Davis`.
    """
    data = Davis(root, year, split, sequences=sequences)
    images, masks = data.root / "JPEGImages" / "480p", data.root / "Annotations" / "480p"
    videos = [TrainingVideo(n, images / n, masks / n, foreground=year == 2016) for n in data.names]
    return VideoSource(name=f"davis{year % 100}", videos=long_enough(videos), repeats=repeats)


def youtube_vos_source(root: Path, *, subset: Path | None = None) -> VideoSource:
    """Return YouTube-VOS's training videos, from `train_480p` where frames were scaled before, else `train`.

    subset: a file with one video name a line; the authors left a few badly annotated ones of the 3,471 out.
    """
    folder = next((p for p in (root / "train_480p", root / "train", root) if (p / "Annotations").is_dir()), None)
    if folder is None:
        raise DatasetError(f"{root}: found neither train_480p nor train with Annotations; it holds {_held(root)}")
    return VideoSource(name="youtube-vos", videos=folder_videos(folder, subset), gap_divisor=5)


def folder_videos(folder: Path, subset: Path | None = None) -> tuple[TrainingVideo, ...]:
    """Return the videos of `folder/{JPEGImages,Annotations}/<video>`, or those that the file `subset` names.

    Videos with fewer than three masks are left out. Raises DatasetError for missing folders and unknown names.
    """
    images, masks = folder / "JPEGImages", folder / "Annotations"
    for needed in (images, masks):
        if not needed.is_dir():
            raise DatasetError(f"{needed}: no such folder; it holds {_held(folder)}")
    present = subfolders(masks)
    names = present
    if subset is not None:
        try:
            names = tuple(line.strip() for line in subset.read_text().splitlines() if line.strip())
        except OSError as error:
            raise DatasetError(f"{subset}: cannot be read ({error.strerror})") from error
        if missing := sorted(set(names) - set(present)):
            raise DatasetError(f"{masks}: has no folder for {listing(missing)}, which {subset} names")
    return long_enough([TrainingVideo(n, images / n, masks / n) for n in names])


def long_enough(videos: Sequence[TrainingVideo]) -> tuple[TrainingVideo, ...]:
    """Return the videos of three masks or more. Raises DatasetError when none is left."""
    kept = tuple(v for v in videos if sum(path.suffix == ".png" for path in v.annotations.iterdir()) >= 3)
    if not kept:
        where = videos[0].annotations.parent if videos else "the set"
        raise DatasetError(f"{where}: none of the {len(videos)} videos has three masks, which a triplet needs")
    return kept


def _held(folder: Path) -> str:
    return listing(subfolders(folder)) if folder.is_dir() else "nothing: there is no such folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMotion:
    """How the frames of a triplet are changed; the defaults are the supplement's numbers.

    aspect: of the crop, width / height: 3/4..4/3 in the authors' code, 0.75..1.25 in the paper. jitter: brightness,
    contrast and saturation, one draw for the three frames; own_jitter: one for each. degrees, shear: of each frame.
    """

    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float] = (0.1, 0.03, 0.03)
    grey: float = 0.05
    degrees: float = 15.0
    shear: float = 10.0
    own_jitter: tuple[float, float, float] = (0.01, 0.01, 0.01)


class VideoMix:
    """Triplets of annotated videos: sample (epoch, index) is a pure function of both and the seed.

    sources: the sets of the mix. gap: largest distance between neighbouring frames in an epoch. size: side of the crop.
    At most two objects: one of the first frame's at random, and another one where there is one. When the first
    frame shows none after five draws, the sample has an empty mask and nothing to follow (as the authors' code).
    """

    def __init__(
        self,
        sources: Sequence[VideoSource],
        gap: Callable[[int], int],
        *,
        size: int = 384,
        seed: int = 0,
        choice: FrameChoice = "code",
        motion: FrameMotion | None = None,
    ):
        self.items = [(source, video) for source in sources for video in source.videos * source.repeats]
        if not self.items:
            raise InputError("no videos to draw from: give DAVIS, YouTube-VOS or BL30K")
        self.gap, self.size, self.seed, self.choice = gap, size, seed, choice
        self.motion = motion or FrameMotion()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Triplet:
        """Return sample (epoch, index). Raises DatasetError and VideoError for files that cannot be read."""
        epoch, index = key
        source, video = self.items[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        gap = max(1, self.gap(epoch) // source.gap_divisor)
        files = video.files()
        for _ in range(RETRIES):
            indices = choose_frames(rng, len(files), gap, self.choice)
            maps = [video.labels(files[i][1]) for i in indices]
            draw = _draw_motion(rng, maps[0].shape, self.size, source.area, self.motion)
            labels = np.stack([draw.labels(map_, t) for t, map_ in enumerate(maps)])
            if ids := source.objects(labels):
                break
        # The image of a frame is read once its labels are found fit: decoding it is most of the work
        frames = np.stack([draw.image(read_image(files[i][0]), t, maps[t].shape) for t, i in enumerate(indices)])
        followed = [int(k) for k in rng.permutation(ids)[:2]]
        table = np.zeros(256, np.uint8)
        table[followed] = np.arange(1, len(followed) + 1)
        labels = table[labels]
        objects = max(1, len(followed))
        masks = np.stack([(labels[0] == k) * np.uint8(255) for k in range(1, objects + 1)])
        return Triplet(frames, labels, masks, objects, gap)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """What one triplet's frames go through: one crop and one change of colours, then a warp and a colour each."""

    box: tuple[int, int, int, int]
    size: int
    colours: tuple[Callable[[Labels], Labels], ...]  # shared, then each frame's
    warps: tuple[Warp, ...]

    def labels(self, labels: Labels, t: int) -> Labels:
        return self.warps[t].labels(cut_labels(labels, self.box, self.size))

    def image(self, image: NDArray[np.uint8], t: int, labelled: tuple[int, ...]) -> NDArray[np.uint8]:
        if image.shape[:2] != labelled:
            raise DatasetError(
                f"a frame is {image.shape[1]}x{image.shape[0]} pixels, its mask {labelled[1]}x{labelled[0]}; "
                "masks must have their frame's size"
            )
        piece = self.colours[0](cut_box(image, self.box, self.size))
        return self.colours[t + 1](self.warps[t].image(piece, fill=FILL))


def _draw_motion(
    rng: np.random.Generator, shape: tuple[int, ...], size: int, area: tuple[float, float], motion: FrameMotion
) -> _Drawn:
    box = draw_resized_crop(rng, shape[0], shape[1], area=area, aspect=motion.aspect)
    flip = crop_matrix(0, 0, size, size, (size, size), flip=bool(rng.random() < motion.flip))
    b, c, s = motion.jitter
    colours = [draw_colour(rng, brightness=b, contrast=c, saturation=s, grey_probability=motion.grey)]
    warps = []
    for _ in range(3):
        turn = draw_affine(rng, size, size, degrees=motion.degrees, shear_degrees=motion.shear)
        warps.append(Warp(compose(np.array(turn.matrix), flip), size, size))
        b, c, s = motion.own_jitter
        colours.append(draw_colour(rng, brightness=b, contrast=c, saturation=s))
    return _Drawn(box, size, tuple(colour.image for colour in colours), tuple(warps))
