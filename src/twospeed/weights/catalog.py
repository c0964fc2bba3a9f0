"""The written table of what exists: name -> builder, converter, preprocessing, labels, weights, licence, scores.

A table, not a registry: importing another file never changes it. No torch is imported here, so that `twospeed models`
and `--help` are instant; builders and converters are named as "module:function" and "module".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.weights.exported import ExportedModel

Task = Literal["classify", "detect", "track", "segment", "click"]
TASKS: tuple[Task, ...] = ("classify", "detect", "track", "segment", "click")

DEFAULT_TRACKER = "track_small"  # of everything that follows given masks; `--quality fast` takes FAST_TRACKER
FAST_TRACKER = "track_nano"
DEFAULT_FINDER = "find_nano"  # where nothing is marked; DEFAULT_TRACKER follows what it finds


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels must be brought to a network: mean and std in RGB order and 0..1 units, channel order, sampling.

    short_side, crop: pixels. frames, stride: of a clip (frames of the fastest pathway, source frames between them).
    average: how views become scores, "probabilities" (softmax, then mean) or "logits" (mean, then softmax).
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    input_order: Literal["rgb", "bgr"] = "rgb"
    short_side: int | None = None
    crop: int | None = None
    frames: int | None = None
    stride: int | None = None
    average: Literal["probabilities", "logits"] = "probabilities"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Where a model's default weights are: inside the package, or at its authors' published address.

    file: name inside the package or in the cache. url: None for shipped files. sha256: of the whole file (or its first
    digits), None where it is not published. licence, trained_on: of the weights, not of the code. options: of the
    builder, where the file is of another variant than the model's name alone (they are read from the file's shapes).
    start: made to start a training from; what it finds in a video by itself is of little use.
    """

    file: str
    url: str | None = None
    sha256: str | None = None
    licence: str = ""
    trained_on: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published file of weights that is no default: another score, a start for a training, or downloaded by hand.

    models: catalogue names that it fits, or starts. url: of the file, or of the page in a browser that offers it.
    """

    what: str
    url: str
    models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the catalogue.

    needs_masks: of a tracker, whether it must be given the masks of objects. finder: of one that need not, whether it
    is a `PrimaryFinder`, whose finds another tracker follows. person_score: of a detector of actions, the least score
    of people's boxes in its published test. exported: what a folder of graphs says of itself, for models that are no
    part of the catalogue.
    """

    name: str
    task: Task
    summary: str
    builder: str
    converter: str
    paper: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: str | None = None
    needs_masks: bool = False
    finder: bool = False
    person_score: float = 0.8
    weights: WeightsFile | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    exported: ExportedModel | None = None


_STCN_PAPER = "Cheng, Tai, Tang: Rethinking Space-Time Networks with Improved Memory Coverage, NeurIPS 2021"
_DAVIS_TERMS = (
    "non-commercial use: DAVIS-2016's code repositories say BSD, the terms of its images Creative Commons BY-NC 4.0; "
    "COCO annotations CC BY 4.0"
)
# The address behind the authors' "s012 model" link (README of hkchengrex/STCN)
_STCN_S012 = "https://drive.usercontent.google.com/download?id=1mRrE0uCI2ktdWlUgapJI_KmgeIiF2eOm&confirm=t"


def _unsupervised_tracker(frames: str, summary: str, *, unsupervised: str, semi_supervised: str) -> Entry:
    """SlowFast in Mask R-CNN; scores are J&F on DAVIS-2016 val as the report's Tables 1 and 2 give them."""
    return Entry(
        name=f"slowfast_maskrcnn_{frames}",
        task="track",
        summary=f"Mask R-CNN with SlowFast features, {summary}; no masks needed",
        builder=f"twospeed.models.slowfast_maskrcnn.builders:slowfast_maskrcnn_{frames}",
        converter="twospeed.models.slowfast_maskrcnn.convert",
        paper="Applying SlowFast Networks to Video Object Segmentation (report)",
        preprocessing=Preprocessing(short_side=800),
        scores={
            "DAVIS-2016 val J&F, unsupervised (report)": unsupervised,
            "DAVIS-2016 val J&F, semi-supervised (report)": semi_supervised,
        },
    )


