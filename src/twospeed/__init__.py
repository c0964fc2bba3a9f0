"""Video understanding at two speeds: what people do, where each object is, what every pixel is.

The public names, each written once. Importing this module loads nothing else (no NumPy, no torch): names are
fetched from their modules on first use.
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

if TYPE_CHECKING:
    from twospeed.evaluation.export import export_model
    from twospeed.pipelines.classify import Classifier, classify
    from twospeed.pipelines.detect import Detector, detect
    from twospeed.pipelines.finetune import OneShotTracker
    from twospeed.pipelines.prompts import mask_from_prompts
    from twospeed.pipelines.segment import Segmenter, segment
    from twospeed.pipelines.track import track
    from twospeed.pipelines.tracker import Tracker
    from twospeed.pipelines.unsupervised import UnsupervisedTracker
    from twospeed.results import (
        ActionBoxes,
        ActionScores,
        ActionSpan,
        ClassMap,
        Frame,
        LabelMap,
        ObjectMasks,
        Progress,
        VideoInfo,
    )
    from twospeed.video.reader import open_video, read_frames, read_reverse
    from twospeed.weights.catalog import list_models
    from twospeed.weights.load import create_model

__version__ = "0.1.0"

_LAZY = {
    "ActionBoxes": "twospeed.results",
    "ActionScores": "twospeed.results",
    "ActionSpan": "twospeed.results",
    "ClassMap": "twospeed.results",
    "Classifier": "twospeed.pipelines.classify",
    "Detector": "twospeed.pipelines.detect",
    "Frame": "twospeed.results",
    "LabelMap": "twospeed.results",
    "ObjectMasks": "twospeed.results",
    "OneShotTracker": "twospeed.pipelines.finetune",
    "Progress": "twospeed.results",
    "Segmenter": "twospeed.pipelines.segment",
    "Tracker": "twospeed.pipelines.tracker",
    "UnsupervisedTracker": "twospeed.pipelines.unsupervised",
    "VideoInfo": "twospeed.results",
    "classify": "twospeed.pipelines.classify",
    "create_model": "twospeed.weights.load",
    "detect": "twospeed.pipelines.detect",
    "export_model": "twospeed.evaluation.export",
    "list_models": "twospeed.weights.catalog",
    "mask_from_prompts": "twospeed.pipelines.prompts",
    "open_video": "twospeed.video.reader",
    "read_frames": "twospeed.video.reader",
    "read_reverse": "twospeed.video.reader",
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
    "OneShotTracker",
    "OutputError",
    "Progress",
    "Segmenter",
    "Tracker",
    "TwospeedError",
    "UnsupervisedTracker",
    "VideoError",
    "VideoInfo",
    "WeightsUnavailable",
    "__version__",
    "classify",
    "create_model",
    "detect",
    "export_model",
    "list_models",
    "mask_from_prompts",
    "open_video",
    "read_frames",
    "read_reverse",
    "segment",
    "track",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'twospeed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
