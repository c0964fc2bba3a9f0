"""Region similarity J and contour accuracy F, as the official scorer of DAVIS counts them.

Sources: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
(2016), section 4, and the DAVIS-2017 challenge's rules for several objects. Everything works on label maps,
uint8 (H, W): 0 = background, k = object k, 255 in an annotation = void.

What is fast here: an object is cut out of its label map once (`Outline`), its boundary is found and widened
once, on a crop that is as large as the object plus the tolerance; every comparison then touches only where
two crops overlap. Where many pairs are compared (`contour_accuracies`), four of them share one plane of bytes, a bit
for each mask: finding and widening eight boundaries then costs what it costs for one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

VOID = 255
MAX_PROPOSALS = 20
"""Proposals per sequence that the unsupervised task of DAVIS-2017 allows."""

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Planes = TypeVar("Planes", Mask, Labels)
"""One mask, bool, or eight, a bit each of uint8."""
Scores = NDArray[np.float64]


def tolerance_pixels(height: int, width: int) -> int:
    """Return how many pixels a boundary may be off and still count: 0.8 % of the diagonal, rounded up."""
    return math.ceil(0.008 * math.sqrt(height * height + width * width))


def boundary_map(mask: Planes) -> Planes:
    """Mark the pixels that differ from their right, lower or lower-right neighbour.

    mask: bool (H, W) -> bool (H, W); or uint8 of eight masks, a bit each, likewise. The last row looks right only, the
    last column down only, the corner is never set.
    """
    # A pixel and its three neighbours are all alike exactly when their OR equals their AND.
    boundary = np.empty_like(mask)
    any_pair = mask[:, :-1] | mask[:, 1:]
    both_of_pair = mask[:, :-1] & mask[:, 1:]
    np.bitwise_xor(any_pair[:-1] | any_pair[1:], both_of_pair[:-1] & both_of_pair[1:], out=boundary[:-1, :-1])
    np.bitwise_xor(mask[-1, :-1], mask[-1, 1:], out=boundary[-1, :-1])
    np.bitwise_xor(mask[:-1, -1], mask[1:, -1], out=boundary[:-1, -1])
    boundary[-1, -1] = 0
    return boundary


@lru_cache(maxsize=64)
def _disk_half_widths(radius: int) -> tuple[int, ...]:
    """Half width of the disk dx^2 + dy^2 <= radius^2 in each row dy = 0..radius."""
    return tuple(math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1))


def dilate_with_disk(mask: Planes, radius: int) -> Planes:
    """Widen a mask by a disk: set every pixel within `radius` (Euclidean, inclusive) of a set one.

    mask: bool (h, w) -> bool (h + 2 * radius, w + 2 * radius): the result has a margin of `radius` on all
    sides; or uint8 of eight masks, a bit each, likewise.

    A disk is a stack of row segments. Segments grow by one pixel a side with one OR of the whole plane, and
    each row of the disk is one more OR: 3 * radius ORs over contiguous bytes in place of one look-up per
    pixel of the disk.
    """
    height, width = mask.shape
    columns = width + 2 * radius
    plane = np.zeros((height + 2 * radius, columns), dtype=mask.dtype)
    # The margins keep a shift by up to `radius` from running into the next row, so all rows can be treated as
    # one line (with one more pixel at either end to look at).
    line, spare = np.zeros((2, height * columns + 2), dtype=mask.dtype)
    line[1:-1].reshape(height, columns)[:, radius : radius + width] = mask
    half_widths = _disk_half_widths(radius)
    grown = 0
    for dy in range(radius, -1, -1):  # the narrowest row of the disk first
        while grown < half_widths[dy]:
            np.bitwise_or(line[:-2], line[2:], out=spare[1:-1])
            if grown == 0:  # later the neighbours' segments overlap in the middle
                np.bitwise_or(spare[1:-1], line[1:-1], out=spare[1:-1])
            line, spare = spare, line
            grown += 1
        rows = line[1:-1].reshape(height, columns)
        above, below = plane[radius - dy : radius - dy + height], plane[radius + dy : radius + dy + height]
        np.bitwise_or(above, rows, out=above)
        if dy:
            np.bitwise_or(below, rows, out=below)
    return plane


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of an image: bool pixels (h, w) whose first one lies at (top, left) of the whole."""

    pixels: Mask
    top: int
    left: int

    @cached_property
    def count(self) -> int:
        """Number of set pixels."""
        return int(np.count_nonzero(self.pixels))

    def overlap(self, other: Crop) -> int:
        """Return the number of pixels set in both."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.pixels.shape[0], other.top + other.pixels.shape[0])
        right = min(self.left + self.pixels.shape[1], other.left + other.pixels.shape[1])
        if bottom <= top or right <= left:
            return 0
        mine = self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]
        theirs = other.pixels[top - other.top : bottom - other.top, left - other.left : right - other.left]
        return int(np.count_nonzero(mine & theirs))


@dataclass(frozen=True, eq=False)
class Outline:
    """One object in one frame, ready to be compared: its pixels, boundary, and that boundary's surroundings.

    region: the object with one pixel of surroundings (where the image has it). radius: the tolerance in
    pixels. size: (H, W) of the image.
    """

    region: Crop
    radius: int
    size: tuple[int, int]

    @cached_property
    def boundary(self) -> Crop:
        """The object's boundary pixels."""
        if not self.region.count:
            return self.region
        return Crop(boundary_map(self.region.pixels), self.region.top, self.region.left)

    @cached_property
    def near_boundary(self) -> Crop:
        """Pixels at most `radius` away from a boundary pixel (some may lie outside the image)."""
        boundary = self.boundary
        near = dilate_with_disk(boundary.pixels, self.radius)
        return Crop(near, boundary.top - self.radius, boundary.left - self.radius)


