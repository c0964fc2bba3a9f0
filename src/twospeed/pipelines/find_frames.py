"""One map of the primary objects of a frame, from the frame and the motion around it, by a `FindNetwork`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from twospeed.models.find.network import STRIDE
from twospeed.models.protocol import PrimaryFinder
from twospeed.ops.motion import OFFSETS, motion_planes

SIZE = 256  # shorter side at which the network works
STEP = 2  # frames from one of `OFFSETS` to the next
AROUND = STEP * max(OFFSETS)  # frames on either side that a map depends on
_LONGEST = 3.0  # side, in shorter ones: longer images are squeezed

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SeenFrame:
    """A frame as the network sees it. image: uint8 RGB (h, w, 3). grey: uint8 (h/2, w/2), what motion is read from."""

    image: NDArray[np.uint8]
    grey: NDArray[np.uint8]


def seen(image: NDArray[np.uint8], size: int = SIZE) -> SeenFrame:
    """Scale a frame, uint8 RGB (H, W, 3), to this shorter side; both sides become multiples of 32."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    wide, high = (max(1, round(min(side * scale, _LONGEST * size) / STRIDE)) * STRIDE for side in (width, height))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return seen_again(np.asarray(cv2.resize(image, (wide, high), interpolation=how), np.uint8))


def seen_again(small: NDArray[np.uint8]) -> SeenFrame:
    """Return the frame whose `SeenFrame.image` this is."""
    height, width = small.shape[:2]
    half = cv2.resize(small, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return SeenFrame(small, np.asarray(cv2.cvtColor(half, cv2.COLOR_RGB2GRAY), np.uint8))


@torch.inference_mode()
def find_map(
    model: PrimaryFinder, centre: SeenFrame, others: Sequence[SeenFrame | None], device: torch.device
) -> NDArray[np.float32]:
    """Return how likely each place belongs to a primary object: float32 (h/2, w/2), 0..1.

    In single precision, whichever thread asks. others: the frames at `ops.motion.OFFSETS`, None where the video has
    none.
    """
    motion = torch.from_numpy(motion_planes(centre.grey, [None if one is None else one.grey for one in others]))
    pixels = torch.from_numpy(centre.image).permute(2, 0, 1)[None].to(device).float() / 255
    with torch.autocast(device.type, enabled=False):
        found: NDArray[np.float32] = model.primary_map(pixels, motion[None].to(device))[0].float().cpu().numpy()
    return found


def confidence(found: Map) -> float:
    """How sure a map is: its overlap with itself once it is made 0 or 1; 0 for one without objects."""
    mask = found > 0.5
    inside = float(found[mask].sum())
    return inside / max(float(found.sum()) + float(mask.sum()) - inside, 1e-6)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """IoU of two masks; 0 for two empty ones."""
    return float((a & b).sum()) / max(1.0, float((a | b).sum()))


def log_odds(p: Map) -> Map:
    """Log odds of probabilities, kept finite."""
    clipped = np.clip(p, 0.005, 0.995)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float32)
