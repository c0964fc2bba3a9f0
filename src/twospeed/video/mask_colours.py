"""From the colours of a drawn mask to labels, and the refusal of masks whose colours are no labels.

People draw masks in paint programs, resize them smoothly and save them as JPEG. Read literally, each blend along an
edge would be an object: dozens of them, and no memory left. So a colour counts as a label where it fills some area,
and one that never fills a 3x3 square counts as a blend.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import MaskError

MAX_COLOURS = 10
"""Most colours beside the background that an RGB mask may have to be read as labels."""

MAX_LEVELS = 64
"""Most grey levels beside black that a grey mask may have; a photograph has more."""

SMALL_ID = 32
"""Grey values up to here are taken for object ids: blends of black and white reach beyond."""

NEARLY_WHITE = 247  # levels from here to 254 beside 255 are one object after compression, not eight

FLAT_RANGE = 12  # most that a channel may vary in a 3x3 square of one colour: above JPEG's noise, below an edge's slope
SAME_COLOUR = 40.0  # RGB distance within which colours are one: half of that between neighbours in the DAVIS palette
SURROUND = np.ones((7, 7), np.uint8)  # where an edge's two colours are to be found, seen from a blend between them
SQUARE = np.ones((3, 3), np.uint8)


def labels_from_indices(indices: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Take palette indices (H, W) as labels; refuse an anti-aliased image with a palette of its own."""
    if is_smoothed(indices):
        raise _refusal(name, _solid_values(indices)[1], "palette entries")
    return indices


def is_smoothed(labels: NDArray[np.uint8]) -> bool:
    """Tell whether labels (H, W) are many and most of them fill no area, as in a smoothed or compressed image."""
    solid, found = _solid_values(labels)
    return found > MAX_COLOURS and 2 * solid <= found


def labels_from_levels(
    levels: NDArray[np.integer | np.floating], name: str, *, snap: bool = False
) -> NDArray[np.uint8]:
    """Turn grey levels (H, W), 8 or 16 bits, into labels: 0 and full white are a binary mask, others are ids."""
    if levels.dtype.kind == "f" and not (np.isfinite(levels).all() and np.array_equal(levels, np.round(levels))):
        raise MaskError(f"{name}: holds fractions or NaN, a mask holds whole labels 0..255; save a palette PNG")
    low, high = int(levels.min()), int(levels.max())
    if high == 65535 and np.isin(levels, (0, 65535)).all():
        return np.asarray(levels > 0, np.uint8)
    if low < 0 or high > 255:
        raise MaskError(
            f"{name}: holds 16-bit values {low}..{high}, labels are 0..255; renumber its objects from 1 and save 8 bits"
        )
    grey = levels.astype(np.uint8)
    solid, found = _solid_values(grey)
    enough = MAX_COLOURS if high <= SMALL_ID else 1
    nearly_white = high == 255 and bool(((grey >= NEARLY_WHITE) & (grey < 255)).any())
    if nearly_white or found > MAX_LEVELS or (found > enough and 2 * solid <= found):
        if not snap:
            raise _refusal(name, found, "grey levels")
        grey = _snap(cv2.merge([grey] * 3), np.array([[0, 0, 0], [255, 255, 255]]))[..., 0]
        if grey.all():
            raise MaskError(f"{name}: no background found, no area of it is black; is it a mask?")
    values = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
    if set(values.tolist()) <= {0, 255}:
        return (grey > 0).astype(np.uint8)
    return grey


def labels_from_colours(
    rgba: NDArray[np.uint8], name: str, palette: NDArray[np.uint8], *, snap: bool = False
) -> NDArray[np.uint8]:
    """Turn the colours of uint8 (H, W, 4) into labels.

    Black and transparent pixels are background. Colours of `palette` (256, 3) get their index there. Pure colours
    get the index of their dark namesake in the DAVIS palette: red 1, green 2, yellow 3, blue 4, magenta 5, cyan 6,
    white 7. Any others get the labels left free, in order of (red, green, blue): masks of one video should share one
    set of them. White alone is 1. A mask painted black on transparent is 1 where it is opaque.
    """
    alpha = rgba[..., 3]
    transparent = alpha < 128
    soft_alpha = bool(((alpha > 0) & (alpha < 255)).any())
    rgb = np.where(transparent[..., None], 0, rgba[..., :3]).astype(np.uint8)
    if not rgb.any() and transparent.any() and not transparent.all():
        rgb = np.where(transparent[..., None], 0, 255).astype(np.uint8).repeat(3, axis=2)
    if soft_alpha and not snap:
        found = len(np.unique(alpha))
        raise _refusal(name, found, "levels of transparency")
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        return labels_from_levels(rgb[..., 0], name, snap=snap)
    colours, codes = _distinct(rgb)
    if len(colours) > 256 or _blended(codes, len(colours)):
        if not snap:
            raise _refusal(name, len(colours), "colours")
        pure = np.array([[255 * (code >> bit & 1) for bit in range(3)] for code in range(8)])
        colours, codes = _distinct(_snap(rgb, np.concatenate([pure, palette[:32]])))
    if not (colours == 0).all(axis=1).any():
        raise MaskError(f"{name}: {len(colours)} colours but no black or transparent background; paint it black")
    return _numbered(colours, palette)[codes]