_NOTHING = Crop(np.zeros((0, 0), dtype=bool), 0, 0)


def _bounding_box(image: Labels | Mask) -> tuple[int, int, int, int] | None:
    """Return top, left, bottom, right (exclusive) of what is not 0; None when all is."""
    rows = np.flatnonzero(image.max(axis=1, initial=0))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(image[top:bottom].max(axis=0))
    return top, int(columns[0]), bottom, int(columns[-1]) + 1


def _cut(mask: Mask, radius: int, size: tuple[int, int], top: int = 0, left: int = 0) -> Outline:
    """Cut an object out of a mask whose first pixel lies at (top, left) of an image of this size."""
    box = _bounding_box(mask)
    if box is None:
        return Outline(_NOTHING, radius, size)
    # One pixel of surroundings: the boundary rule looks right and down, so boundaries lie up to one pixel up
    # and left.
    first_row, first_column = max(box[0] - 1, 0), max(box[1] - 1, 0)
    region = mask[first_row : box[2] + 1, first_column : box[3] + 1]
    return Outline(Crop(region, top + first_row, left + first_column), radius, size)


def outline(mask: Mask, radius: int | None = None) -> Outline:
    """Cut one object out of a mask, bool (H, W).

    radius: tolerance in pixels; None takes it from the image's size.
    """
    height, width = mask.shape
    return _cut(mask, tolerance_pixels(height, width) if radius is None else radius, (height, width))


