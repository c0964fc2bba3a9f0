"""BL30K: some 30,000 rendered videos of 160 frames with exact masks, for stage 1 of STCN's training.

    <root>/{JPEGImages,Annotations}/<video>/00000.{jpg,png}         about 700 GB, from six archives

Source: Cheng, Tai and Tang, "Modular Interactive Video Object Segmentation" (MiVOS), CVPR 2021.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.clips.videos import Labels, VideoSource, folder_videos

SmallObjects = Literal["code", "paper"]


def bl30k_source(root: Path, *, subset: Path | None = None, small_objects: SmallObjects = "code") -> VideoSource:
    """Return the videos of BL30K: wider crops than for real videos, and no objects of a few pixels.

    subset: a file with one video name a line. small_objects: see `large_enough`. Raises DatasetError for missing
    folders.
    """
    return VideoSource(
        name="bl30k",
        videos=folder_videos(root, subset),
        area=(0.25, 1.0),
        objects=large_enough if small_objects == "code" else not_tiny,
    )


def large_enough(labels: Labels) -> list[int]:
    """Return the objects that are worth following, by the authors' code; labels (3, H, W) after the crop.

    More than 900 pixels in the first frame; or more than 100, when it never has 400 or more in the others (one that is
    seen small, and later large, was cut off or hidden in the first frame).
    """
    counts = [np.bincount(frame.reshape(-1), minlength=256) for frame in labels]
    return [
        k
        for k in range(1, VOID)
        if counts[0][k] > 900 or (counts[0][k] > 100 and max(counts[1][k], counts[2][k]) < 400)
    ]


def not_tiny(labels: Labels) -> list[int]:
    """Return the objects of 100 pixels or more in the first frame (the paper's words)."""
    counts = np.bincount(labels[0].reshape(-1), minlength=256)
    return [k for k in range(1, VOID) if counts[k] >= 100]
