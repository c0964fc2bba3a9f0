"""Draw what was found on the frames it was found in: masks, classes, boxes, captions, legends.

Images are uint8 (H, W, 3), RGB; every function returns a new image and leaves its input as it was. Widths of lines
and sizes of text follow the shorter side of the image, from 240 lines to 4K.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.output.palette import object_colours, text_colour
from twospeed.output.text import Colour, fitted, line_width, put_text, shade, text_coverage, text_height


def draw_masks(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    alpha: float = 0.5,
    contours: bool = True,
    colours: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Tint every object in its colour, and outline it.

    labels: uint8 (H, W), 0 = background, which stays as it is. alpha: 0 (no tint) to 1 (plain colour). colours:
    uint8 (256, 3) by label; `palette.object_colours()` unless given. Raises InputError where shapes disagree.
    """
    _check(image, labels, alpha)
    drawn = image.copy()
    left, top, width, height = cv2.boundingRect(labels)
    if not width:
        return drawn
    # Only the part that holds objects is drawn on, with a margin that shows which of them end at its border.
    reach = line_width(drawn)
    part = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
    inside = np.ascontiguousarray(labels[part])
    objects = inside > 0
    colour = _coloured(inside, object_colours() if colours is None else colours)
    cv2.copyTo(cv2.addWeighted(drawn[part], 1 - alpha, colour, alpha, 0), objects.view(np.uint8), drawn[part])
    if contours:
        square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        border = (cv2.erode(inside, square) != cv2.dilate(inside, square)) & objects
        cv2.copyTo(colour, border.view(np.uint8), drawn[part])
    return drawn


def draw_classes(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    colours: NDArray[np.uint8] | Sequence[Colour],
    *,
    alpha: float = 0.55,
) -> NDArray[np.uint8]:
    """Tint every pixel in the colour of its class.

    labels: uint8 (H, W) class ids from 0. colours: (C, 3), RGB, 0..255, by id; pixels with an id of C or more (255 =
    void among them) stay as they are. alpha: 0 to 1; 1 gives the plain colour map.
    """
    _check(image, labels, alpha)
    given = np.asarray(colours, np.uint8)
    if given.ndim != 2 or given.shape[1] != 3 or len(given) > 256:
        raise InputError(f"colours are (C, 3) with at most 256 classes, not {given.shape}")
    table = np.zeros((256, 3), np.uint8)
    table[: len(given)] = given
    drawn = image.copy()
    known = (np.ascontiguousarray(labels) < len(given)).view(np.uint8)
    cv2.copyTo(cv2.addWeighted(image, 1 - alpha, _coloured(labels, table), alpha, 0), known, drawn)
    return drawn