def outlines(
    labels: Labels, count: int, *, top: int = 0, left: int = 0, size: tuple[int, int] | None = None
) -> list[Outline]:
    """Cut objects 1..count out of a label map, uint8 (H, W); absent objects give empty outlines.

    size: (H, W) of the image where `labels`, uint8 (h, w), are only a part of it: its first pixel lies at (top, left),
    and outside of it, and in its outermost rows and columns where they are not the image's, all is 0.
    """
    size = size or (labels.shape[0], labels.shape[1])
    radius = tolerance_pixels(*size)
    if labels.shape == size:
        if (box := _bounding_box(labels)) is None:
            return [Outline(_NOTHING, radius, size)] * count
        top, left = max(box[0] - 1, 0), max(box[1] - 1, 0)
        labels = labels[top : box[2] + 1, left : box[3] + 1]
    if count == 1 and labels.max(initial=0) == 1:  # nothing else is in the part: it is the object's
        return [Outline(Crop(labels.view(np.bool_), top, left), radius, size)]
    return [_cut(labels == k, radius, size, top, left) for k in range(1, count + 1)]


def region_similarity(first: Outline, second: Outline) -> float:
    """Return J, intersection over union in 0..1; two empty masks agree (1)."""
    intersection = first.region.overlap(second.region)
    union = first.region.count + second.region.count - intersection
    return intersection / union if union else 1.0


def contour_accuracy(result: Outline, annotation: Outline) -> float:
    """Return F in 0..1, the harmonic mean of the boundaries' precision and recall.

    1 when neither has a boundary, 0 when only one has (a mask that covers the whole image has none).
    """
    found, wanted = result.boundary, annotation.boundary
    if found.count == 0 or wanted.count == 0:
        return _f(found.count, wanted.count, 0, 0)
    return _f(found.count, wanted.count, found.overlap(annotation.near_boundary), wanted.overlap(result.near_boundary))


def _f(found: int, wanted: int, found_near: int, wanted_near: int) -> float:
    """Return F from the numbers of boundary pixels, and of those among them that are near the other boundary."""
    if found == 0 or wanted == 0:
        return 1.0 if found == wanted else 0.0
    precision, recall = found_near / found, wanted_near / wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour_accuracies(pairs: Sequence[tuple[Outline, Outline]]) -> list[float]:
    """Return `contour_accuracy` of each pair, four at a time: fastest for an object's pairs in frames that follow."""
    values = []
    for _, alike in groupby(pairs, key=lambda pair: (pair[0].size, pair[0].radius)):
        members = list(alike)
        for start in range(0, len(members), 4):
            values += _four_contours(members[start : start + 4])
    return values


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)
"""Bits of each byte, (256, 8), the lowest first."""


def _four_contours(pairs: Sequence[tuple[Outline, Outline]]) -> list[float]:
    """Compare up to four pairs of one image size and radius: results are the low bits of a plane, annotations the high.

    The plane is as large as all objects together, with the surroundings that each of them has.
    """
    radius = pairs[0][0].radius
    crops = {i + 4 * j: pair[j].region for i, pair in enumerate(pairs) for j in (0, 1) if pair[j].region.pixels.size}
    if not crops:
        return [1.0] * len(pairs)
    top, left = min(crop.top for crop in crops.values()), min(crop.left for crop in crops.values())
    bottom = max(crop.top + crop.pixels.shape[0] for crop in crops.values())
    right = max(crop.left + crop.pixels.shape[1] for crop in crops.values())
    plane = np.zeros((bottom - top, right - left), np.uint8)
    for bit, crop in crops.items():
        height, width = crop.pixels.shape
        part = plane[crop.top - top : crop.top - top + height, crop.left - left : crop.left - left + width]
        part |= crop.pixels.view(np.uint8) * np.uint8(1 << bit)  # several times as fast as a shift
    boundary = boundary_map(plane)
    near = dilate_with_disk(boundary, radius)[radius : radius + plane.shape[0], radius : radius + plane.shape[1]]
    places = np.flatnonzero(boundary != 0)
    boundaries, nears = boundary.reshape(-1)[places], near.reshape(-1)[places]
    near_others = boundaries & (nears << 4 | nears >> 4)
    count, count_near = (np.bincount(x, minlength=256) @ _BITS for x in (boundaries, near_others))
    (found, wanted), (found_near, wanted_near) = count.reshape(2, 4).tolist(), count_near.reshape(2, 4).tolist()
    return [_f(found[i], wanted[i], found_near[i], wanted_near[i]) for i in range(len(pairs))]