_TRACK = (
    Entry(
        name="stcn",
        task="track",
        needs_masks=True,
        summary="space-time correspondence network, ResNet-50; masks given",
        builder="twospeed.models.stcn.builders:stcn",
        converter="twospeed.models.stcn.convert",
        paper=_STCN_PAPER,
        preprocessing=Preprocessing(short_side=480),
        weights=WeightsFile(
            file="stcn.pth",
            url=_STCN_S012,
            licence="MIT (code); data sets' own terms",
            trained_on="static images, BL30K, YouTube-VOS and DAVIS (s012)",
        ),
        scores={"DAVIS-2017 val J&F (authors)": "85.3", "DAVIS-2016 val J&F (authors)": "91.7"},
    ),
    Entry(
        name="track_nano",
        task="track",
        needs_masks=True,
        summary="a small STCN of our own training, shipped; masks given",
        builder="twospeed.models.stcn.builders:track_nano",
        converter="twospeed.models.stcn.convert",
        paper=_STCN_PAPER,
        preprocessing=Preprocessing(short_side=480),
        weights=WeightsFile(
            file="track_nano.safetensors",
            licence="MIT",
            trained_on="generated objects and ten DAVIS-2016 sequences (BSD); see docs/track_nano.md",
        ),
        scores={
            "DAVIS-2016 J&F, four sequences never trained on (ours)": "76.0",
            "DAVIS-2016 J&F, ten sequences trained on (ours)": "89.0",
        },
    ),
    Entry(
        name="track_small",
        task="track",
        needs_masks=True,
        summary="STCN with an ImageNet encoder that also looks at the frame before; masks given",
        builder="twospeed.models.stcn.builders:track_small",
        converter="twospeed.models.stcn.convert",
        paper=_STCN_PAPER,
        preprocessing=Preprocessing(short_side=480),
        weights=WeightsFile(
            file="track_small.safetensors",
            licence=_DAVIS_TERMS,
            trained_on="EfficientNet-Lite0's ImageNet weights (Apache-2.0), DAVIS-2016 train (512x288), 726 objects of "
            "421 freely licensed COCO images; see docs/track_small.md",
        ),
        scores={
            "DAVIS-2016 J&F, 14 sequences never trained on (ours)": "77.5",
            "DAVIS-2016 J&F, four of them that track_nano never trained on either (ours)": "82.1",
        },
    ),
    Entry(
        name="find_nano",
        task="track",
        finder=True,
        summary="finds primary objects without a mark: a wide pathway sees them, a thin one their motion",
        builder="twospeed.models.find.builders:find_nano",
        converter="twospeed.models.find.convert",
        paper="Applying SlowFast Networks to Video Object Segmentation (report)",
        preprocessing=Preprocessing(short_side=256),
        weights=WeightsFile(
            file="find_nano.safetensors",
            licence=_DAVIS_TERMS,
            trained_on="EfficientNet-Lite0's ImageNet weights (Apache-2.0), 25 DAVIS-2016 train sequences (512x288), "
            "421 freely licensed COCO images; see docs/find_nano.md",
        ),
        scores={
            "DAVIS-2016 J of single maps, five training sequences held out (ours)": "67.8",
            "DAVIS-2016 J&F without a mark, 14 validation sequences never trained on (ours)": "81.5",
        },
    ),
    Entry(
        name="click_nano",
        task="click",
        summary="masks from points, boxes and masks to correct",
        builder="twospeed.models.click.builders:click_nano",
        converter="twospeed.models.click.convert",
        paper="Sofiiuk, Petrov, Konushin: Reviving Iterative Training with Mask Guidance, ICIP 2022",
        preprocessing=Preprocessing(short_side=320),
        weights=WeightsFile(
            file="click_nano.safetensors",
            licence=_DAVIS_TERMS,
            trained_on="EfficientNet-Lite0's ImageNet weights (Apache-2.0), 873 objects of 421 freely licensed COCO "
            "images, DAVIS-2016 train (512x288); see docs/click_nano.md",
        ),
        scores={
            "DAVIS-2016 clicks to IoU 0.85, 14 sequences never trained on (ours)": "5.20",
            "DAVIS-2016 clicks to IoU 0.90 (ours)": "9.22",
            "DAVIS-2016 IoU from a box, from one click (ours)": "81.9, 73.2",
        },
    ),
    Entry(
        name="stm",
        task="track",
        needs_masks=True,
        summary="space-time memory network, STCN's parent; masks given",
        builder="twospeed.models.stm.builders:stm",
        converter="twospeed.models.stm.convert",
        paper="Oh, Lee, Xu, Kim: Video Object Segmentation Using Space-Time Memory Networks, ICCV 2019",
        preprocessing=Preprocessing(short_side=480),
        weights=WeightsFile(
            file="STM_weights.pth",
            url="https://www.dropbox.com/s/mtfxdr93xc3q55i/STM_weights.pth?dl=1",
            licence="as its authors state: research use",
            trained_on="still images, then YouTube-VOS and DAVIS",
        ),
        scores={"DAVIS-2017 val J&F (authors)": "81.8", "DAVIS-2016 val J&F (authors)": "89.3"},
    ),
    _unsupervised_tracker("1_1", "one frame", unsupervised=".645", semi_supervised=".747"),
    _unsupervised_tracker("3_3", "3 slow and 3 fast frames", unsupervised=".679", semi_supervised=".747"),
    _unsupervised_tracker("7_7", "7 slow and 7 fast frames", unsupervised=".673", semi_supervised=".755"),
    _unsupervised_tracker("1_7", "1 slow and 7 fast frames", unsupervised=".655", semi_supervised=".741"),
    _unsupervised_tracker("3_7", "3 slow and 7 fast frames", unsupervised=".676", semi_supervised=".758"),
)