def _numbered(colours: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give each colour (n, 3), sorted, its label: (n,)."""
    known = {tuple(colour): index for index, colour in reversed(list(enumerate(palette.tolist())))}
    labels: list[int | None] = []
    for colour in colours.tolist():
        label = known.get(tuple(colour))
        if label is None and set(colour) <= {0, 255}:
            label = sum(1 << channel for channel in range(3) if colour[channel])
        labels.append(label if label not in labels else None)
    free = iter(sorted(set(range(1, 256)) - {label for label in labels if label is not None}))
    return np.array([next(free) if label is None else label for label in labels], np.uint8)


def _distinct(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return the colours (n, 3), sorted, and each pixel's place among them (H, W)."""
    packed = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    values, codes = np.unique(packed, return_inverse=True)
    colours = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8)
    return colours, codes.reshape(packed.shape)


def _blended(codes: NDArray[np.intp], colours: int) -> bool:
    if colours - 1 > MAX_COLOURS:
        return True
    solid, found = _solid_values((codes + 1).astype(np.uint8))  # black is counted too: it may be missing
    return found > 2 and 2 * solid <= found


def _solid_values(values: NDArray[np.uint8]) -> tuple[int, int]:
    """Count the values other than 0: (those that fill a 3x3 square somewhere, all)."""
    counts = np.bincount(values.ravel(), minlength=256)[1:]
    uniform = cv2.erode(values, SQUARE) == cv2.dilate(values, SQUARE)
    filled = np.bincount(values[uniform], minlength=256)[1:]
    return int((filled > 0).sum()), int((counts > 0).sum())


def _refusal(name: str, found: int, kind: str) -> MaskError:
    return MaskError(
        f"{name}: {found} {kind} found, more than a mask of flat colours has: it is smoothed or compressed, and read "
        f"as it is would give dozens of objects; save a palette PNG, or clean it with snap=True",
        option="snap",
    )


def _snap(rgb: NDArray[np.uint8], exact: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Give every pixel one of the dominant colours: those that fill flat areas.

    A pixel on an edge chooses among the colours near it, so that a blend of red and blue does not become purple.
    exact: colours (n, 3) that a dominant colour is moved onto when it is close.
    """
    spread = (cv2.dilate(rgb, SQUARE) - cv2.erode(rgb, SQUARE)).max(axis=2)
    flat = spread <= FLAT_RANGE
    centres = _dominant(rgb[flat].astype(np.float32), minimum=max(9, flat.size // 20_000))
    if len(centres) < 2:  # nothing flat but the background: split by brightness
        centres = np.array([[0.0] * 3, rgb.reshape(-1, 3)[rgb.sum(axis=2).argmax()].tolist()], np.float32)
    pixels = rgb.astype(np.float32)
    distance = np.stack([np.linalg.norm(pixels - centre, axis=2) for centre in centres])  # (K, H, W)
    nearest = distance.argmin(axis=0)
    sure = flat & (distance.min(axis=0) <= SAME_COLOUR)
    near = np.stack([cv2.dilate((sure & (nearest == k)).astype(np.uint8), SURROUND) for k in range(len(centres))])
    # Where no sure pixel is near (a wide soft edge), all colours compete.
    near |= ~near.any(axis=0)
    chosen = np.where(near > 0, distance, np.inf).argmin(axis=0)
    snapped: NDArray[np.uint8] = _moved_onto(centres, exact)[chosen]
    return snapped


def _dominant(pixels: NDArray[np.float32], minimum: int) -> NDArray[np.float32]:
    """Find the colours (K, 3) around which pixels (n, 3) gather, most frequent first, each with `minimum` or more."""
    bins = (pixels.astype(np.int32) >> 3) @ np.array([1024, 32, 1], np.int32)
    counts = np.bincount(bins, minlength=32768)
    occupied = np.flatnonzero(counts)
    means = np.stack([np.bincount(bins, pixels[:, c], 32768)[occupied] / counts[occupied] for c in range(3)], axis=1)
    centres: list[NDArray[np.float32]] = []
    weights: list[int] = []
    for place in np.argsort(-counts[occupied], kind="stable")[:4096]:
        weight = int(counts[occupied[place]])
        gaps = [float(np.linalg.norm(means[place] - centre)) for centre in centres]
        if gaps and min(gaps) <= SAME_COLOUR:
            weights[int(np.argmin(gaps))] += weight
        else:
            centres.append(means[place].astype(np.float32))
            weights.append(weight)

    def pixels_at(colour: NDArray[np.floating]) -> int:
        return int(counts[occupied][np.linalg.norm(means - colour, axis=1) <= SAME_COLOUR / 4].sum())

    kept: list[NDArray[np.float32]] = []
    for centre, weight in zip(centres, weights, strict=True):
        # A wide blur is flat on its slopes too, but there is no gap between them and the colour they lead to.
        neighbours = [other for other in kept if np.linalg.norm(other - centre) < 3 * SAME_COLOUR]
        on_slope = any(2 * pixels_at((centre + other) / 2) > pixels_at(centre) for other in neighbours)
        if weight >= minimum and not on_slope:
            kept.append(centre)
    return np.array(kept[:MAX_LEVELS], np.float32).reshape(-1, 3)


def _moved_onto(centres: NDArray[np.float32], exact: NDArray[np.integer]) -> NDArray[np.uint8]:
    gaps = np.linalg.norm(centres[:, None] - exact[None].astype(np.float32), axis=2)  # (K, n)
    close = gaps.min(axis=1) <= 0.7 * SAME_COLOUR
    moved = np.where(close[:, None], exact[gaps.argmin(axis=1)], centres.round())
    return moved.astype(np.uint8)