def _check(result: Labels, annotation: Labels) -> None:
    for name, labels in (("result", result), ("annotation", annotation)):
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise InputError(f"{name}: expected a label map, uint8 (H, W), got {labels.dtype} {labels.shape}")
    if result.shape != annotation.shape:
        (height, width), (true_height, true_width) = result.shape, annotation.shape
        raise InputError(
            f"result is {width}x{height} pixels, its annotation {true_width}x{true_height}: "
            "score masks at the size of the annotation"
        )


def score_frame(result: Labels, annotation: Labels, objects: int) -> tuple[Scores, Scores]:
    """Compare one frame object by object, as in the semi-supervised task.

    result, annotation: uint8 (H, W); objects: K, how many are scored (ids 1..K). Returns J and F, float64
    (K,) each. Void pixels of the annotation are background; nothing is left out. Raises InputError when the
    sizes differ.
    """
    _check(result, annotation)
    pairs = list(zip(outlines(result, objects), outlines(annotation, objects), strict=True))
    j = np.array([region_similarity(found, wanted) for found, wanted in pairs], dtype=np.float64)
    f = np.array([contour_accuracy(found, wanted) for found, wanted in pairs], dtype=np.float64)
    return j, f


def score_frame_pairs(result: Labels, annotation: Labels, proposals: int, objects: int) -> tuple[Scores, Scores]:
    """Compare one frame's proposals with each of its objects, as in the unsupervised task.

    result: uint8 (H, W), ids 1..P; annotation: uint8 (H, W), ids 1..K, void 255. Returns J and F, float64 (P,
    K) each. Void pixels are left out: they belong to no mask. Raises InputError when the sizes differ.
    """
    _check(result, annotation)
    void = annotation == VOID
    if void.any():
        result = np.where(void, np.uint8(0), result)
    found, wanted = outlines(result, proposals), outlines(annotation, objects)
    j = np.array([[region_similarity(a, b) for b in wanted] for a in found], dtype=np.float64)
    f = np.array([[contour_accuracy(a, b) for b in wanted] for a in found], dtype=np.float64)
    return j, f


def match_proposals(j: Scores, f: Scores) -> list[tuple[int, int]]:
    """Give each object its own proposal so that the sum of mean (J + F) / 2 is largest (Hungarian method).

    j, f: float64 (P, K, T), P >= K. Returns (proposal, object) pairs, both counted from 0, ordered by
    proposal, as the official scorer lists them.
    """
    from scipy.optimize import linear_sum_assignment  # takes as long to import as many frames to score

    quality = (j.mean(axis=2) + f.mean(axis=2)) / 2  # (P, K)
    rows, columns = linear_sum_assignment(-quality)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a measure does over one object's frames: fractions in 0..1, decay in -1..1."""

    mean: float
    recall: float
    decay: float


def statistics(values: Scores) -> Statistics:
    """Sum up one object's scores over time.

    values: float64 (T,), at least one frame. mean ignores NaN; recall: share of frames above 0.5 (strictly);
    decay: mean of the first quarter less mean of the last one, quarters sharing their border frames.

    Differs: the official scorer keeps the quarters' borders in 8 bits, so its decay is wrong for more than
    256 frames.
    """
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"statistics need the scores of at least one frame, (T,), got shape {values.shape}")
    borders = np.round(np.linspace(1, values.size, 5) + 1e-10).astype(np.int64) - 1
    first, last = values[: borders[1] + 1], values[borders[3] : borders[4] + 1]
    known = values[~np.isnan(values)]
    return Statistics(
        mean=float(known.mean()) if known.size else math.nan,
        recall=float(np.mean(values > 0.5)),
        decay=_mean_of_known(first) - _mean_of_known(last),
    )


def _mean_of_known(values: Scores) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