_SLOWFAST_PAPER = "Feichtenhofer, Fan, Malik, He: SlowFast Networks for Video Recognition, ICCV 2019"
_SLOWFAST_REPORT = "Feichtenhofer, Fan, Malik, He: SlowFast Networks, ActivityNet 2019 AVA and Kinetics report"
_PYSLOWFAST_ZOO = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/"
_PYTORCHVIDEO_ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
_KINETICS = "Kinetics-400"
# The checksums of these files are not published by their authors
_SLOWFAST_LICENCE = "Apache-2.0 (code); the weights' terms are their authors'"


def _kinetics_views(frames: int, stride: int) -> Preprocessing:
    """Ten clips of three 256-pixel crops; values (x / 255 - 0.45) / 0.225, RGB."""
    return Preprocessing(
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        short_side=256,
        crop=256,
        frames=frames,
        stride=stride,
    )


def _recogniser(
    name: str,
    summary: str,
    *,
    frames: int = 32,
    stride: int = 2,
    paper: str = _SLOWFAST_PAPER,
    url: str | None = None,
    options: Mapping[str, Any] | None = None,
    scores: Mapping[str, str] | None = None,
) -> Entry:
    weights = None
    if url is not None:
        weights = WeightsFile(
            file=url.rpartition("/")[2],
            url=url,
            licence=_SLOWFAST_LICENCE,
            trained_on=f"{_KINETICS} from scratch",
            options=options or {},
        )
    return Entry(
        name=name,
        task="classify",
        summary=summary,
        builder=f"twospeed.models.slowfast.builders:{name}",
        converter="twospeed.models.slowfast.convert",
        paper=paper,
        preprocessing=_kinetics_views(frames, stride),
        labels="kinetics400",
        weights=weights,
        scores=scores or {},
    )


_K400 = "Kinetics-400 top-1 / top-5, 30 views (authors)"
_K700 = "Kinetics-700 top-1 / top-5, 30 views (report)"

