"""SlowFast in Mask R-CNN by the names of the report: m-n, m slow and n fast frames (its Table 1)."""

from __future__ import annotations

from typing import Any

from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN


def slowfast_maskrcnn(slow_frames: int, fast_frames: int, **options: Any) -> SlowFastMaskRCNN:
    """Build any odd m-n with m <= n. options: of `SlowFastMaskRCNN`. Raises ValueError for other numbers."""
    return SlowFastMaskRCNN(slow_frames, fast_frames, **options)


def slowfast_maskrcnn_1_1(**options: Any) -> SlowFastMaskRCNN:
    """Build 1-1, which sees one frame: 45,421,851 parameters."""
    return SlowFastMaskRCNN(1, 1, **options)


def slowfast_maskrcnn_3_3(**options: Any) -> SlowFastMaskRCNN:
    """Build 3-3: 46,398,747 parameters."""
    return SlowFastMaskRCNN(3, 3, **options)


def slowfast_maskrcnn_7_7(**options: Any) -> SlowFastMaskRCNN:
    """Build 7-7: 48,407,835 parameters."""
    return SlowFastMaskRCNN(7, 7, **options)


def slowfast_maskrcnn_1_7(**options: Any) -> SlowFastMaskRCNN:
    """Build 1-7, one slow frame among seven fast ones: 45,618,459 parameters."""
    return SlowFastMaskRCNN(1, 7, **options)


def slowfast_maskrcnn_3_7(**options: Any) -> SlowFastMaskRCNN:
    """Build 3-7: 46,570,779 parameters."""
    return SlowFastMaskRCNN(3, 7, **options)
