"""Train stages 1, 2 and 3 of STCN (or STM): up to two objects through three frames of a video.

    twospeed train stcn_video --davis DAVIS/2017/trainval --youtube-vos YouTube     stage 3, after stage 0: the default
    twospeed train stcn_video --preset stage1 --bl30k BL30K                         stage 1, rendered, after stage 0
    twospeed train stcn_video --preset stage2 --davis ... --youtube-vos ...         stage 2, after stage 1
    torchrun --nproc-per-node 2 -m twospeed.cli.main train stcn_video ...

Which sets are given, is trained on: DAVIS five times an epoch, YouTube-VOS and BL30K once. DAVIS-2016 as it is:
`--davis DIR --davis-year 2016 --davis-sequences a,b,c`. Generated sets: `python -m experiments.vos_sets`.

The defaults are the authors': Adam at 1e-5, 8 samples a step, 150K iterations (stage 1: 500K, stage 2: 300K), frames
further apart as training goes on and close again at its end; scores 85.4 J&F on DAVIS-2017 val after stages 0 and 3
(85.1 to 85.5 from run to run). Where their paper and code differ, the code's way is the default, since it made the
released weights; the paper's: `--frame-choice paper --crop-aspect 0.75,1.25 --small-objects paper`, and in stage 1
`--lr-steps 450000`. What was trained here: docs/stcn_training.md.

In the run folder: config.json, origin.json, train.csv, metrics.jsonl, checkpoints, and weights.safetensors, from which
the next stage starts and which `create_model` takes. `--resume` continues from the last checkpoint; on a CPU the curve
is the same to the last digit. Evaluate with `twospeed evaluate davis17 --model stcn --weights RUN/weights.safetensors`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twospeed.data.benchmarks.davis import Year
from twospeed.data.clips.bl30k import SmallObjects, bl30k_source
from twospeed.data.clips.videos import (
    BORDERS,
    GAPS,
    FrameChoice,
    FrameMotion,
    VideoMix,
    VideoSource,
    davis_source,
    max_gap,
    youtube_vos_source,
)
from twospeed.errors import InputError
from twospeed.models.memory import Similarity
from twospeed.recipes._stcn_loop import Backbone, Network, Precision, check_settings, epochs_of, fit


@dataclass(frozen=True, kw_only=True)
class StcnVideoConfig:
    """Everything that decides a training; the defaults are the authors' stage 3."""

    # Data: what is None is left out
    davis: Path | None = None
    davis_year: Year = 2017
    davis_split: str = "train"
    davis_sequences: tuple[str, ...] = ()  # only these; needed where there is no list
    davis_repeats: int = 5  # times an epoch
    youtube_vos: Path | None = None
    youtube_subset: Path | None = None  # a file of video names: the authors left out badly annotated ones
    bl30k: Path | None = None
    bl30k_subset: Path | None = None
    small_objects: SmallObjects = "code"  # which small objects of BL30K are passed over
    gaps: tuple[int, ...] = GAPS  # largest distance between neighbouring frames; a fifth of it for YouTube-VOS
    gap_borders: tuple[float, ...] = BORDERS  # shares of the epochs at which it changes
    frame_choice: FrameChoice = "code"
    crop: int = 384  # pixels; a multiple of 16
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, before scaling to the crop
    workers: int = 8  # loading processes for each training process

    # Network
    network: Network = "stcn"
    backbone: Backbone = "resnet50"
    similarity: Similarity | None = None  # l2 or dot; none: as published, l2 for stcn, dot for stm
    aspp: bool = False
    width: int = 64  # channels of the first stage; fewer for trials
    weights: Path | None = Path("runs/stcn_static/weights.safetensors")  # of the stage before, or the authors' file
    key_backbone_weights: Path | None = None  # without weights: torchvision's ImageNet file, as in stage 0
    value_backbone_weights: Path | None = None
    norm_batches: int = 16  # without any of them: batch norm is measured over so many batches, then frozen

    # Optimisation
    iterations: int = 150_000
    batch: int = 8  # samples a step, over all processes
    samples_per_forward: int | None = None  # of one process; none: its share of the batch; fewer: gradients accumulate
    lr: float = 1e-5
    lr_steps: tuple[int, ...] = (125_000,)  # iterations at which it falls to a tenth
    weight_decay: float = 1e-7
    bootstrap_from: int = 20_000  # iterations: all pixels count until then
    bootstrap_to: int = 70_000  # from then on, the hardest `bootstrap_keep` of them
    bootstrap_keep: float = 0.15
    precision: Precision = "auto"  # fp16 with scaled gradients on CUDA, fp32 elsewhere

    # Run
    out: Path = Path("runs/stcn_s03")
    seed: int = 0
    device: str | None = None  # none: a GPU where there is one
    log_every: int = 100  # iterations
    checkpoint_every: int = 10_000
    stop_after: int | None = None  # end early, as if interrupted after a checkpoint (trials)

    def __post_init__(self) -> None:
        check_settings(self)
        max_gap(0, 1, self.gap_borders, self.gaps)  # one gap more than borders

    def max_gap(self, epoch: int, samples: int) -> int:
        """Largest distance between neighbouring frames in an epoch of `samples` samples."""
        return max_gap(epoch, epochs_of(self, samples), self.gap_borders, self.gaps)