_CLASSIFY = (
    _recogniser(
        "slowfast_r50_4x16",
        "SlowFast 4x16, ResNet-50",
        url=_PYSLOWFAST_ZOO + "SLOWFAST_4x16_R50.pkl",
        scores={_K400: "75.6 / 92.0"},
    ),
    _recogniser("slowfast_r50_4x16_nl", "SlowFast 4x16, ResNet-50, non-local blocks in res4"),
    _recogniser(
        "slowfast_r50_8x8",
        "SlowFast 8x8, ResNet-50",
        url=_PYSLOWFAST_ZOO + "SLOWFAST_8x8_R50.pkl",
        scores={_K400: "77.0 / 92.6"},
    ),
    _recogniser("slowfast_r50_8x8_nl", "SlowFast 8x8, ResNet-50, non-local blocks in res4"),
    _recogniser(
        "slowfast_r101_8x8",
        "SlowFast 8x8, ResNet-101 (the published weights: temporal kernels in all of res4)",
        url=_PYTORCHVIDEO_ZOO + "SLOWFAST_8x8_R101.pyth",
        options={"res4_temporal_blocks": None},
        scores={_K400: "77.90 / 93.27"},
    ),
    _recogniser(
        "slowfast_r101_8x8_nl",
        "SlowFast 8x8, ResNet-101, non-local blocks in res4",
        paper=_SLOWFAST_REPORT,
        scores={_K700: "70.6 / 89.7"},
    ),
    _recogniser(
        "slowfast_r101_16x8",
        "SlowFast 16x8, ResNet-101",
        frames=64,
        url=_PYTORCHVIDEO_ZOO + "SLOWFAST_16x8_R101_50_50.pyth",
        scores={_K400: "78.70 / 93.61"},
    ),
    _recogniser(
        "slowfast_r101_16x8_nl",
        "SlowFast 16x8, ResNet-101, non-local blocks in res4",
        frames=64,
        paper=_SLOWFAST_REPORT,
        scores={_K400: "79.8 / 93.9", _K700: "71.0 / 89.6"},
    ),
    _recogniser(
        "slow_r50_4x16",
        "Slow pathway alone, 4x16, ResNet-50",
        frames=4,
        stride=16,
        url=_PYSLOWFAST_ZOO + "SLOWONLY_4x16_R50.pkl",
        scores={_K400: "72.7 / 90.3"},
    ),
    _recogniser(
        "slow_r50_8x8",
        "Slow pathway alone, 8x8, ResNet-50",
        frames=8,
        stride=8,
        url=_PYSLOWFAST_ZOO + "SLOWONLY_8x8_R50.pkl",
        scores={_K400: "74.8 / 91.6"},
    ),
    _recogniser("fast_r101_32x2", "Fast pathway alone (beta = 1), ResNet-101", paper=_SLOWFAST_REPORT),
    _recogniser(
        "fast_r101_32x2_nl",
        "Fast pathway alone (beta = 1), ResNet-101, non-local blocks in res4",
        paper=_SLOWFAST_REPORT,
        scores={_K700: "70.6 / 89.7"},
    ),
    Entry(
        name="slowfast_lite0",
        task="classify",
        summary="a small SlowFast, the start of `twospeed train actions`: ImageNet encoder, Fast pathway for motion",
        builder="twospeed.models.slowfast.lite:slowfast_lite0",
        converter="twospeed.models.slowfast.convert",
        paper=_SLOWFAST_PAPER,
        preprocessing=Preprocessing(
            mean=(127 / 255,) * 3, std=(128 / 255,) * 3, short_side=192, crop=192, frames=16, stride=1
        ),
        weights=WeightsFile(
            file="slowfast_lite0.safetensors",
            licence="MIT (Fast pathway); Apache-2.0 (EfficientNet-Lite0's ImageNet weights)",
            trained_on="EfficientNet-Lite0's ImageNet weights, and 27 generated motions; see docs/slowfast_lite0.md",
            start=True,
        ),
    ),
)

_PYSLOWFAST_AVA = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/ava/"
_PYTORCHVIDEO_AVA = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/ava/"
_AVA = "AVA v2.2 val, mAP at IoU 0.5 (authors)"
_AVA_REPORT = "AVA v2.2 val, mAP at IoU 0.5 (report)"


def _detector(
    name: str,
    summary: str,
    *,
    frames: int = 32,
    stride: int = 2,
    paper: str = _SLOWFAST_PAPER,
    url: str | None = None,
    trained_on: str = "",
    scores: Mapping[str, str] | None = None,
    person_score: float = 0.8,
) -> Entry:
    weights = None
    if url is not None:
        weights = WeightsFile(file=url.rpartition("/")[2], url=url, licence=_SLOWFAST_LICENCE, trained_on=trained_on)
    return Entry(
        name=name,
        task="detect",
        summary=summary,
        builder=f"twospeed.models.slowfast.detection:{name}",
        converter="twospeed.models.slowfast.convert",
        paper=paper,
        preprocessing=Preprocessing(
            mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), short_side=256, frames=frames, stride=stride
        ),
        labels="ava",
        person_score=person_score,
        weights=weights,
        scores=scores or {},
    )


