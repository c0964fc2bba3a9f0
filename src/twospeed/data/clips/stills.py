"""Still images with a mask, turned into clips of three frames: the data of STCN's static pretraining (stage 0).

Source: Cheng 2021, supplement (augmentation); the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.coco import CocoObject
from twospeed.data.benchmarks.stills import StaticPair
from twospeed.data.clips.training_clip import TrainingClip
from twospeed.transforms.colour import draw_colour
from twospeed.transforms.spatial import draw_affine, short_side_size
from twospeed.transforms.warp import MEAN_COLOUR, Warp, compose, crop_matrix, draw_spline

Image = NDArray[np.uint8]

FILL = (*MEAN_COLOUR, 0)  # of an image and its mask


@dataclass(frozen=True, kw_only=True, slots=True)
class StillMotion:
    """How a still becomes three frames; the defaults are the supplement's numbers.

    shared_*: one draw for the three frames. brightness, contrast, saturation, hue: spread of the factors. degrees,
    scale, shear, (shared_)scale: of the affine changes. spline: probability of a thin-plate spline, with `points`
    control points that move by `spread` of the image's side.
    """

    shared_scale: tuple[float, float] = (0.8, 1.5)
    shared_jitter: tuple[float, float, float, float] = (0.1, 0.05, 0.05, 0.05)
    grey: float = 0.05
    flip: float = 0.5
    degrees: float = 20.0
    scale: tuple[float, float] = (0.9, 1.1)
    shear: float = 10.0
    jitter: tuple[float, float, float] = (0.1, 0.05, 0.05)
    spline: float = 0.33
    points: int = 12
    spread: float = 0.02


class StillClips:
    """Clips of still images: a `ClipSource`.

    pairs: images with their masks, as `find_pairs` and `find_objects` give them. repeats: how often each is seen in an
    epoch.

    Differs from the authors in how often pixels are resampled, not in what moves where: the affine change, the scaling,
    the crop and the spline of a frame are one bicubic warp (theirs: up to three), so that less is blurred and a clip
    takes a sixth of the time; where the spline looks beyond the crop, it finds the image, not black.
    """

    def __init__(self, pairs: Sequence[StaticPair | CocoObject], *, repeats: int = 1, name: str = "stills") -> None:
        self.pairs, self.repeats, self.name = pairs, repeats, name

    def __len__(self) -> int:
        return len(self.pairs) * self.repeats

    def draw(
        self, rng: np.random.Generator, *, index: int | None = None, size: int = 384, objects: int = 1, gap: int = 0
    ) -> TrainingClip:
        """Draw one clip of one object; gap has no meaning here.

        Raises DatasetError and VideoError for files that cannot be read.
        """
        pair = self.pairs[(int(rng.integers(len(self))) if index is None else index) % len(self.pairs)]
        return clip_of_still(rng, *pair.read(), size=size)


def clip_of_still(
    rng: np.random.Generator, image: Image, mask: Image, *, size: int = 384, motion: StillMotion | None = None
) -> TrainingClip:
    """Draw three frames (size x size) of a still, uint8 RGB (H, W, 3), and its mask, uint8 (H, W) of 0 and 255."""
    motion = motion or StillMotion()
    height, width = mask.shape
    enlarged = np.array(draw_affine(rng, height, width, scale=motion.shared_scale).matrix)
    if rng.random() < motion.flip:
        enlarged = compose(enlarged, crop_matrix(0, 0, height, width, (height, width), flip=True))
    # What the first change pushes out of the image is gone, as for the authors: frames that turn show the fill there
    canvas = Warp(enlarged, height, width, fill=FILL).image(np.dstack([image, mask]))  # the mask as fourth channel
    colour = draw_colour(rng, *motion.shared_jitter, grey_probability=motion.grey)
    canvas[..., :3] = colour.image(np.ascontiguousarray(canvas[..., :3]))

    rows, columns = short_side_size(height, width, size)
    frames, masks = np.empty((3, size, size, 3), np.uint8), np.empty((3, size, size), np.uint8)
    for t in range(3):
        turn = draw_affine(
            rng, height, width, degrees=motion.degrees, shear_degrees=motion.shear, scale=motion.scale
        ).matrix
        top, left = int(rng.integers(rows - size + 1)), int(rng.integers(columns - size + 1))
        cut = crop_matrix(top * height / rows, left * width / columns, size * height / rows, size * width / columns,
                          (size, size))  # fmt: skip
        change = draw_colour(rng, *motion.jitter)
        spline = draw_spline(rng, points=motion.points, spread=motion.spread) if rng.random() < motion.spline else None
        moved = Warp(compose(cut, np.array(turn)), size, size, spline, fill=FILL).image(canvas)
        frames[t] = change.image(np.ascontiguousarray(moved[..., :3]))
        masks[t] = moved[..., 3]
    return TrainingClip(frames, (masks > 127).view(np.uint8), 1, soft=masks[:1])
