"""Video understanding at two speeds: what people do, where each object is, what every pixel is.

The public names, each written once. Importing this module loads no network and no decoder: names are fetched from their
modules on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from twospeed.errors import (
    CheckpointError,
    ClipTooShort,
    DatasetError,
    InputError,
    MaskError,
    OutputError,
    TwospeedError,
    VideoError,
    WeightsUnavailable,
)
from twospeed.results import ActionBoxes, ActionScores, ActionSpan, ClassMap, Frame, LabelMap, ObjectMasks, VideoInfo
from twospeed.weights.catalog import list_models

if TYPE_CHECKING:
    from twospeed.pipelines.classify import Classifier, classify
    from twospeed.pipelines.detect import Detector, detect
    from twospeed.pipelines.segment import Segmenter, segment
    from twospeed.pipelines.track import Tracker, track
    from twospeed.video.reader import open_video
    from twospeed.weights.load import create_model

__version__ = "0.1.0"

_LAZY = {
    "Classifier": "twospeed.pipelines.classify",
    "Detector": "twospeed.pipelines.detect",
    "Segmenter": "twospeed.pipelines.segment",
    "Tracker": "twospeed.pipelines.track",
    "classify": "twospeed.pipelines.classify",
    "create_model": "twospeed.weights.load",
    "detect": "twospeed.pipelines.detect",
    "open_video": "twospeed.video.reader",
    "segment": "twospeed.pipelines.segment",
    "track": "twospeed.pipelines.track",
}

__all__ = [
    "ActionBoxes",
    "ActionScores",
    "ActionSpan",
    "CheckpointError",
    "ClassMap",
    "Classifier",
    "ClipTooShort",
    "DatasetError",
    "Detector",
    "Frame",
    "InputError",
    "LabelMap",
    "MaskError",
    "ObjectMasks",
    "OutputError",
    "Segmenter",
    "Tracker",
    "TwospeedError",
    "VideoError",
    "VideoInfo",
    "WeightsUnavailable",
    "__version__",
    "classify",
    "create_model",
    "detect",
    "list_models",
    "open_video",
    "segment",
    "track",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'twospeed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