_DETECT = (
    _detector("slowfast_r50_4x16_ava", "SlowFast 4x16, ResNet-50, for boxes"),
    _detector("slowfast_r50_4x16_nl_ava", "SlowFast 4x16, ResNet-50, non-local blocks in res4, for boxes"),
    _detector(
        "slowfast_r50_8x8_ava",
        "SlowFast 8x8, ResNet-50, for boxes",
        url=_PYTORCHVIDEO_AVA + "SLOWFAST_8x8_R50_DETECTION.pyth",
        trained_on="Kinetics-400, then AVA v2.2",
        scores={_AVA: "24.67"},
    ),
    _detector("slowfast_r50_8x8_nl_ava", "SlowFast 8x8, ResNet-50, non-local blocks in res4, for boxes"),
    _detector("slowfast_r101_8x8_ava", "SlowFast 8x8, ResNet-101, for boxes"),
    _detector(
        "slowfast_r101_8x8_nl_ava",
        "SlowFast 8x8, ResNet-101, non-local blocks in res4, for boxes",
        paper=_SLOWFAST_REPORT,
        url=_PYSLOWFAST_AVA + "SLOWFAST_32x2_R101_50_50.pkl",
        trained_on="Kinetics-600, then AVA v2.2",
        scores={_AVA: "29.1", _AVA_REPORT: "29.0"},
    ),
    _detector("slowfast_r101_16x8_ava", "SlowFast 16x8, ResNet-101, for boxes", frames=64),
    _detector(
        "slowfast_r101_16x8_nl_ava",
        "SlowFast 16x8, ResNet-101, non-local blocks in res4, for boxes",
        frames=64,
        paper=_SLOWFAST_REPORT,
        url=_PYSLOWFAST_AVA + "SLOWFAST_64x2_R101_50_50.pkl",
        trained_on="Kinetics-600, then AVA v2.2",
        scores={_AVA: "29.4", _AVA_REPORT + ", built with context=True": "29.8 (several scales and flip: 30.7)"},
    ),
    _detector(
        "slow_r50_4x16_ava",
        "Slow pathway alone, 4x16, ResNet-50, for boxes",
        frames=4,
        stride=16,
        url=_PYTORCHVIDEO_AVA + "SLOW_4x16_R50_DETECTION.pyth",
        trained_on="Kinetics-400, then AVA v2.2",
        scores={_AVA: "19.5"},
        person_score=0.9,
    ),
    _detector("slow_r50_8x8_ava", "Slow pathway alone, 8x8, ResNet-50, for boxes", frames=8, stride=8),
    _detector("fast_r101_32x2_ava", "Fast pathway alone (beta = 1), ResNet-101, for boxes", paper=_SLOWFAST_REPORT),
    _detector(
        "fast_r101_32x2_nl_ava",
        "Fast pathway alone (beta = 1), ResNet-101, non-local blocks in res4, for boxes",
        paper=_SLOWFAST_REPORT,
        scores={_AVA_REPORT: "27.4"},
    ),
)

_SWIFTNET_PAPER = "Orsic, Kreso, Bevandic, Segvic: In Defense of Pre-trained ImageNet Architectures, CVPR 2019"
_BISENET_PAPER = "Yu, Wang, Peng, Gao, Yu, Sang: BiSeNet: Bilateral Segmentation Network, ECCV 2018"
_GSVNET_PAPER = (
    "Lee, Chen, Peng: GSVNet: Guided Spatially-Varying Convolution for Fast Segmentation on Video, ICME 2021"
)
_SWIFTNET_PIXELS = Preprocessing(mean=(0.28686, 0.32510, 0.28353), std=(0.18694, 0.19016, 0.18718))
_CITYSCAPES = "Cityscapes val mIoU (authors)"


def _segmenter(
    name: str,
    summary: str,
    family: str,
    paper: str,
    preprocessing: Preprocessing | None = None,
    scores: Mapping[str, str] | None = None,
    *,
    labels: str = "cityscapes",
    weights: WeightsFile | None = None,
) -> Entry:
    joined = family == "gsvnet"  # three networks of as many families
    return Entry(
        name=name,
        task="segment",
        summary=summary,
        builder=f"twospeed.weights.gsvnet:{name}" if joined else f"twospeed.models.{family}.builders:{name}",
        converter="twospeed.weights.gsvnet" if joined else f"twospeed.models.{family}.convert",
        paper=paper,
        preprocessing=preprocessing or Preprocessing(),
        labels=labels,
        weights=weights,
        scores=scores or {},
    )


