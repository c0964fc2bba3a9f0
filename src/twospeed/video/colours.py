"""How a video stores its colours: what is written of it is stored the same way, so that players show both alike."""

from __future__ import annotations

from typing import Any

from twospeed.results import ColourTags
from twospeed.video.hdr import is_hdr

_BT709, _BT601 = 1, 5
_MATRICES = {_BT709: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # matrix as stated -> the one that FFmpeg's scaler knows

BT709 = ColourTags()
"""What videos without a source are stored as."""


def colours_of(frame: Any) -> ColourTags:
    """Return how a decoded frame's colours are stored, once it has been read as RGB.

    HDR is read as BT.709; of matrices that are none for 4:2:0 (RGB itself, YCgCo) BT.709's takes the place.
    """
    if is_hdr(frame):
        return BT709
    matrix = int(frame.colorspace)
    known = matrix == ColourTags.NOT_STATED or matrix in _MATRICES
    return ColourTags(
        matrix if known else _BT709, int(frame.color_primaries), int(frame.color_trc), int(frame.color_range) == 2
    )


def scaler_matrix(tags: ColourTags) -> int:
    """Return the matrix by which RGB becomes what is stored: BT.601's where none is stated, as for reading."""
    return _BT601 if tags.matrix == ColourTags.NOT_STATED else _MATRICES[tags.matrix]
