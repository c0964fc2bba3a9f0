"""Settings of the recipe stcn, and its presets: the authors' stages, and the networks that ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from twospeed.data.benchmarks.davis import Year
from twospeed.data.clips.videos import BORDERS, GAPS, FrameChoice, max_gap
from twospeed.errors import InputError
from twospeed.models.protocol import Similarity
from twospeed.training.run import RunSettings
from twospeed.training.schedule import check_length


@dataclass(frozen=True, kw_only=True)
class StcnConfig(RunSettings):
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
    frame_zoom: tuple[float, float] = (0.93, 1.07)  # of each frame of such a square: sizes change within a clip
    crop: tuple[int, ...] = (384,)  # pixels; multiples of 16
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a part of the frame, before scaling
    cache: Path | None = None  # keep DAVIS's decoded frames here: faster, 4 bytes a pixel
    workers: int = 8  # loading processes for each training process

    # Network
    network: str = "stcn"  # stcn, stm, track_tiny, track_nano, track_small
    backbone: Literal["resnet50", "wide_resnet50"] | None = None
    similarity: Similarity | None = None  # l2 or dot; none: as published, l2 for stcn, dot for stm
    aspp: bool | None = None
    width: int | None = None  # channels of the first stage; fewer than 64 for trials
    weights: Path | None = Path("runs/stcn_static/weights.safetensors")  # of the stage before; or a model's name
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
    # Of parts, not decayed: {"key_encoder": 0.2}; 0: kept as it is
    rates: Mapping[str, float] = field(default_factory=dict)
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
    device: str | None = None  # none: a GPU where there is one
    log_every: int = 100  # iterations

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
    return replace(
        video(), weights=Path("runs/stcn_s01/weights.safetensors"), iterations=300_000, lr_boundaries=(250 / 300,),
        bootstrap_from=20 / 300, bootstrap_to=70 / 300, out=Path("runs/stcn_s012"),
    )  # fmt: skip


def video() -> StcnConfig:
    """Stage 3: YouTube-VOS and DAVIS right after static pretraining, 150K iterations."""
    return StcnConfig(davis=Path("DAVIS/2017/trainval"), youtube_vos=Path("YouTube"))


def static_stm() -> StcnConfig:
    """Stage 0 for STM; its two encoders both start from resnet50."""
    return replace(static(), network="stm", out=Path("runs/stm_static"))


def video_stm() -> StcnConfig:
    """Stage 3 for STM."""
    weights = Path("runs/stm_static/weights.safetensors")
    return replace(video(), network="stm", weights=weights, out=Path("runs/stm_s03"))


def static_trial() -> StcnConfig:
    """A narrow network on small crops of stills for 150 iterations: a minute or two on a CPU."""
    return replace(
        static(), crop=(96,), workers=0, width=8, iterations=150, batch=(4,), lr=1e-3, lr_boundaries=(0.8,),
        bootstrap_from=0.4, bootstrap_to=0.8, bootstrap_keep=0.5, log_every=5,
    )  # fmt: skip


def video_trial() -> StcnConfig:
    """A narrow network on small crops of videos for 100 iterations: a minute or two on a CPU."""
    return StcnConfig(
        crop=(96,), workers=0, width=8, weights=None, iterations=100, batch=(4,), lr=5e-4, lr_boundaries=(0.8,),
        bootstrap_from=0.4, bootstrap_to=0.8, bootstrap_keep=0.5, log_every=5,
    )  # fmt: skip


def tiny() -> StcnConfig:
    """track_tiny from scratch, on two CPU cores: generated clips first, then half of them frames of DAVIS-2016."""
    return StcnConfig(
        davis_year=2016, generated=150, generated_first=True, views="objects", frame_choice="paper",
        gap_borders=tuple(0.35 + 0.65 * border for border in BORDERS), cache=Path("runs/cache"), workers=1,
        network="track_tiny", weights=None, norm_batches=0, freeze_norm=0.85, iterations=None, minutes=90.0,
        crop=(192, 224), phase_borders=(0.35,), objects=(1, 2), optimizer="adamw", lr=1e-3, schedule="cosine",
        warm_up=0.02, weight_decay=1e-2, clip_gradient=1.0, ema_decay=0.998, bootstrap_from=0.2, bootstrap_to=0.7,
        bootstrap_keep=0.25, overlap_weight=0.5, match_weight=0.3, replicas=2, validate_every=300,
        held_out=("blackswan", "cows", "goat", "paragliding-launch"), out=Path("runs/track_tiny"), device="cpu",
        half_precision=True, log_every=20, checkpoint_minutes=3.0,
    )  # fmt: skip


def small() -> StcnConfig:
    """track_small, on two CPU cores, from an ImageNet encoder: look-alikes, up to three objects, larger crops later."""
    # The first stages stay as ImageNet taught them: at half of the resolution, their gradients are a third of a step
    kept = dict.fromkeys(("key_encoder.stem", "key_encoder.stages.0", "key_encoder.stages.1"), 0.0)
    return replace(
        tiny(), network="track_small", generated=100, look_alikes=0.35, near=0.5, view_scale=(0.6, 1.9), minutes=80.0,
        gap_borders=tuple(0.08 + 0.92 * border for border in BORDERS), crop=(192, 224, 288), batch=(4,),
        phase_borders=(0.08, 0.8), objects=(1, 2, 1, 3), rates={"key_encoder": 0.2, **kept}, lr=6e-4, freeze_norm=0.8,
        spoil_last=0.45, out=Path("runs/track_small"),
    )  # fmt: skip


def nano() -> StcnConfig:
    """track_nano, on a CPU, from track_small's weights: crops of the size at which it sees frames, from the start."""
    return replace(
        small(), network="track_nano", weights=Path("track_small"), near=0.4, minutes=95.0,
        gap_borders=(0.0, 0.01, 0.02, 0.03, 0.85), crop=(304,), phase_borders=(), generated_first=False, lr=4e-4,
        freeze_norm=0.1, bootstrap_from=0.0, bootstrap_to=0.1, out=Path("runs/track_nano"),
    )  # fmt: skip


PRESETS = {
    "static": static, "stage1": stage1, "stage2": stage2, "video": video, "static_stm": static_stm,
    "video_stm": video_stm, "static_trial": static_trial, "video_trial": video_trial, "tiny": tiny,
    "small": small, "nano": nano,
}  # fmt: skip