def draw_boxes(
    image: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.floating],
    texts: Sequence[str | Sequence[str]] = (),
    colours: NDArray[np.uint8] | Sequence[Colour] | None = None,
) -> NDArray[np.uint8]:
    """Draw boxes with lines of text above them, or inside where there is no room above; lower where another text is.

    boxes_xyxy: (n, 4) in pixels. texts: for each box one string or several lines; too long ones are cut with an
    ellipsis. colours: (n, 3), RGB; the object colours in order unless given.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    if len(texts) not in (0, len(boxes)) or (colours is not None and len(colours) != len(boxes)):
        counted = f"{len(texts)} texts and {'no' if colours is None else len(colours)} colours"
        raise InputError(f"{len(boxes)} boxes with {counted}: give one of each for every box")
    _check(image, None, 0.5)
    drawn = image.copy()
    height, width = drawn.shape[:2]
    line = line_width(drawn)
    table = object_colours()[1 + np.arange(len(boxes)) % 255] if colours is None else np.asarray(colours, np.uint8)
    corners = [
        [round(min(max(value, 0), limit - 1)) for value, limit in zip(box, (width, height) * 2, strict=True)]
        for box in np.nan_to_num(boxes, posinf=1e6, neginf=-1e6).tolist()
    ]
    for (left, top, right, bottom), colour in zip(corners, table.tolist(), strict=True):
        # A dark line under the coloured one keeps it visible on a background of the same colour.
        cv2.rectangle(drawn, (left, top), (right, bottom), (0, 0, 0), line + 2 * max(1, line // 2))
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, line)
    taken: list[tuple[int, int, int, int]] = []
    for (left, top, _, _), text, colour in zip(corners, texts, table.tolist(), strict=False):
        lines = [text] if isinstance(text, str) else list(text)
        _label(drawn, lines, left, top, tuple(colour), taken)
    return drawn


def draw_caption(image: NDArray[np.uint8], lines: str | Sequence[str]) -> NDArray[np.uint8]:
    """Write lines of text on a dark band at the top left; what does not fit is cut with an ellipsis."""
    _check(image, None, 0.5)
    drawn = image.copy()
    height, width = drawn.shape[:2]
    size = text_height(drawn)
    pad = size // 2
    rows = max(1, (height - 2 * pad) // round(size * 1.3))
    texts = [fitted(line, size, width - 4 * pad) for line in ([lines] if isinstance(lines, str) else lines)][:rows]
    texts = [text for text in texts if text]
    if not texts:
        return drawn
    step, widest = text_coverage(texts[0], size).shape[0], max(text_coverage(text, size).shape[1] for text in texts)
    shade(drawn, 0, 0, widest + 2 * pad, step * len(texts) + pad, (0, 0, 0), 0.6)
    for row, text in enumerate(texts):
        put_text(drawn, text, pad, pad // 2 + row * step, size, (255, 255, 255))
    return drawn


def draw_legend(
    image: NDArray[np.uint8],
    names: Sequence[str],
    colours: NDArray[np.uint8] | Sequence[Colour],
    shown: Collection[int] | None = None,
) -> NDArray[np.uint8]:
    """Add a dark band on the right with names beside their colours; as many as fit, then how many more there are.

    names: n strings. colours: (n, 3), RGB, 0..255. shown: the numbers, 0..n-1, of those that occur in the image, others
    are dimmed; all unless given. The band's width depends on the names and the image's size alone, so that frames of
    one video stay of one size.
    """
    table = np.asarray(colours, np.uint8).reshape(-1, 3)
    if len(names) != len(table):
        raise InputError(f"{len(names)} names with {len(table)} colours: give one for each")
    _check(image, None, 0.5)
    if not names:
        return image.copy()
    here = frozenset(range(len(names)) if shown is None else (int(number) for number in shown))
    height, width = image.shape[:2]
    band = _legend(height, width, text_height(image), tuple(names), table.tobytes(), here)
    return np.concatenate([image, band], 1)


@lru_cache(maxsize=64)
def _legend(
    height: int, width: int, size: int, names: tuple[str, ...], colours: bytes, shown: frozenset[int]
) -> NDArray[np.uint8]:
    """Draw the band of `draw_legend`; frames of a video need few different ones."""
    table = np.frombuffer(colours, np.uint8).reshape(-1, 3)
    size = min(size, max(8, round((height - 4) / (1.3 * (len(names) + 1)))))  # smaller, so that all fit
    pad = size // 2
    step = round(size * 1.3)
    room = max(1, (height - 2 * pad) // step)
    listed = list(names) if len(names) <= room else [*names[: room - 1], f"+ {len(names) - room + 1} more"]
    texts = [fitted(name, size, max(size, width // 3)) for name in listed]
    widest = max(text_coverage(text, size).shape[1] for text in texts)
    band = widest + step + 3 * pad
    band += -(width + band) % 16  # whole blocks of a video
    drawn = np.full((height, band, 3), 24, np.uint8)
    for row, text in enumerate(texts):
        top, left = pad // 2 + row * step, pad
        present = row in shown or row >= len(table)
        if row < len(table) and listed[row] == names[row]:
            box = (left, top + step // 6), (left + step * 2 // 3, top + step * 5 // 6)
            cv2.rectangle(drawn, *box, table[row].tolist(), cv2.FILLED if present else max(1, size // 12))
        put_text(drawn, text, left + step, top, size, (255, 255, 255) if present else (120, 120, 120))
    drawn.flags.writeable = False
    return drawn


def _check(image: NDArray[np.uint8], labels: NDArray[np.uint8] | None, alpha: float) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if labels is not None and (labels.dtype != np.uint8 or labels.shape != image.shape[:2]):
        raise InputError(f"labels are uint8 of the image's size {image.shape[:2]}, not {labels.dtype} {labels.shape}")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is between 0 and 1, not {alpha}")


def _coloured(labels: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Look up the colour (256, 3) of every label: (H, W, 3). OpenCV's colour map is 10 times as fast as NumPy."""
    coloured: NDArray[np.uint8] = cv2.applyColorMap(np.ascontiguousarray(labels), np.ascontiguousarray(table)[:, None])
    return coloured


def _label(
    drawn: NDArray[np.uint8],
    lines: list[str],
    left: int,
    top: int,
    colour: Colour,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write lines on plates of the box's colour, in place: above its top left corner, else just inside it.

    taken: where texts already are, xyxy; a text that would cover one moves below it while there is room, and is added.
    """
    height, width = drawn.shape[:2]
    size = text_height(drawn)
    pad = max(2, size // 4)
    texts = [text for text in (fitted(line, size, width - 2 * pad) for line in lines) if text]
    if not texts:
        return
    shapes = [text_coverage(text, size).shape for text in texts]
    step, widest = shapes[0][0], max(shape[1] for shape in shapes) + 2 * pad
    tall = step * len(texts)
    first = max(0, min(top, height - tall) if top < tall else top - tall)
    start = max(0, min(left, width - widest))
    beside = [(y1, y2) for x1, y1, x2, y2 in taken if x1 < start + widest and start < x2]
    free = first
    for y1, y2 in sorted(beside):
        if y1 < free + tall and free < y2:
            free = y2
    first = free if free + tall <= height else first
    taken.append((start, first, start + widest, first + tall))
    for row, (text, shape) in enumerate(zip(texts, shapes, strict=True)):
        x = max(0, min(left, width - shape[1] - 2 * pad))
        y = first + row * step
        shade(drawn, x, y, x + shape[1] + 2 * pad, y + step, colour, 0.85)
        put_text(drawn, text, x + pad, y, size, text_colour(colour))
