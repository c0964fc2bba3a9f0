"""Clips of annotated videos, as STCN's main training draws them: three frames, a view of them, small changes of each.

Sources: Cheng 2021, supplement, sections F.3.2 to F.4; STM (Oh 2019) for the growing gaps. Where the paper and
the authors' code differ, the code's way is the default, since the released weights come from it, and the paper's is an
option.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.clips.layers import place_layer
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import TrainingClip, following, visible
from twospeed.data.samples import SequenceSample, SequenceSet
from twospeed.errors import DatasetError, InputError
from twospeed.files import atomic_file, make_folder
from twospeed.transforms.colour import draw_colour, draw_light, jitter_colours
from twospeed.transforms.labels import draw_object_view
from twospeed.transforms.spatial import draw_affine
from twospeed.transforms.warp import (
    MEAN_COLOUR,
    Warp,
    compose,
    crop_matrix,
    cut_box,
    cut_labels,
    draw_resized_crop,
    linear_map,
    placed,
)

Image = NDArray[np.uint8]
FrameChoice = Literal["code", "paper"]
ObjectRule = Callable[[Image], list[int]]
"""Which objects may be followed, given the labels of the three frames (3, H, W) as the view shows them."""

GAPS = (5, 10, 15, 20, 25, 5)
"""Largest distance between neighbouring frames, from one border of the curriculum to the next."""

BORDERS = (0.1, 0.2, 0.3, 0.4, 0.9)
"""Borders of the main training, as shares of it."""

RETRIES = 5
_SMALLEST = 0.002  # share of a view that an object to be followed covers, where views are drawn around one


# ---------------------------------------------------------------- which frames, which objects


def max_gap(progress: float, borders: Sequence[float] = BORDERS, gaps: Sequence[int] = GAPS) -> int:
    """Return the largest distance between neighbouring frames when this share (0..1) of a training is done.

    Raises InputError where there is not one gap more than borders.
    """
    if len(gaps) != len(borders) + 1:
        raise InputError(f"{len(gaps)} gaps for {len(borders)} borders; give one gap more than borders")
    return gaps[sum(progress >= border for border in borders)]


def choose_frames(
    rng: np.random.Generator, frames: int, gap: int, choice: FrameChoice = "code"
) -> tuple[int, int, int]:
    """Draw three frame indices, in time order or, half of the time, reversed.

    choice: "code": neighbours are 0 to gap + 1 apart, since the authors add 1 to a draw of 0..gap and cap the sum at
    the end of the video, so that a short one may give the same frame twice. "paper": 1 to gap apart. A video shorter
    than that limits the gap. Raises InputError for fewer than three frames.
    """
    if frames < 3:
        raise InputError(f"a video of {frames} frames gives no three; give at least 3")
    if choice == "paper":
        gap = max(1, min(gap, (frames - 1) // 2))
        first, second = (int(rng.integers(1, gap + 1)) for _ in range(2))
        start = int(rng.integers(0, frames - first - second))
        indices = (start, start + first, start + first + second)
    else:
        jump = min(frames, gap)
        start = int(rng.integers(frames - jump + 1))
        middle = min(start + int(rng.integers(jump + 1)) + 1, frames - jump, frames - 1)
        last = min(middle + int(rng.integers(jump + 1)) + 1, frames - jump // 2, frames - 1)
        indices = (start, middle, last)
    return indices[::-1] if rng.random() < 0.5 else indices


def any_object(labels: Image) -> list[int]:
    """Return the objects of the first frame, void left out."""
    return [int(k) for k in np.unique(labels[0]) if k not in (0, VOID)]


def large_enough(labels: Image) -> list[int]:
    """Return the objects of BL30K that are worth following, by the authors' code; labels (3, H, W) after the crop.

    More than 900 pixels in the first frame; or more than 100, when it never has 400 or more in the others (one that is
    seen small, and later large, was cut off or hidden in the first frame).
    """
    counts = [np.bincount(frame.reshape(-1), minlength=256) for frame in labels]
    return [
        k
        for k in range(1, VOID)
        if counts[0][k] > 900 or (counts[0][k] > 100 and max(counts[1][k], counts[2][k]) < 400)
    ]


def not_tiny(labels: Image) -> list[int]:
    """Return the objects of 100 pixels or more in the first frame (the paper's words)."""
    counts = np.bincount(labels[0].reshape(-1), minlength=256)
    return [k for k in range(1, VOID) if counts[k] >= 100]


# ---------------------------------------------------------------- videos


class DecodedVideo:
    """A video whose annotated frames were decoded once into two .npy files of a folder, and are read from there.

    For small training sets: a clip costs a fraction of the time, at four bytes a pixel on the disk. A folder is good
    for one set; files that are there are taken as they are.
    """

    def __init__(self, sample: SequenceSample, folder: Path) -> None:
        self.name = sample.name
        self.annotations = {frame: place for place, frame in enumerate(sample.annotations)}
        files = [folder / f"{sample.name}.{kind}.npy" for kind in ("labels", "frames")]
        if not all(file.is_file() for file in files):
            make_folder(folder)
            for file, read in zip(files, (sample.labels, sample.image), strict=True):
                with atomic_file(file) as temporary:
                    np.save(temporary, np.stack([read(frame) for frame in self.annotations]))
        self._labels, self._frames = (np.load(file, mmap_mode="r") for file in files)
        if not len(self._labels) == len(self._frames) == len(self.annotations):
            raise DatasetError(f"{folder}: {sample.name} has another number of frames there; delete these files")

    def image(self, frame: str) -> Image:
        """Return one frame, uint8 (H, W, 3) RGB."""
        return np.asarray(self._frames[self.annotations[frame]])

    def labels(self, frame: str) -> Image:
        """Return one annotation, uint8 (H, W)."""
        return np.asarray(self._labels[self.annotations[frame]])


AnnotatedVideo = SequenceSample | DecodedVideo
AnnotatedVideos = Sequence[SequenceSample | DecodedVideo] | SequenceSet


def decoded(data: Davis, samples: Sequence[SequenceSample], cache: Path | None) -> list[AnnotatedVideo]:
    """Return some of a set's videos, decoded once into a folder of their own below `cache`; as they are without one."""
    if cache is None:
        return list(samples)
    place = f"{data.root.resolve()} {data.resolution} {data.year}"
    folder = cache / hashlib.sha256(place.encode()).hexdigest()[:12]
    return [DecodedVideo(sample, folder) for sample in samples]


# ---------------------------------------------------------------- clips


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMotion:
    """What a clip shows of its frames, and how they are changed; the defaults are STCN's supplement's numbers.

    crop: "area": a part of the frame's area, of any aspect; "object": a square around an object, which small networks
    learn more from. area, aspect (width / height: 3/4..4/3 in the authors' code, 0.75..1.25 in the paper): of the
    first. scale: zoom of the second. flip: probability.
    jitter: brightness, contrast and saturation, one draw for the three frames; own_jitter: one for each. light,
    own_light: strengths of a change of light (`draw_light`) in the same way. grey: probability.
    degrees, shear, zoom, shift: of each frame's own affine change. mirrored: what lies beyond the frame is the frame
    mirrored, not ImageNet's mean colour.
    paste: probability that something moves through a clip with one object. twins: probability of a copy of the first
    object beside it. near: share of the clips whose frames are at most 4 apart, whatever the gap.
    """

    crop: Literal["area", "object"] = "area"
    area: tuple[float, float] = (0.36, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    scale: tuple[float, float] = (0.5, 1.2)
    flip: float = 0.5
    jitter: tuple[float, float, float] = (0.1, 0.03, 0.03)
    own_jitter: tuple[float, float, float] = (0.01, 0.01, 0.01)
    light: float = 0.0
    own_light: float = 0.0
    grey: float = 0.05
    degrees: float = 15.0
    shear: float = 10.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    mirrored: bool = False
    paste: float = 0.0
    twins: float = 0.0
    near: float = 0.0


AROUND_OBJECTS = FrameMotion(
    crop="object", jitter=(0, 0, 0), own_jitter=(0, 0, 0), light=0.08, own_light=0.015, grey=0.0,
    degrees=8.0, shear=5.0, zoom=(0.93, 1.07), shift=0.035, mirrored=True, paste=0.5,
)  # fmt: skip
"""How small networks are trained: close views of objects, another one pasted in half of the time."""


class VideoClips:
    """Clips of three frames of annotated videos: a `ClipSource`.

    videos: of one set; those of fewer than three masks are left out. repeats: how often each is drawn from in an
    epoch. gap_divisor: what the gap is divided by (5 where every fifth frame is annotated). rule: which objects may be
    followed; None: all of the first frame. pasted: where things that pass through come from.
    When the first frame shows no object after five draws, the clip has an empty mask and nothing to follow (as the
    authors' code). Raises DatasetError when no video is left.
    """

    def __init__(
        self,
        videos: AnnotatedVideos,
        *,
        repeats: int = 1,
        gap_divisor: int = 1,
        choice: FrameChoice = "code",
        rule: ObjectRule | None = None,
        motion: FrameMotion | None = None,
        pasted: MovingObjects | None = None,
        name: str = "videos",
    ) -> None:
        self.videos, self.repeats, self.gap_divisor, self.choice = videos, repeats, gap_divisor, choice
        self.motion, self.pasted, self.name = motion or FrameMotion(), pasted, name
        self.rule = rule or (any_object if self.motion.crop == "area" else lambda labels: visible(labels[0], _SMALLEST))
        self.places = [index for index in range(len(videos)) if len(videos[index].annotations) >= 3]
        if not self.places:
            raise DatasetError(f"{name}: none of the {len(videos)} videos has three masks, which a clip needs")

    def __len__(self) -> int:
        return len(self.places) * self.repeats

    def draw(
        self, rng: np.random.Generator, *, index: int | None = None, size: int = 384, objects: int = 2, gap: int = 5
    ) -> TrainingClip:
        """Draw one clip. Raises DatasetError and VideoError for files that cannot be read."""
        place = int(rng.integers(len(self))) if index is None else index
        video, motion = self.videos[self.places[place % len(self.places)]], self.motion
        gap = max(1, gap // self.gap_divisor)
        if motion.near and rng.random() < motion.near:
            gap = min(gap, 4)
        names = list(video.annotations)
        for _ in range(RETRIES):
            chosen = [names[i] for i in choose_frames(rng, len(names), gap, self.choice)]
            maps = [video.labels(name) for name in chosen]
            view = _draw_view(rng, maps[0], size, motion)
            labels = np.stack([view.labels(map_, t) for t, map_ in enumerate(maps)])
            if ids := self.rule(labels):
                break
        # The image of a frame is read once its labels are found fit: decoding it is most of the work
        shared = draw_colour(rng, *motion.jitter, grey_probability=motion.grey).image
        film = np.stack([view.image(video, name, map_, t, shared) for t, (name, map_) in
                         enumerate(zip(chosen, maps, strict=True))])  # fmt: skip
        clip = following(film, labels, [int(k) for k in rng.permutation(ids)[:objects]])
        if ids:
            clip = self._with_others(rng, clip, size, objects)
        light = draw_light(rng, motion.light).image(clip.frames)
        own = [draw_colour(rng, *motion.own_jitter).image(frame) for frame in light]
        lit = np.stack([jitter_colours(rng, frame, motion.own_light) for frame in own])
        return TrainingClip(lit, clip.labels, clip.objects)

    def _with_others(self, rng: np.random.Generator, clip: TrainingClip, size: int, objects: int) -> TrainingClip:
        """Put in a copy of the first object, or something that passes through; followed where there is room."""
        if self.motion.twins and rng.random() < self.motion.twins:
            return with_twin(rng, clip, objects)
        if self.pasted is None or clip.objects > 1 or rng.random() >= self.motion.paste:
            return clip
        layer = self.pasted.layer(rng, None, label=2 if objects > 1 else 0, size=size)
        film, labels = clip.frames.copy(), clip.labels.copy()
        for t in range(len(film)):
            place_layer(film[t], labels[t], layer, t)
        seen = visible(labels[0], _SMALLEST)
        if 1 not in seen:  # hidden at once
            return clip
        return following(film, labels, seen)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What a clip shows of its frames: a box of them, resized, or all of each; then each frame's own warp."""

    box: tuple[int, int, int, int] | None
    size: int
    warps: tuple[Warp, ...]

    def labels(self, labels: Image, t: int) -> Image:
        return self.warps[t].labels(labels if self.box is None else cut_labels(labels, self.box, self.size))

    def image(
        self, video: AnnotatedVideo, frame: str, labels: Image, t: int, recolour: Callable[[Image], Image]
    ) -> Image:
        image = video.image(frame)
        if image.shape[:2] != labels.shape:
            raise DatasetError(
                f"{video.name}: frame {frame} is {image.shape[1]}x{image.shape[0]} pixels, its mask "
                f"{labels.shape[1]}x{labels.shape[0]}; masks must have their frame's size"
            )
        if self.box is None:
            return recolour(self.warps[t].image(image))
        return self.warps[t].image(recolour(cut_box(image, self.box, self.size)))


def _draw_view(rng: np.random.Generator, labels: Image, size: int, motion: FrameMotion) -> _View:
    flip = bool(rng.random() < motion.flip)
    box, ids = None, [k for k in visible(labels, 0.0) if k != VOID]
    if motion.crop == "object" and ids:
        zoom, centre = draw_object_view(rng, labels == ids[int(rng.integers(len(ids)))], size, scale=motion.scale)
        place = placed(linear_map(scale=zoom, flip=flip), centre, np.array([size / 2, size / 2]))
    else:
        box = draw_resized_crop(rng, *labels.shape, area=motion.area, aspect=motion.aspect)
        place = crop_matrix(0, 0, size, size, (size, size), flip=flip)
    turns = [
        draw_affine(
            rng, size, size, degrees=motion.degrees, shear_degrees=motion.shear, scale=motion.zoom, shift=motion.shift
        ).matrix
        for _ in range(3)
    ]
    fill = None if motion.mirrored else MEAN_COLOUR
    smooth: Literal["bicubic", "bilinear"] = "bicubic" if box else "bilinear"  # the whole frame also shrinks
    warps = [Warp(compose(np.array(turn), place), size, size, smooth=smooth, fill=fill) for turn in turns]
    return _View(box, size, tuple(warps))


def with_twin(rng: np.random.Generator, clip: TrainingClip, objects: int) -> TrainingClip:
    """Return the clip with a copy of object 1 beside it; unchanged where none fits.

    The copy is cut from every frame, so that it moves and deforms as the object does; it is turned over half of the
    time, scaled, and drifts. It is followed as one more object, if there are fewer than `objects`, in seven of ten.
    """
    size = clip.labels.shape[-1]
    rows, columns = np.nonzero(clip.labels[0] == 1)
    if not len(rows) or min(extent := np.array([np.ptp(columns) + 1, np.ptp(rows) + 1])) < 8:
        return clip
    centre, heading = np.array([columns.mean(), rows.mean()]), rng.uniform(0, 2 * np.pi)
    offset = rng.uniform(0.5, 1.3) * extent * np.array([np.cos(heading), np.sin(heading)])
    drift = rng.normal(0, 0.04 * size, 2)
    linear = linear_map(scale=float(rng.uniform(0.75, 1.3)), flip=bool(rng.random() < 0.5))
    label = clip.objects + 1 if clip.objects < objects and rng.random() < 0.7 else 0
    in_front, tint = rng.random() < 0.4, draw_light(rng, 0.03)
    frames, labels = clip.frames.copy(), clip.labels.copy()
    for t in range(len(frames)):
        alpha = np.where(clip.labels[t] == 1, np.uint8(255), np.uint8(0))
        warp = Warp(placed(linear, centre, centre + offset + drift * t), size, size, smooth="bilinear", fill=(0,) * 4)
        moved = warp.image(np.dstack([clip.frames[t], cv2.blur(alpha, (3, 3))]))
        weight = moved[..., 3:].astype(np.float32) / 255
        if not in_front:
            weight = weight * (clip.labels[t] == 0)[..., None]
        colour = tint.image(np.ascontiguousarray(moved[..., :3])).astype(np.float32)
        frames[t] = (frames[t] + (colour - frames[t]) * weight).astype(np.uint8)
        labels[t][weight[..., 0] > 0.5] = label
    seen = visible(labels[0], _SMALLEST)
    if any(k not in seen for k in range(1, clip.objects + 1)):
        return clip
    return following(frames, labels, seen)
