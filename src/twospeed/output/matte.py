"""From masks to mattes: soft edges, and colours of the foreground that carry nothing of the background there.

Alpha is 1 inside, 0 outside, and follows the network's probabilities in a band along the edge alone. Colours within
the band are drawn towards those of the object nearby, and continue outside of it: neither scaling nor a codec that
stores colours at half size then mixes a dark seam into the edge.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.results import ObjectMasks

Image = NDArray[np.uint8]
_LOW, _HIGH = 0.1, 0.9  # probabilities at which alpha is 0 and 1


def edge_radius(height: int, width: int) -> int:
    """Return how far, in pixels, a soft edge reaches to each side: 4 at 480 lines."""
    return max(2, round(min(height, width) / 120))


def soft_alpha(inside: NDArray[np.bool_], probability: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return alpha (H, W), 0..1, of a mask (H, W). probability: (H, W), of being inside.

    Smoothing takes its place where there is none, and along edges where it jumps from 0 to 1, as that of given masks.

    Within the reach of `edge_radius` alpha is probability, stretched so that what is nearly certain is certain; the
    further from the edge, the less it may deviate from the mask.
    """
    height, width = inside.shape
    alpha = np.zeros((height, width), np.float32)
    radius = edge_radius(height, width)
    part = _part(inside, radius + 1)
    if part is None:
        return alpha
    pixels = np.ascontiguousarray(inside[part]).view(np.uint8)
    soft = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), radius / 4)
    if probability is not None:
        stretched = np.clip((probability[part] - _LOW) / (_HIGH - _LOW), 0, 1)
        between = ((stretched > 0) & (stretched < 1)).view(np.uint8)
        near = cv2.dilate(between, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
        edge = cv2.dilate(pixels, np.ones((3, 3), np.uint8)) != cv2.erode(pixels, np.ones((3, 3), np.uint8))
        jumps = cv2.dilate((edge & (near == 0)).view(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
        soft = np.where(jumps & ~between, soft, stretched)
    outside = cv2.distanceTransform(1 - pixels, cv2.DIST_L2, 3)
    # Signed distance to the edge, which runs between pixels. The image's border is no edge.
    bordered = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    within = cv2.distanceTransform(bordered, cv2.DIST_L2, 3)[1:-1, 1:-1]
    distance = np.where(pixels, within - 0.5, 0.5 - outside)
    share = distance.astype(np.float32) / radius
    alpha[part] = np.clip(soft, np.clip(share, 0, 1), np.clip(1 + share, 0, 1))
    return alpha


def foreground(image: Image, alpha: NDArray[np.float32]) -> Image:
    """Return the colours of what alpha (H, W) shows, without those of the background mixed in: uint8 (H, W, 3).

    Where alpha is 1 they are the image's; along edges they come more and more from surely visible pixels nearby; far
    from anything visible they are black.
    """
    radius = edge_radius(*alpha.shape)
    cleaned = np.zeros_like(image)
    part = _part(alpha > 0, 4 * radius)
    if part is None:
        return cleaned
    own, colours = alpha[part], image[part]
    height, width = own.shape
    # Means over some pixels do not need every pixel: they are taken at a size at which the radius is one pixel
    weight = own**8
    weighted = cv2.merge([*(channel * weight for channel in cv2.split(colours)), weight])
    small = (max(1, width // radius), max(1, height // radius))
    weighted = cv2.resize(weighted, small, interpolation=cv2.INTER_AREA)
    estimate = np.zeros((*weighted.shape[:2], 3), np.float32)
    for size in (17, 5):  # the wider one fills what the narrower one does not reach
        sums = cv2.blur(weighted, (size, size))
        total = sums[..., 3:]
        estimate = np.where(total > 1e-3, sums[..., :3] / np.maximum(total, 1e-6), estimate)
    near = cv2.resize(estimate, (width, height), interpolation=cv2.INTER_LINEAR)
    trust = own**3
    mixed = [
        cv2.blendLinear(channel.astype(np.float32), np.ascontiguousarray(near[..., place]), trust, 1 - trust)
        for place, channel in enumerate(cv2.split(colours))
    ]
    cleaned[part] = np.round(cv2.merge(mixed)).clip(0, 255).astype(np.uint8)
    return cleaned


def matte(image: Image, masks: ObjectMasks, object_id: int | None = None) -> NDArray[np.uint8]:
    """Return one object, or all, with straight alpha: uint8 (H, W, 4), RGBA."""
    alpha = alpha_of(masks, object_id)
    return np.dstack([foreground(image, alpha), np.round(alpha * 255).astype(np.uint8)])


def alpha_of(masks: ObjectMasks, object_id: int | None = None) -> NDArray[np.float32]:
    """Return alpha (H, W), 0..1, of one object or of all."""
    inside = masks.labels == object_id if object_id is not None else (masks.labels > 0) & (masks.labels < 255)
    if not inside.any():
        return np.zeros(inside.shape, np.float32)
    planes = masks.probabilities
    if len(planes) != len(masks.object_ids) + 1:
        return soft_alpha(inside)
    place = None if object_id is None else 1 + masks.object_ids.index(object_id)
    return soft_alpha(inside, 1 - planes[0] if place is None else planes[place])


def premultiplied(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiply straight colours (H, W, 4) by alpha."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.dstack([((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8), rgba[..., 3]])


def write_exr(path: Path, rgba: NDArray[np.uint8], *, premultiply: bool) -> None:
    """Write RGBA (H, W, 4), straight, as an OpenEXR image of half floats, uncompressed, in linear light (from sRGB).

    premultiply: by alpha, which is what OpenEXR's readers expect. Source: openexr.com, "OpenEXR file layout".
    """
    height, width = rgba.shape[:2]
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    alpha = rgba[..., 3] / 255
    colours = linear[rgba[..., :3]] * (alpha[..., None] if premultiply else 1)
    planes = np.stack([alpha, colours[..., 2], colours[..., 1], colours[..., 0]], axis=1).astype("<f2")  # (H, 4, W)
    channels = b"".join(name + b"\0" + struct.pack("<iB3xii", 1, 0, 1, 1) for name in (b"A", b"B", b"G", b"R")) + b"\0"
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [
        (b"channels", b"chlist", channels),
        (b"compression", b"compression", b"\0"),
        (b"dataWindow", b"box2i", window),
        (b"displayWindow", b"box2i", window),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1)),
    ]
    header = struct.pack("<ii", 20000630, 2)
    for name, kind, value in attributes:
        header += name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    size = 8 * width  # of a row: four channels of two bytes
    offsets = len(header) + 8 * height + (8 + size) * np.arange(height, dtype="<u8")
    rows = np.empty((height, 8 + size), np.uint8)
    rows[:, :4] = np.arange(height, dtype="<i4").view(np.uint8).reshape(height, 4)
    rows[:, 4:8] = np.frombuffer(struct.pack("<i", size), np.uint8)
    rows[:, 8:] = planes.reshape(height, -1).view(np.uint8)
    path.write_bytes(header + offsets.tobytes() + rows.tobytes())


def _part(inside: NDArray[np.bool_], margin: int) -> Any:
    """Return the slices of what encloses all pixels inside, with a margin; None where there are none."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(inside).view(np.uint8))
    if not width:
        return None
    return np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
