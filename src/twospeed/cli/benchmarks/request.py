"""What the command line asks of a benchmark, and how a benchmark says which of it has a meaning there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress
    from twospeed.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of a benchmark. None and empty: not asked for, the protocol's own value holds."""

    data: Path | None = None
    predictions: Path | None = None
    more_predictions: tuple[Path, ...] = ()
    model: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    sequences: tuple[str, ...] | None = None
    split: str | None = None
    task: str | None = None
    output: Path | None = None
    resume: bool = False
    device: str | None = None
    size: int | None = None
    scales: tuple[int, ...] = ()
    flip: bool = False
    memory_every: int | None = None
    top_k: int | None = None
    max_memory_frames: int | None = None
    include_last: bool = False
    min_score: float | None = None
    finetune: int | None = None
    all_frames: bool = False
    clips: int | None = None
    crops: int | None = None
    root: Path | None = None
    separator: str | None = None
    class_names: Path | None = None
    workers: int | None = None
    precision: str | None = None
    boxes: Path | None = None
    threshold: float | None = None
    ground_truth: Path | None = None
    labels: Path | None = None
    exclusions: Path | None = None
    rules: str | None = None
    keyframe_every: int | None = None
    keyframe_weights: Path | None = None
    frame_step: int | None = None
    image_scales: tuple[float, ...] = ()
    frame_list: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: the function that runs it, and the options that mean something to it."""

    run: Callable[[Request, OnProgress], Report]
    options: frozenset[str]


def data_folder(request: Request) -> Path:
    """Return the data set's folder. Raises InputError when none is given."""
    if request.data is None:
        raise InputError("where is the data set? give --data DIR, its folder in the official layout")
    return request.data
