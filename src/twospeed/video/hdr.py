"""HDR images (PQ and HLG curves) as SDR, so that networks and people see them as they would look.

    code value -> light in units of reference white (203 cd/m2) -> BT.709 primaries -> roll-off -> 8 bits

Light up to `KNEE` of reference white keeps its value; above, it is rolled off so that `PEAK` just reaches full white:
t (1 + t / T^2) / (1 + t) of the part above the knee, of the largest of red, green and blue; the other two follow in
proportion, so that hues stay. The result is coded by the inverse of BT.1886 (gamma 2.4).

Sources: SMPTE ST 2084 (PQ); ITU-R BT.2100 (HLG, with its OOTF for a display of 1,000 cd/m2); ITU-R BT.2408 (reference
white); ITU-R BT.2087 (primaries); the roll-off is that of Reinhard et al. 2002, equation 4, above a knee.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer characteristics of ISO 23091-2
BT2020 = 9  # its primaries
WHITE = 203.0  # cd/m2
PEAK = 1000.0 / WHITE
KNEE = 0.5
GAMMA = 2.4

TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]], np.float32)  # of BT.2020


def is_hdr(frame: Any) -> bool:
    """True if a decoded frame states one of the two HDR curves."""
    return frame.color_trc in (PQ, HLG)


def tone_mapped(codes: NDArray[np.uint16], curve: int, primaries: int) -> NDArray[np.uint8]:
    """Turn full-range R'G'B' codes, uint16 (H, W, 3), of this curve into SDR: uint8 (H, W, 3)."""
    light = _light(curve)[codes]
    if curve == HLG:
        light *= np.maximum(cv2.transform(light, LUMINANCE), 1e-6)[..., None] ** 0.2 * np.float32(1000.0 / WHITE)
    if primaries == BT2020:
        light = np.maximum(cv2.transform(light, TO_BT709), 0)
    largest = light.max(axis=2)
    above = np.maximum(largest - KNEE, 0) / (1 - KNEE)
    most = (PEAK - KNEE) / (1 - KNEE)
    rolled = np.minimum(largest, KNEE) + (1 - KNEE) * above * (1 + above / most**2) / (1 + above)
    light *= (rolled / np.maximum(largest, 1e-6))[..., None]
    return _coded()[(np.sqrt(np.minimum(light, 1)) * 4095 + 0.5).astype(np.uint16)]


@lru_cache(maxsize=2)
def _light(curve: int) -> NDArray[np.float32]:
    """Light of each 16-bit code: PQ in units of white; HLG as scene light, 0 to 1."""
    code = np.linspace(0, 1, 65536)
    if curve == PQ:
        root = code ** (32 / 2523)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
        return (10_000 / WHITE * light).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=1)
def _coded() -> NDArray[np.uint8]:
    """8-bit codes of 4,096 square roots of light, which are as fine in the dark as the codes."""
    return np.round(255 * np.linspace(0, 1, 4096) ** (2 / GAMMA)).astype(np.uint8)
