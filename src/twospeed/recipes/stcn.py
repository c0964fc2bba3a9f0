"""Train a network that follows masks: STCN, STM, or the small ones that ship with twospeed.

    twospeed train stcn --preset static --static static --key-backbone-weights resnet50.pth \
        --value-backbone-weights resnet18.pth                                              stage 0, still images
    twospeed train stcn --preset video --davis DAVIS/2017/trainval --youtube-vos YouTube   stage 3, after stage 0
    twospeed train stcn --preset stage1 --bl30k BL30K                                      stage 1, after stage 0
    twospeed train stcn --preset stage2 --davis ... --youtube-vos ...                      stage 2, after stage 1
    twospeed train stcn --preset nano --davis DAVIS --minutes 96                           track_nano, on a CPU
    twospeed train stcn --preset small --davis TRAIN --validation DAVIS --coco COCO --key-backbone-weights lite0.pth
    torchrun --nproc-per-node 2 -m twospeed.cli.main train stcn ...

Presets that end in `_stm` train STM (the baseline of the supplement's Table 1), those in `_trial` a narrow STCN for a
minute or two. Which sets are given, is trained on: stills (FSS-1000, DUTS, ECSSD, BIG, HRSOD; COCO's objects) once or
five times an epoch, DAVIS five times, YouTube-VOS and BL30K once, and generated clips. DAVIS-2016 as it is:
`--davis DIR --davis-year 2016`; frames of any size are found (JPEGImages/480p, JPEGImages/288p). Sequences named in
`held_out` are never trained on, only scored.

The defaults are the authors' stage 3: Adam at 1e-5, 8 samples a step, 150K iterations (stage 0: 16 samples, 300K;
stage 1: 500K; stage 2: 300K), frames further apart as training goes on and close again at its end; 85.4 J&F on
DAVIS-2017 val after stages 0 and 3 (85.1 to 85.5 from run to run); about 30 hours on two GPUs of 11 GB. Their finding:
without stage 0 the later ones do not reach their scores. Where their paper and code differ, the code's way is the
default, since it made the released weights; the paper's: `--frame-choice paper --crop-aspect 0.75,1.25
--small-objects paper`, and in stage 1 `--lr-boundaries 0.9`. What was trained here: docs/papers/stcn.md,
docs/track_nano.md.

In the run folder: config.json, origin.json, train.csv, validation.csv, metrics.jsonl, checkpoints, latest.safetensors
after each validation, and weights.safetensors: the best in validation, or the last ones where nothing is held out; the
next stage starts from them, and `create_model` takes them. `--resume` continues from the last checkpoint. With
`iterations` on a CPU the curve is the same to the last digit as without the interruption; with `minutes` the schedule
follows the training time spent.

Source: Cheng 2021, section 4 and supplement, and the authors' code, which agree but where it says so.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.data.benchmarks.coco import find_objects
from twospeed.data.benchmarks.davis import Davis, Year
from twospeed.data.benchmarks.stills import LAYOUTS, find_pairs
from twospeed.data.benchmarks.video_folders import VideoFolders, read_names, youtube_vos_training
from twospeed.data.clips.stills import StillClips
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import ClipKey, ClipMix, ClipSource, TrainingBatch, stack_clips
from twospeed.data.clips.videos import (
    AROUND_OBJECTS,
    BORDERS,
    GAPS,
    AnnotatedVideo,
    AnnotatedVideos,
    FrameChoice,
    FrameMotion,
    VideoClips,
    decoded,
    large_enough,
    max_gap,
    not_tiny,
)
from twospeed.data.loading import load
from twospeed.data.samples import SequenceSample
from twospeed.errors import CheckpointError, InputError
from twospeed.metrics.regions import score_frame
from twospeed.models.banks import Similarity
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite, imagenet_state
from twospeed.models.encoders.imagenet import start_from_imagenet
from twospeed.models.stcn import convert as stcn_names
from twospeed.models.stcn.loss import kept_fraction
from twospeed.models.stcn.network import STCN
from twospeed.models.stm import convert as stm_names
from twospeed.models.stm.network import STM
from twospeed.models.unrolled import UnrolledPropagation, propagation_loss
from twospeed.ops.bf16 import autocast
from twospeed.pipelines.tracker import Tracker
from twospeed.results import OnProgress
from twospeed.training.batch_norm import precise_bn
from twospeed.training.clock import StepClock
from twospeed.training.distributed import Process, epoch_batches, gradients_stay_here, parallel, processes, total
from twospeed.training.optim import gradient_norm, set_learning_rate
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.run import Run
from twospeed.training.schedule import check_length, half_cosine, progress_of, steps, with_warm_up
from twospeed.training.seed import seed_everything
from twospeed.weights.catalog import find
from twospeed.weights.imports import read_state
from twospeed.weights.load import build as build_model
from twospeed.weights.load import create_model, save_model

MAY_CHANGE = ("validate_every", "cache", "half_precision")
"""Settings that may differ when a run is resumed, besides those of every recipe."""

NORM_EPOCH = 1_000_000  # samples for batch-norm statistics come from an epoch that is never trained


@dataclass(frozen=True, kw_only=True)
class StcnConfig:
    """Everything that decides a training; the defaults are the authors' stage 3.

    Positions in a run are shares of it, 0..1: `lr_boundaries`, `gap_borders`, `bootstrap_from` and so on. `crop` and
    `batch` take one value for each phase (`phase_borders`), or one for all; `objects` any number, one for each batch in
    turn.
    """

    # Data: what is None is left out
    static: Path | None = None  # folder of still images with masks
    sets: tuple[str, ...] = ()  # fss, duts-tr, duts-te, ecssd, big, hrsod, davis; none: those that are there
    coco: Path | None = None  # folder of instances.json and images; with `generated`, its objects are cut out for those
    davis: Path | None = None
    davis_year: Year = 2017
    davis_split: str = "train"
    davis_sequences: tuple[str, ...] = ()  # only these
    davis_repeats: int = 5  # times an epoch
    youtube_vos: Path | None = None
    youtube_subset: Path | None = None  # a file of video names: the authors left out badly annotated ones
    bl30k: Path | None = None
    bl30k_subset: Path | None = None
    small_objects: Literal["code", "paper"] = "code"  # which small objects of BL30K are passed over
    generated: int = 0  # generated clips an epoch, of textures from the frames above
    textures: int = 700  # frames kept in memory for them
    look_alikes: float = 0.0  # how often objects have a copy beside them: probability in clips of videos
    gaps: tuple[int, ...] = GAPS  # largest distance between neighbouring frames; a fifth of it for YouTube-VOS
    gap_borders: tuple[float, ...] = BORDERS  # shares of the run at which it changes, with the next epoch
    near: float = 0.0  # share of the clips whose frames are at most 4 apart, whatever the gap
    frame_choice: FrameChoice = "code"
    views: Literal["frames", "objects"] = "frames"  # large parts of the frame (authors), or squares around an object
    view_scale: tuple[float, float] = (0.5, 1.2)  # zoom of squares around an object
    crop: tuple[int, ...] = (384,)  # pixels; multiples of 16
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a part of the frame, before scaling
    cache: Path | None = None  # keep DAVIS's decoded frames here: faster, 4 bytes a pixel
    workers: int = 8  # loading processes for each training process

    # Network
    network: str = "stcn"  # stcn, stm, track_nano, track_small
    backbone: Literal["resnet50", "wide_resnet50"] | None = None
    similarity: Similarity | None = None  # l2 or dot; none: as published, l2 for stcn, dot for stm
    aspp: bool | None = None
    width: int | None = None  # channels of the first stage; fewer than 64 for trials
    weights: Path | None = Path("runs/stcn_static/weights.safetensors")  # of the stage before; "default": the shipped
    key_backbone_weights: Path | None = None  # ImageNet file: resnet50, wide_resnet50_2; for track_small Lite0
    value_backbone_weights: Path | None = None  # resnet18 (stm: resnet50)
    norm_batches: int = 16  # without any of them: batch norm is measured over so many batches, then frozen
    freeze_norm: float = 0.0  # share of the run after which batch norm keeps its statistics (authors: from the start)

    # Optimisation
    iterations: int | None = 150_000
    minutes: float | None = None  # instead of iterations: training time
    batch: tuple[int, ...] = (8,)  # samples a step, over all processes
    batch_per_forward: int | None = None  # of one process; none: its share of the batch; fewer: gradients accumulate
    objects: tuple[int, ...] = (2,)  # most objects to follow
    phase_borders: tuple[float, ...] = ()  # shares of the run at which the next crop and batch begin
    generated_first: bool = False  # the first phase has generated clips alone
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-5
    rates: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # by part: {"key_encoder": 0.2}, not decayed; 0: kept as it is
    schedule: Literal["steps", "cosine"] = "steps"
    lr_boundaries: tuple[float, ...] = (125 / 150,)  # shares of the run at which it falls to a tenth
    warm_up: float = 0.0  # share of the run in which it rises
    weight_decay: float = 1e-7
    clip_gradient: float | None = None
    ema_decay: float | None = None  # of averaged weights, which are then scored and exported
    bootstrap_from: float = 20 / 150  # share of the run: all pixels count until then
    bootstrap_to: float = 70 / 150  # from then on, the hardest `bootstrap_keep` of them
    bootstrap_keep: float = 0.15
    overlap_weight: float = 0.0  # of the soft Jaccard loss, which small objects need: cross entropy hardly sees them
    match_weight: float = 0.0  # of the loss on what the keys alone recall of the true masks
    spoil_last: float = 0.0  # share of samples whose frame before is damaged, for networks that see it
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # fp16 with scaled gradients on CUDA, fp32 elsewhere
    replicas: int = 1  # that share a batch on a CPU, one thread each: how small networks train fastest

    # Validation
    held_out: tuple[str, ...] = ()  # sequences of DAVIS that are never trained on, only scored
    validation: Path | None = None  # another folder of DAVIS to score on: the held-out ones, or all of it
    validate_every: int = 0  # iterations; 0: at the end alone
    validate_stride: int = 4  # frames between those that validation looks at
    validate_frames: int = 60  # of each sequence, before the stride

    # Run
    out: Path = Path("runs/stcn_s03")
    half_precision: bool = False  # of the weights that are written, which then take half the space: for shipping
    seed: int = 0
    device: str | None = None  # none: a GPU where there is one
    log_every: int = 100  # iterations
    checkpoint_minutes: float = 10.0
    stop_after_steps: int | None = None  # end early, as if interrupted after a checkpoint (trials)

    def __post_init__(self) -> None:
        """Refuse what no training can be made of. Raises InputError."""
        check_length(self.minutes, self.iterations)
        for side in self.crop:
            if side % 16 or side < 64:
                raise InputError(f"crop is {side} pixels; it must be a multiple of 16, at least 64", option="crop")
        positive = {
            "iterations": self.iterations, "minutes": self.minutes, "batch": min(self.batch, default=0),
            "objects": min(self.objects, default=0), "replicas": self.replicas, "log_every": self.log_every,
            "checkpoint_minutes": self.checkpoint_minutes, "validate_stride": self.validate_stride,
            "width": self.width,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}; give a number above 0", option=name)
        phases = len(self.phase_borders) + 1
        for name, values in (("crop", self.crop), ("batch", self.batch)):
            if len(values) not in (1, phases):
                raise InputError(f"{name} has {len(values)} values, but there are {phases} phases: give 1 or as many")
        if any(size % self.replicas for size in self.batch):
            raise InputError(f"batch {self.batch} cannot be shared by {self.replicas} replicas: make it a multiple")
        if self.replicas > 1 and self.batch_per_forward is not None:
            raise InputError("batch_per_forward is for replicas=1: replicas share each batch as a whole")
        if not 0 < self.bootstrap_keep <= 1 or self.bootstrap_from >= self.bootstrap_to:
            raise InputError(
                f"bootstrap_keep={self.bootstrap_keep} from {self.bootstrap_from} to {self.bootstrap_to}: give a "
                "share above 0, at most 1, and a start before the end"
            )
        if self.generated_first and (not self.generated or not self.phase_borders):
            raise InputError("generated_first needs generated clips and phase_borders, at which the others join")
        max_gap(0.0, self.gap_borders, self.gaps)  # one gap more than borders


def static() -> StcnConfig:
    """Stage 0: one object through three warped views of a still image, 300K iterations of 16 samples."""
    return StcnConfig(
        static=Path("static"), objects=(1,), iterations=300_000, batch=(16,), lr_boundaries=(0.5,), weights=None,
        bootstrap_from=20 / 300, bootstrap_to=70 / 300, out=Path("runs/stcn_static"),
    )  # fmt: skip


def stage1() -> StcnConfig:
    """BL30K after static pretraining: 500K iterations; gaps shrink at 80 % of the epochs already."""
    return StcnConfig(
        bl30k=Path("BL30K"), gap_borders=(0.1, 0.2, 0.3, 0.4, 0.8), iterations=500_000,
        lr_boundaries=(0.8,),  # the paper: 0.9
        bootstrap_from=20 / 500, bootstrap_to=70 / 500, out=Path("runs/stcn_s01"),
    )  # fmt: skip


def stage2() -> StcnConfig:
    """YouTube-VOS and DAVIS after BL30K: 300K iterations."""
    return dataclasses.replace(
        video(), weights=Path("runs/stcn_s01/weights.safetensors"), iterations=300_000, lr_boundaries=(250 / 300,),
        bootstrap_from=20 / 300, bootstrap_to=70 / 300, out=Path("runs/stcn_s012"),
    )  # fmt: skip


def video() -> StcnConfig:
    """Stage 3: YouTube-VOS and DAVIS right after static pretraining, 150K iterations."""
    return StcnConfig(davis=Path("DAVIS/2017/trainval"), youtube_vos=Path("YouTube"))


def static_stm() -> StcnConfig:
    """Stage 0 for STM; its two encoders both start from resnet50."""
    return dataclasses.replace(static(), network="stm", out=Path("runs/stm_static"))


def video_stm() -> StcnConfig:
    """Stage 3 for STM."""
    weights = Path("runs/stm_static/weights.safetensors")
    return dataclasses.replace(video(), network="stm", weights=weights, out=Path("runs/stm_s03"))


def static_trial() -> StcnConfig:
    """A narrow network on small crops of stills for 150 iterations: a minute or two on a CPU."""
    return dataclasses.replace(
        static(), crop=(96,), workers=0, width=8, iterations=150, batch=(4,), lr=1e-3, lr_boundaries=(0.8,),
        bootstrap_from=0.4, bootstrap_to=0.8, bootstrap_keep=0.5, log_every=5,
    )  # fmt: skip


def video_trial() -> StcnConfig:
    """A narrow network on small crops of videos for 100 iterations: a minute or two on a CPU."""
    return StcnConfig(
        crop=(96,), workers=0, width=8, weights=None, iterations=100, batch=(4,), lr=5e-4, lr_boundaries=(0.8,),
        bootstrap_from=0.4, bootstrap_to=0.8, bootstrap_keep=0.5, log_every=5,
    )  # fmt: skip


def nano() -> StcnConfig:
    """track_nano from scratch, on two CPU cores: generated clips first, then half of them frames of DAVIS-2016."""
    return StcnConfig(
        davis_year=2016, generated=150, generated_first=True, views="objects", frame_choice="paper",
        gap_borders=tuple(0.35 + 0.65 * border for border in BORDERS), cache=Path("runs/cache"), workers=1,
        network="track_nano", weights=None, norm_batches=0, freeze_norm=0.85, iterations=None, minutes=90.0,
        crop=(192, 224), phase_borders=(0.35,), objects=(1, 2), optimizer="adamw", lr=1e-3, schedule="cosine",
        warm_up=0.02, weight_decay=1e-2, clip_gradient=1.0, ema_decay=0.998, bootstrap_from=0.2, bootstrap_to=0.7,
        bootstrap_keep=0.25, overlap_weight=0.5, match_weight=0.3, replicas=2, validate_every=300,
        held_out=("blackswan", "cows", "goat", "paragliding-launch"), out=Path("runs/track_nano"), device="cpu",
        half_precision=True, log_every=20, checkpoint_minutes=3.0,
    )  # fmt: skip


def small() -> StcnConfig:
    """track_small, on two CPU cores, from an ImageNet encoder: look-alikes, up to three objects, larger crops later."""
    # The first stages stay as ImageNet taught them: at half of the resolution, their gradients are a third of a step
    kept = dict.fromkeys(("key_encoder.stem", "key_encoder.stages.0", "key_encoder.stages.1"), 0.0)
    return dataclasses.replace(
        nano(), network="track_small", generated=100, look_alikes=0.35, near=0.5, view_scale=(0.6, 1.9), minutes=80.0,
        gap_borders=tuple(0.08 + 0.92 * border for border in BORDERS), crop=(192, 224, 288), batch=(4,),
        phase_borders=(0.08, 0.8), objects=(1, 2, 1, 3), rates={"key_encoder": 0.2, **kept}, lr=6e-4, freeze_norm=0.8,
        spoil_last=0.45, out=Path("runs/track_small"),
    )  # fmt: skip


PRESETS = {
    "static": static, "stage1": stage1, "stage2": stage2, "video": video, "static_stm": static_stm,
    "video_stm": video_stm, "static_trial": static_trial, "video_trial": video_trial, "nano": nano, "small": small,
}  # fmt: skip


# ---------------------------------------------------------------- data


def find_sources(config: StcnConfig) -> list[ClipSource]:
    """Return the sets that a configuration names. Raises InputError when it names none, DatasetError as they do."""
    sources: list[ClipSource] = []
    if config.static is not None:
        pairs = find_pairs(config.static, config.sets, sequences=config.davis_sequences)
        sources += [StillClips(some, repeats=LAYOUTS[name].repeats, name=name) for name, some in pairs.items()]
    if config.coco is not None and not config.generated:
        sources.append(StillClips(find_objects(config.coco), name="coco"))
    frames = FrameMotion(aspect=config.crop_aspect, near=config.near, twins=config.look_alikes)
    around = dataclasses.replace(
        AROUND_OBJECTS, scale=config.view_scale, near=config.near, twins=config.look_alikes
    )  # fmt: skip
    motion = frames if config.views == "frames" else around
    trained = [] if config.davis is None else training_sequences(config)
    generated = made_of(config, trained) if config.generated else None
    if config.davis is not None:
        name = f"davis{config.davis_year % 100}"
        sources.append(
            VideoClips(
                trained, repeats=config.davis_repeats, choice=config.frame_choice, motion=motion, pasted=generated,
                name=name,
            )
        )  # fmt: skip
    if config.youtube_vos is not None:
        videos = youtube_vos_training(config.youtube_vos, subset=config.youtube_subset)
        sources.append(
            VideoClips(videos, gap_divisor=5, choice=config.frame_choice, motion=motion, name="youtube-vos")
        )  # fmt: skip
    if config.bl30k is not None:  # wider crops than of real videos, and no objects of a few pixels
        rendered: AnnotatedVideos = VideoFolders(config.bl30k, read_names(config.bl30k_subset))
        rule = large_enough if config.small_objects == "code" else not_tiny
        wider = dataclasses.replace(motion, area=(0.25, 1.0))
        sources.append(VideoClips(rendered, choice=config.frame_choice, rule=rule, motion=wider, name="bl30k"))
    if generated is not None:
        sources.append(generated)
    if not sources:
        raise InputError("no data to train on: give static, coco, davis, youtube_vos, bl30k or generated")
    return sources


def training_sequences(config: StcnConfig) -> list[AnnotatedVideo]:
    """Return the sequences of DAVIS that are trained on: those of the split, or those named, but the held-out ones."""
    assert config.davis is not None
    data = Davis(config.davis, config.davis_year, config.davis_split, sequences=config.davis_sequences or None)
    chosen = [sample for sample in data if sample.name not in config.held_out]
    return list(chosen) if config.cache is None else list(decoded(data, chosen, config.cache))


def made_of(config: StcnConfig, trained: Sequence[AnnotatedVideo]) -> MovingObjects:
    """Return generated objects whose textures and shapes come from DAVIS and COCO, as far as these are given."""
    places = [(one, frame) for one in trained for frame in one.annotations]
    places = places[:: max(1, -(-len(places) // config.textures))]
    pairs = [(one.image(frame), np.where(one.labels(frame) == 255, np.uint8(0), one.labels(frame)))
             for one, frame in places]  # fmt: skip
    if config.coco is not None:
        pairs += [found.read() for found in find_objects(config.coco)]
    crowd = {"copies": (0.55, 0.3, 0.15), "followed_copies": 0.6, "away": 0.1} if config.look_alikes else {}
    frames, masks = ([pair[i] for pair in pairs] or None for i in range(2))
    return MovingObjects(frames, masks, count=config.generated, **crowd)  # type: ignore[arg-type]


def validation_sequences(config: StcnConfig) -> list[SequenceSample]:
    """Return the sequences that are scored, none for no validation. Raises DatasetError where one is missing."""
    folder = config.validation or (config.davis if config.held_out else None)
    if folder is None:
        return []
    return list(Davis(folder, config.davis_year, "val", sequences=config.held_out or None))


# ---------------------------------------------------------------- the network at its start


def build(config: StcnConfig) -> nn.Module:
    """Build the network of a configuration, randomly initialised, ready to be trained."""
    given = {"backbone": config.backbone, "similarity": config.similarity, "aspp": config.aspp, "width": config.width}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if config.network == "stcn" and set(config.objects) == {1}:
        options["mask_channels"] = 1  # there are no other objects for the value encoder
    return build_model(find(config.network), options)


def start(network: nn.Module, config: StcnConfig) -> str:
    """Fill the network with what the configuration names, and say what that was; "" for nothing.

    Raises CheckpointError for files that cannot be read or do not fit.
    """
    if config.weights == Path("default"):
        network.load_state_dict(create_model(config.network).state_dict())
        return f"the default weights of {config.network}"
    if config.weights is not None:
        state, metadata = read_state(config.weights)
        if isinstance(network, STCN):
            state = stcn_names.for_training(state, mask_channels=network.value_encoder.mask_channels)
        else:
            state = stm_names.to_ours(state)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            what = " ".join(str(error).split())[:500]
            raise CheckpointError(f"{config.weights}: does not fit this {config.network}: {what}") from error
        return f"weights of {config.weights} ({metadata.get('stage', 'stage not recorded')})"
    files = {"key": config.key_backbone_weights, "value": config.value_backbone_weights}
    if all(path is None for path in files.values()):
        return ""
    if isinstance(network, STM):
        backbones = {"key": network.query_encoder.backbone, "value": network.memory_encoder.backbone}
    else:
        key, value = cast(STCN, network).key_encoder, cast(STCN, network).value_encoder.backbone
        if isinstance(key, EfficientNetLite):  # published without a counterpart for masks
            if config.key_backbone_weights is None:
                raise InputError(f"{config.network} starts from key_backbone_weights alone, an EfficientNet-Lite0")
            try:
                key.load_state_dict(imagenet_state(read_state(config.key_backbone_weights)[0], key))
            except KeyError as error:
                raise CheckpointError(f"{config.key_backbone_weights}: no EfficientNet-Lite0 ({error})") from error
            return f"ImageNet weights of {config.key_backbone_weights}"
        backbones = {"key": key, "value": value}
    for which, path in files.items():
        if path is None:
            raise InputError(f"{which}_backbone_weights is not given, the other is; a network starts from both")
        try:
            start_from_imagenet(backbones[which], read_state(path)[0])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return f"ImageNet weights of {files['key']} and {files['value']}"


def measure_norms(config: StcnConfig, model: UnrolledPropagation, data: ClipMix, process: Process) -> None:
    """Set batch norm's statistics to those of the untrained network on some batches.

    Instead of ImageNet's where there are no ImageNet weights: with the initial 0 and 1, features fade from block to
    block, and statistics are not updated in this training.
    """
    size, batch = config.crop[0], config.batch[0]
    keys = [[ClipKey(NORM_EPOCH, (i * batch + j) % len(data), size, config.objects[0]) for j in range(batch)]
            for i in range(config.norm_batches)]  # fmt: skip

    def forward(samples: TrainingBatch) -> None:
        frames, _, masks, present = on_device(samples, process.device)
        model(frames, masks, present)

    precise_bn(model, load_clips(config, data, keys[process.rank :: process.world], process), forward)


# ---------------------------------------------------------------- schedules


def learning_rate(config: StcnConfig, progress: float) -> float:
    """Return the rate at a point of the run (0..1)."""

    def plain(at: float) -> float:
        if config.schedule == "cosine":
            return half_cosine(at, base=config.lr, length=1.0)
        return steps(at, base=config.lr, boundaries=config.lr_boundaries)

    return with_warm_up(progress, plain, warm_up=config.warm_up, start=0.01 * config.lr)


def kept_pixels(config: StcnConfig, progress: float) -> float:
    """Return the share of pixels in the cross entropy at a point of the run (0..1)."""
    return kept_fraction(progress, start=config.bootstrap_from, end=config.bootstrap_to, final=config.bootstrap_keep)


@dataclass
class Position:
    """How far a run is: what a checkpoint keeps, besides weights."""

    step: int = 0
    seconds: float = 0.0  # of training
    epoch: int = 0
    done: int = 0  # steps of this epoch
    began: float = 0.0  # progress of the run when this epoch began, which decides its gap and phase
    best: float = -1.0


class Plan(NamedTuple):
    """What one batch is part of: the step of an epoch, in which forward, and how far apart its frames are at most."""

    epoch: int
    done: int  # steps of the epoch, this one included
    began: float
    gap: int
    forwards: int


def batches(
    config: StcnConfig, data: ClipMix, process: Process, position: Position
) -> Iterator[tuple[TrainingBatch, Plan]]:
    """Yield this process's batches from a position on, one epoch after another; all that changes does so between them.

    Without an end but for that of `iterations`.
    """
    plans: deque[Plan] = deque()

    def keys() -> Iterator[list[ClipKey]]:
        epoch, skip, began, step = position.epoch, position.done, position.began, position.step
        while config.iterations is None or step < config.iterations:
            phase = sum(began >= border for border in config.phase_borders)
            crop, batch = (values[min(phase, len(values) - 1)] for values in (config.crop, config.batch))
            places = [i for i, (source, _) in enumerate(data.items)
                      if phase or not config.generated_first or isinstance(source, MovingObjects)]  # fmt: skip
            gap = max_gap(began, config.gap_borders, config.gaps)
            size = config.batch_per_forward or max(1, batch // process.world)
            forwards = max(1, batch // (size * process.world))
            order = epoch_batches(
                len(places), epoch=epoch, seed=config.seed, batch=batch, batch_per_forward=size,
                process=process, skip_steps=skip,
            )  # fmt: skip
            for number, drawn in enumerate(order):
                done = skip + number // forwards + 1
                objects = config.objects[(step + number // forwards) % len(config.objects)]
                plans.append(Plan(epoch, done, began, gap, forwards))
                yield [ClipKey(epoch, places[index], crop, objects, gap) for _, index in drawn]
            step += len(order) // forwards
            epoch, skip, began = epoch + 1, 0, progress_at(config, step, position.seconds)

    for batch in load_clips(config, data, keys(), process):
        yield batch, plans.popleft()


def progress_at(config: StcnConfig, step: int, seconds: float) -> float:
    """Return which share of the run is done, 0..1."""
    return progress_of(step, seconds, iterations=config.iterations, minutes=config.minutes)


def load_clips(
    config: StcnConfig, data: ClipMix, keys: Iterable[list[ClipKey]], process: Process
) -> Iterator[TrainingBatch]:
    """Load batches of keys."""
    return load(data, keys, stack_clips, workers=config.workers, pin_memory=process.device.type == "cuda")


def on_device(batch: TrainingBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move a batch: frames and masks float in 0..1, labels, and which objects are present (B, K)."""
    frames, masks = (x.to(device, non_blocking=True).float() / 255 for x in (batch.frames, batch.masks))
    counts = torch.tensor(batch.objects)[:, None]
    present = (torch.arange(masks.shape[1])[None] < counts).float().to(device, non_blocking=True)
    return frames, batch.labels.to(device, non_blocking=True), masks, present