_SEGMENT = (
    _segmenter(
        "swiftnet_r18",
        "SwiftNet, ResNet-18, single scale: an image at a time",
        "swiftnet",
        _SWIFTNET_PAPER,
        _SWIFTNET_PIXELS,
        {_CITYSCAPES + " at 0.75, 0.5": "74.4, 68.7"},
    ),
    _segmenter(
        "swiftnet_r18_pyramid",
        "SwiftNet, ResNet-18, interleaved pyramid: an image at a time",
        "swiftnet",
        _SWIFTNET_PAPER,
        _SWIFTNET_PIXELS,
    ),
    _segmenter(
        "bisenet_r18",
        "BiSeNet, ResNet-18: an image at a time",
        "bisenet",
        _BISENET_PAPER,
        scores={_CITYSCAPES + " at 0.75, 0.5": "73.7, 68.9"},
    ),
    _segmenter(
        "gsvnet_swiftnet_r18",
        "GSVNet: SwiftNet-R18 on keyframes, propagation between them",
        "gsvnet",
        _GSVNET_PAPER,
        _SWIFTNET_PIXELS,
        {_CITYSCAPES + ", keyframe every 2, 3, 4": "73.6, 72.6, 71.8"},
    ),
    _segmenter(
        "gsvnet_bisenet_r18",
        "GSVNet: BiSeNet-R18 on keyframes, propagation between them",
        "gsvnet",
        _GSVNET_PAPER,
        scores={_CITYSCAPES + ", keyframe every 2, 3, 4": "72.9, 72.0, 71.2"},
    ),
    _segmenter(
        "segment_nano",
        "a small GSVNet of our own training on CamVid, shipped: 11 classes of driving",
        "gsvnet",
        _GSVNET_PAPER,
        Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        labels="camvid",
        weights=WeightsFile(
            file="segment_nano.safetensors",
            licence="CC BY-NC 4.0: research and other non-commercial use, as CamVid",
            trained_on="CamVid's training frames, from ImageNet weights of EfficientNet-Lite0 (Apache-2.0); see "
            "docs/segment_nano.md",
        ),
    ),
)

KINETICS_600: Mapping[str, str] = {
    "slowfast_r101_8x8_nl": _PYSLOWFAST_AVA + "pretrain/SLOWFAST_32x2_R101_50_50.pkl",
    "slowfast_r101_16x8_nl": _PYSLOWFAST_AVA + "pretrain/SLOWFAST_64x2_R101_50_50.pkl",
}
"""Addresses of weights trained on Kinetics-600 (authors), from which trainings on AVA and Kinetics-700 start."""

_STCN_NAMES = ("stcn",)
_GSVNET_FILE = "https://drive.google.com/file/d/{}/view"  # the links of its authors' README
_TORCHVISION = "https://download.pytorch.org/models/"
_RESNET18_STARTS = ("stcn", "swiftnet_r18", "swiftnet_r18_pyramid", "bisenet_r18")