def stage1() -> StcnVideoConfig:
    """BL30K after static pretraining: 500K iterations; gaps shrink at 80 % of the epochs already."""
    return StcnVideoConfig(
        bl30k=Path("BL30K"),
        gap_borders=(0.1, 0.2, 0.3, 0.4, 0.8),
        iterations=500_000,
        lr_steps=(400_000,),  # the paper: 450K
        out=Path("runs/stcn_s01"),
    )


def stage2() -> StcnVideoConfig:
    """YouTube-VOS and DAVIS after BL30K: 300K iterations."""
    return StcnVideoConfig(
        davis=Path("DAVIS/2017/trainval"),
        youtube_vos=Path("YouTube"),
        weights=Path("runs/stcn_s01/weights.safetensors"),
        iterations=300_000,
        lr_steps=(250_000,),
        out=Path("runs/stcn_s012"),
    )


def stage3() -> StcnVideoConfig:
    """YouTube-VOS and DAVIS right after static pretraining: 150K iterations."""
    return StcnVideoConfig(davis=Path("DAVIS/2017/trainval"), youtube_vos=Path("YouTube"))


def stm() -> StcnVideoConfig:
    """Stage 3 for STM, the baseline of the supplement's Table 1."""
    return dataclasses.replace(
        stage3(), network="stm", weights=Path("runs/stm_static/weights.safetensors"), out=Path("runs/stm_s03")
    )


def trial() -> StcnVideoConfig:
    """A narrow network on small crops for 100 iterations: a minute or two on a CPU."""
    return StcnVideoConfig(
        crop=96, workers=0, width=8, weights=None, iterations=100, batch=4, lr=5e-4, lr_steps=(80,),
        bootstrap_from=40, bootstrap_to=80, bootstrap_keep=0.5, log_every=5, checkpoint_every=50,
    )  # fmt: skip


PRESETS = {"stage1": stage1, "stage2": stage2, "stage3": stage3, "stm": stm, "trial": trial}


def train(config: StcnVideoConfig, *, resume: bool = False) -> Path:
    """Train and return the run folder. Every process of a torchrun calls this.

    Raises DatasetError, InputError and CheckpointError before the first step for what does not fit together.
    """
    sources = find_sources(config)
    samples = sum(len(source.videos) * source.repeats for source in sources)
    data = VideoMix(
        sources,
        partial(max_gap, epochs=epochs_of(config, samples), borders=config.gap_borders, gaps=config.gaps),
        size=config.crop,
        seed=config.seed,
        choice=config.frame_choice,
        motion=FrameMotion(aspect=config.crop_aspect),
    )
    found = ", ".join(f"{source.name} {len(source.videos)} x {source.repeats}" for source in sources)
    return fit(config, data, stage=f"video ({found})", mask_channels=2, resume=resume)


def find_sources(config: StcnVideoConfig) -> list[VideoSource]:
    """Return the sets that a configuration names. Raises InputError when it names none."""
    sources = []
    if config.davis is not None:
        sources.append(
            davis_source(
                config.davis,
                year=config.davis_year,
                split=config.davis_split,
                sequences=config.davis_sequences or None,
                repeats=config.davis_repeats,
            )
        )
    if config.youtube_vos is not None:
        sources.append(youtube_vos_source(config.youtube_vos, subset=config.youtube_subset))
    if config.bl30k is not None:
        source = bl30k_source(config.bl30k, subset=config.bl30k_subset, small_objects=config.small_objects)
        sources.append(source)
    if not sources:
        raise InputError("no videos to train on: give --davis, --youtube-vos or --bl30k")
    return sources