# ---------------------------------------------------------------- one step


@torch.no_grad()
def mean_jaccard(log_odds: Tensor, labels: Tensor, objects: Sequence[int]) -> Tensor:
    """Return the mean region similarity of the objects in the followed frames; 1 where one is rightly absent."""
    guess, truth = log_odds.argmax(2), labels[:, 1:]  # (B, T - 1, H, W)
    scores = []
    for b, count in enumerate(objects):
        for k in range(1, count + 1):
            ours, theirs = guess[b] == k, truth[b] == k
            union = (ours | theirs).sum((1, 2))
            scores.append(torch.where(union > 0, (ours & theirs).sum((1, 2)) / union.clamp(min=1), 1.0))
    return torch.stack(scores).mean()


def step_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor], objects: Sequence[int], config: StcnConfig,
    keep: float, spoiling: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Follow the objects of frame 0 through the others (paper section 3.4); keep: share of pixels that count.

    spoiling: as `UnrolledPropagation` takes it. Returns the loss, the log odds (B, T - 1, K + 1, H, W) and the mean
    region similarity.
    """
    frames, labels, masks, present = batch
    if not (config.overlap_weight or config.match_weight):
        log_odds = model(frames, masks, present, None, spoiling)
        return propagation_loss(log_odds, labels, objects, keep=keep), log_odds, mean_jaccard(log_odds, labels, objects)
    targets = torch.stack([labels == k + 1 for k in range(masks.shape[1])], 2).float()  # (B, T, K, H, W)
    cells = F.avg_pool2d(targets.flatten(0, 1), 16).unflatten(0, targets.shape[:2])  # (B, T, K, h, w)
    log_odds, recalled = model(frames, masks, present, cells, spoiling)
    loss = propagation_loss(log_odds, labels, objects, keep=keep)
    exists, followed = present[:, None], targets[:, 1:]  # (B, 1, K)
    guess = log_odds.softmax(2)[:, :, 1:]
    inside = (guess * followed).sum((3, 4))  # (B, T - 1, K)
    union = (guess + followed).sum((3, 4)) - inside
    # One cell's worth of smoothing: an absent object asks for nothing
    overlap = ((1 - (inside + 16) / (union + 16)) * exists).sum() / exists.sum()
    apart = F.binary_cross_entropy(recalled.clamp(1e-4, 1 - 1e-4), cells[:, 1:], reduction="none").mean((3, 4))
    match = (apart * exists).sum() / exists.sum()
    loss = loss + config.overlap_weight * overlap + config.match_weight * match
    return loss, log_odds, mean_jaccard(log_odds, labels, objects)


def precision_of(config: StcnConfig, device: torch.device) -> torch.dtype:
    """Return what the network computes in: half precision with scaled gradients on CUDA (authors), else single."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    wanted = config.precision
    if wanted == "auto":
        wanted = "fp16" if device.type == "cuda" else "fp32"
    return kinds[wanted]