PUBLISHED: tuple[PublishedFile, ...] = (
    PublishedFile(
        what="AVA v2.1, mAP 28.2 (authors): a Caffe2 pickle",
        url=_PYSLOWFAST_AVA + "SLOWFAST_32x2_R101_50_50_v2.1.pkl",
        models=("slowfast_r101_8x8_nl_ava",),
    ),
    PublishedFile(
        what="start for AVA v2.1: trained on Kinetics-600",
        url=_PYSLOWFAST_AVA + "pretrain/SLOWFAST_32x2_R101_50_50_v2.1.pkl",
        models=("slowfast_r101_8x8_nl_ava",),
    ),
    PublishedFile(
        what="start for AVA v2.2: trained on Kinetics-600",
        url=KINETICS_600["slowfast_r101_8x8_nl"],
        models=("slowfast_r101_8x8_nl_ava",),
    ),
    PublishedFile(
        what="start for AVA v2.2: trained on Kinetics-600",
        url=KINETICS_600["slowfast_r101_16x8_nl"],
        models=("slowfast_r101_16x8_nl_ava",),
    ),
    PublishedFile(
        what="STCN s03 (stills, YouTube-VOS and DAVIS; without BL30K): download it in a browser",
        url="https://drive.google.com/file/d/1JllXPJZola0G-g1aUQfXe9nLMBioj-aH/view",
        models=_STCN_NAMES,
    ),
    PublishedFile(
        what="STCN s0 (stills alone) and s01 (with BL30K), starts for the main training: files of the release",
        url="https://github.com/hkchengrex/STCN/releases/tag/1.0",
        models=_STCN_NAMES,
    ),
    PublishedFile(
        what="SwiftNet-R18 on Cityscapes, GSVNet's keyframe network: download it in a browser",
        url=_GSVNET_FILE.format("1_FxwIwK52OEMCx5gOz3LgFJTgX2J_rG7"),
        models=("swiftnet_r18", "gsvnet_swiftnet_r18"),
    ),
    PublishedFile(
        what="BiSeNet-R18 on Cityscapes, GSVNet's keyframe network: download it in a browser",
        url=_GSVNET_FILE.format("11tr04lZCWtU1dQXLCteEOSYnUE2REt4V"),
        models=("bisenet_r18", "gsvnet_bisenet_r18"),
    ),
    PublishedFile(
        what="GSVNet's propagation and flow around SwiftNet-R18, Cityscapes, 72.5 mIoU at l = 3 (authors): in a "
        "browser; give it as weights, and the keyframe network's file as keyframe_weights",
        url=_GSVNET_FILE.format("1VIfO-T0EWhdOiHrorAppLZQFuMUwcjC6"),
        models=("gsvnet_swiftnet_r18",),
    ),
    PublishedFile(
        what="GSVNet's propagation and flow around BiSeNet-R18, Cityscapes, 72.0 mIoU at l = 3 (authors): in a "
        "browser; give it as weights, and the keyframe network's file as keyframe_weights",
        url=_GSVNET_FILE.format("16adWqQRmzpQFGP8-EmGKn_ctXP8PPQPO"),
        models=("gsvnet_bisenet_r18",),
    ),
    PublishedFile(
        what="FlowNet2S, a start for training with flow='flownet2s': download it in a browser",
        url=_GSVNET_FILE.format("1A8FKDbMKORz9U_swRxLaCUFcmY4eAZYj"),
        models=("gsvnet_swiftnet_r18", "gsvnet_bisenet_r18"),
    ),
    PublishedFile(
        what="start: torchvision's ResNet-18 on ImageNet",
        url=_TORCHVISION + "resnet18-f37072fd.pth",
        models=_RESNET18_STARTS,
    ),
    PublishedFile(
        what="start: torchvision's ResNet-50 on ImageNet",
        url=_TORCHVISION + "resnet50-0676ba61.pth",
        models=("stcn", "stm"),
    ),
    PublishedFile(
        what="start for backbone='wide_resnet50': torchvision's Wide ResNet-50-2 on ImageNet",
        url=_TORCHVISION + "wide_resnet50_2-95faca4d.pth",
        models=_STCN_NAMES,
    ),
    PublishedFile(
        what="start: torchvision's Mask R-CNN on COCO",
        url=_TORCHVISION + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        models=tuple(entry.name for entry in _TRACK if entry.name.startswith("slowfast_maskrcnn")),
    ),
)


CATALOG: Mapping[str, Entry] = {entry.name: entry for entry in (*_CLASSIFY, *_DETECT, *_TRACK, *_SEGMENT)}


def list_models(task: Task | None = None) -> list[str]:
    """Return the names of all models, sorted; only those of one task if given.

    Raises InputError for an unknown task.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    return sorted(name for name, entry in CATALOG.items() if task in (None, entry.task))


def find(name: str) -> Entry:
    """Return a model's line; that of an exported model for the folder where it lies.

    A name of the catalogue wins over a folder of that name: write "./track_nano" for the folder. Raises InputError with
    near names when there is neither, CheckpointError for a damaged folder.
    """
    if name in CATALOG:
        return CATALOG[name]
    if Path(name).is_dir():
        from twospeed.weights.exported import read_exported

        return read_exported(Path(name)).entry
    near = difflib.get_close_matches(name, CATALOG, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`twospeed models` lists what exists"
    raise InputError(f"unknown model {name!r}; {hint}")


def published_for(name: str) -> list[PublishedFile]:
    """Return the published files beside the default weights that fit a model, or start its training."""
    return [file for file in PUBLISHED if name in file.models]
