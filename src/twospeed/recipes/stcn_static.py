"""Train stage 0 of STCN (or STM): one object through three warped views of a still image.

    twospeed train stcn_static --static static --key-backbone-weights resnet50.pth --value-backbone-weights resnet18.pth
    python -m experiments.vos_sets DEMO && twospeed train stcn_static --preset trial --static DEMO/static --out runs/t
    torchrun --nproc-per-node 2 -m twospeed.cli.main train stcn_static ...

FSS-1000, DUTS, ECSSD, BIG and HRSOD, as `data.clips.stills` finds them below `static` (a folder of DAVIS serves too).
The defaults are the authors': 300K iterations of 16 samples, about 30 hours on two GPUs of 11 GB together with stage 3.
Their finding: without this stage the later ones do not reach their scores. What it gave here: docs/stcn_training.md.

In the run folder: config.json, origin.json, train.csv, metrics.jsonl, checkpoints, and weights.safetensors, from which
`stcn_video` starts and which `create_model("stcn", ...)` takes as it is. `--resume` continues from the last checkpoint;
on a CPU the curve is the same to the last digit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from twospeed.data.clips.stills import LAYOUTS, StaticTriplets, find_pairs
from twospeed.models.memory import Similarity
from twospeed.recipes._stcn_loop import Backbone, Network, Precision, check_settings, fit


@dataclass(frozen=True, kw_only=True)
class StcnStaticConfig:
    """Everything that decides a training; the defaults are the authors'."""

    # Data
    static: Path = Path("static")  # folder of the sets
    sets: tuple[str, ...] = ()  # fss, duts-tr, duts-te, ecssd, big, hrsod, davis; none: those that are there
    davis_sequences: tuple[str, ...] = ()  # of set davis, only these
    crop: int = 384  # pixels; a multiple of 16
    workers: int = 8  # loading processes for each training process

    # Network
    network: Network = "stcn"
    backbone: Backbone = "resnet50"
    similarity: Similarity | None = None  # l2 or dot; none: as published, l2 for stcn, dot for stm
    aspp: bool = False
    width: int = 64  # channels of the first stage; fewer for trials
    weights: Path | None = None  # start from these
    key_backbone_weights: Path | None = None  # torchvision's ImageNet file: resnet50, wide_resnet50_2
    value_backbone_weights: Path | None = None  # resnet18 (stm: resnet50)
    norm_batches: int = 16  # without any of them: batch norm is measured over so many batches, then frozen

    # Optimisation
    iterations: int = 300_000
    batch: int = 16  # samples a step, over all processes
    samples_per_forward: int | None = None  # of one process; none: its share of the batch; fewer: gradients accumulate
    lr: float = 1e-5
    lr_steps: tuple[int, ...] = (150_000,)  # iterations at which it falls to a tenth
    weight_decay: float = 1e-7
    bootstrap_from: int = 20_000  # iterations: all pixels count until then
    bootstrap_to: int = 70_000  # from then on, the hardest `bootstrap_keep` of them
    bootstrap_keep: float = 0.15
    precision: Precision = "auto"  # fp16 with scaled gradients on CUDA, fp32 elsewhere

    # Run
    out: Path = Path("runs/stcn_static")
    seed: int = 0
    device: str | None = None  # none: a GPU where there is one
    log_every: int = 100  # iterations
    checkpoint_every: int = 10_000
    stop_after: int | None = None  # end early, as if interrupted after a checkpoint (trials)

    def __post_init__(self) -> None:
        check_settings(self)

    def max_gap(self, epoch: int, samples: int) -> int:
        """Stills have no distance in time."""
        return 0


def trial() -> StcnStaticConfig:
    """A narrow network on small crops for 150 iterations: a minute or two on a CPU."""
    return StcnStaticConfig(
        crop=96, workers=0, width=8, iterations=150, batch=4, lr=1e-3, lr_steps=(120,),
        bootstrap_from=60, bootstrap_to=120, bootstrap_keep=0.5, log_every=5, checkpoint_every=50,
    )  # fmt: skip


def stm() -> StcnStaticConfig:
    """The same for STM, the baseline of the supplement's Table 1 (its two encoders both start from resnet50)."""
    return dataclasses.replace(StcnStaticConfig(), network="stm", out=Path("runs/stm_static"))


PRESETS = {"stage0": StcnStaticConfig, "stm": stm, "trial": trial}


def train(config: StcnStaticConfig, *, resume: bool = False) -> Path:
    """Train and return the run folder. Every process of a torchrun calls this.

    Raises DatasetError, InputError and CheckpointError before the first step for what does not fit together.
    """
    pairs = find_pairs(config.static, config.sets, sequences=config.davis_sequences)
    data = StaticTriplets(pairs, size=config.crop, seed=config.seed)
    found = ", ".join(f"{name} {len(some)}{_of(LAYOUTS[name].official)}" for name, some in pairs.items())
    return fit(config, data, stage=f"static stage 0 ({found})", mask_channels=1, resume=resume)


def _of(official: int | None) -> str:
    return "" if official is None else f" of {official}"