def draw_spoiling(config: StcnConfig, frames: Tensor) -> Tensor | None:
    """Draw which samples see a damaged frame before: (B, T - 1, 4) for `UnrolledPropagation`, None for no damage."""
    if not config.spoil_last:
        return None
    draws = torch.rand(len(frames), frames.shape[1] - 1, 4)
    draws[..., 0] /= config.spoil_last  # 1 and above: none
    return draws


def make_optimizer(config: StcnConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return Adam (authors), or AdamW that leaves biases, norms and parts with a rate of their own undecayed.

    Of several parts that hold a parameter the longest name counts. A rate of 0 freezes its part.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(config.rates)
    longest_first = sorted(config.rates, key=len, reverse=True)
    for name, parameter in network.named_parameters():
        part = next((part for part in longest_first if name.startswith(f"{part}.")), None)
        unused.discard(part or "")
        if part is not None and config.rates[part] == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decays = config.optimizer == "adam" or (part is None and parameter.ndim > 1)
        rate = 1.0 if part is None else config.rates[part]
        groups.setdefault((rate, config.weight_decay if decays else 0.0), []).append(parameter)
    if unused:
        parts = ", ".join(name for name, _ in network.named_children())
        raise InputError(f"rates name {', '.join(sorted(unused))}; the parts of {config.network} are {parts}")
    settings = [{"params": some, "lr_scale": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]
    if config.optimizer == "adam":
        return torch.optim.Adam(settings, lr=config.lr)
    return torch.optim.AdamW(settings, lr=config.lr, betas=(0.9, 0.99))


def validate(network: nn.Module, sequences: Sequence[SequenceSample], config: StcnConfig) -> dict[str, float]:
    """Follow the objects of each sequence's first frame on every few frames, at full size: J&F of each, and the mean.

    A quick look while training; `twospeed evaluate` gives the official numbers.
    """
    every = max(1, round(5 / config.validate_stride))
    tracker = Tracker(network, memory_every=every, size=None, device=next(network.parameters()).device, finder=None)
    scores = {}
    for sample in sequences:
        frames = list(sample.annotations)[: config.validate_frames : config.validate_stride]
        first = np.where(sample.labels(frames[0]) == 255, np.uint8(0), sample.labels(frames[0]))
        tracker.reset()
        tracker.step(sample.image(frames[0]), first)
        per_frame = [
            score_frame(tracker.step(sample.image(frame)).labels, sample.labels(frame), int(first.max()))
            for frame in frames[1:]
        ]
        scores[sample.name] = float(np.mean(per_frame))
    return {**scores, "mean": float(np.mean(list(scores.values())))}


# ---------------------------------------------------------------- the loop


def train(config: StcnConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. on_progress: called with every row of the log.

    Raises DatasetError, InputError and CheckpointError before the first step for what does not fit together.
    """
    data = ClipMix(find_sources(config), seed=config.seed)
    held_out = validation_sequences(config)
    with (
        processes(config.device) as process,
        Run.start_or_resume(config, process, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run,
    ):
        if process.world > 1 and (config.minutes is not None or config.replicas > 1):
            raise InputError("minutes and replicas are for one process; with several, give iterations and replicas=1")
        _fit(config, data, held_out, process, run)
    return config.out


def _fit(
    config: StcnConfig, data: ClipMix, held_out: Sequence[SequenceSample], process: Process, run: Run
) -> None:  # fmt: skip
    seed_everything(config.seed)  # alike on all ranks: they start from the same weights
    if config.replicas > 1:
        torch.set_num_threads(1)  # sums are the same in a run that is resumed in another process
    network = build(config)
    source = "a checkpoint" if run.resumes else start(network, config)
    network.to(process.device)
    if process.device.type == "cuda" or config.network in ("track_nano", "track_small"):
        # Elsewhere not: on CPUs, oneDNN's backward of 4 channels that lie last writes out of bounds
        network.to(memory_format=torch.channels_last)
    # By default the whole network stays in eval mode: batch norm keeps its statistics, while its scale and shift learn.
    # A batch of a few warped crops would spoil what ImageNet's statistics say (supplement, section F.1)
    unrolled = UnrolledPropagation(network).eval()  # type: ignore[arg-type]
    if not source and config.norm_batches and not config.freeze_norm:
        measure_norms(config, unrolled, data, process)
        source = f"random weights, batch norm measured over {config.norm_batches} batches"
    counts = ", ".join(f"{one.name} {len(one)}" for one in data.sources)
    run.note(f"{config.network}: {len(data)} samples an epoch ({counts}), from {source or 'random weights'}")
    run.total_steps = config.iterations
    model = parallel(unrolled, process)
    average = None if config.ema_decay is None else copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = make_optimizer(config, network)
    kind = precision_of(config, process.device)
    scaler = torch.amp.GradScaler(process.device.type, enabled=kind == torch.float16)
    parts: dict[str, Any] = {"model": network, "optimizer": optimizer, "scaler": scaler}
    if average is not None:
        parts["average"] = average
    saved = run.restore(**parts)
    at = Position(**saved["position"]) if saved else Position()
    replicas = None
    if config.replicas > 1:
        replicas = ThreadedReplicas(unrolled, config.replicas, lambda one: one.train(unrolled.training))
    stream, clock = batches(config, data, process, at), StepClock()
    tally = torch.zeros(3, device=process.device)  # sums of loss and jaccard, and how many forwards
    while (progress := progress_at(config, at.step, at.seconds)) < 1:
        clock.begin()
        keep, lr = kept_pixels(config, progress), learning_rate(config, progress)
        set_learning_rate(optimizer, lr)
        model.train(progress < config.freeze_norm)
        if replicas is not None and not model.training:  # from here on, all use the statistics of the first
            replicas.share_statistics()
        batch, plan = next(stream)
        for part in range(plan.forwards):
            if part:
                batch, plan = next(stream)
            tensors = on_device(batch, process.device)
            spoiling = draw_spoiling(config, tensors[0])
            if replicas is not None:
                tally += _shared_backward(replicas, tensors, batch.objects, config, keep, spoiling)
                continue
            with (
                gradients_stay_here(model, unless=part + 1 == plan.forwards),
                autocast(process.device, kind),
            ):
                loss, _, jaccard = step_loss(model, tensors, batch.objects, config, keep, spoiling)
            scaler.scale(loss / plan.forwards).backward()
            tally += torch.stack([loss.detach(), jaccard, loss.new_ones(())])
        scaler.unscale_(optimizer)
        norm = gradient_norm(network, clip=config.clip_gradient)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average is not None and config.ema_decay is not None:
            move_average(average, network, min(config.ema_decay, (1 + at.step) / (10 + at.step)))
        at.step, at.epoch, at.done, at.began = at.step + 1, plan.epoch, plan.done, plan.began
        at.seconds += clock.end()

        if at.step % config.log_every == 0 or at.step == 1:
            loss_sum, jaccard_sum, count = total(tally).tolist()
            run.check_finite(at.step, lr=config.lr, loss=loss_sum)
            run.log(
                "train", at.step, epoch=plan.epoch, lr=lr, loss=loss_sum / count, jaccard=jaccard_sum / count,
                kept_pixels=keep, max_gap=plan.gap, gradient_norm=float(norm),
            )  # fmt: skip
            tally.zero_()
        finished = progress_at(config, at.step, at.seconds) >= 1
        if finished or (config.validate_every and at.step % config.validate_every == 0):
            run.check_weights(network, at.step)
            if process.is_main:
                export(config, run, network if average is None else average, held_out, at, counts, finished=finished)
        if finished or run.due(at.step):
            run.save(at.step, **parts, position=dataclasses.asdict(at))
        if run.ended(at.step):
            break
    if replicas is not None:
        replicas.close()


def export(
    config: StcnConfig, run: Run, network: nn.Module, held_out: Sequence[SequenceSample], at: Position, counts: str, *,
    finished: bool,
) -> None:  # fmt: skip
    """Score the weights, where sequences are held out, and write them."""
    about = {"recipe": "stcn", "stage": counts, "iterations": str(at.step)}
    names = ["weights" if finished and not held_out else "latest"]
    if held_out:
        scores = validate(network, held_out, config)
        run.log("validation", at.step, minutes=round(at.seconds / 60, 2), **scores)
        about["held_out_j_and_f"] = f"{scores['mean']:.4f}"
        if scores["mean"] > at.best:
            at.best = scores["mean"]
            names.append("weights")
    for name in names:
        path = config.out / f"{name}.safetensors"
        save_model(network, path, model_name=config.network, source=about, half_precision=config.half_precision)


def _shared_backward(
    replicas: ThreadedReplicas[UnrolledPropagation], batch: tuple[Tensor, Tensor, Tensor, Tensor],
    objects: Sequence[int], config: StcnConfig, keep: float, spoiling: Tensor | None,
) -> Tensor:  # fmt: skip
    """Let replicas share a batch; returns loss, mean region similarity and 1."""
    count = len(replicas.replicas)

    def work(replica: UnrolledPropagation, number: int) -> tuple[Tensor, dict[str, float]]:
        own = slice(number, None, count)
        frames, labels, masks, present = (tensor[own] for tensor in batch)
        damage = None if spoiling is None else spoiling[own]
        loss, _, jaccard = step_loss(replica, (frames, labels, masks, present), objects[own], config, keep, damage)
        return loss, {"loss": float(loss.detach()), "jaccard": float(jaccard)}

    parts = replicas.backward(work)
    return torch.tensor([parts["loss"], parts["jaccard"], 1.0])
