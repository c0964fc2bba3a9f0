"""How well masks are drawn from clicks and boxes: the clicks that a mask needs, on frames of DAVIS-2016.

A simulated user clicks in the middle of the thickest error until the mask is good enough, as click networks are
evaluated (RITM: Sofiiuk, Petrov and Konushin, ICIP 2022; the protocol goes back to Xu et al., CVPR 2016).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.davis import Davis
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.report import Report, Table
from twospeed.evaluation.runner import Networks, Run, coverage
from twospeed.ops.clicks import Box, Point, next_click
from twospeed.pipelines.prompts import PromptNetwork
from twospeed.results import OnProgress

GRABCUT = "grabcut"
MOST_CLICKS = 20
COLUMNS = ("NoC85", "NoC90", "IoU_box", "IoU_click1")


def evaluate_clicks(
    data: Path | str,
    *,
    model: Any = "click_nano",
    weights: Any = "default",
    split: str = "val",
    sequences: Sequence[str] | None = None,
    every: int = 25,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Score masks from prompts on every `every`-th frame of DAVIS-2016's sequences, the first frame included.

    model: a catalogue name, a network, "grabcut", or an object with `PromptNetwork`' call. Scores are means over
    sequences of means over their frames. NoC85, NoC90: clicks until the intersection over union is 0.85, 0.90, at most
    20. IoU_box: from the box that just encloses the object. IoU_click1: from the first click, in the object's middle.
    Raises InputError, DatasetError.
    """
    if every < 1:
        raise InputError(f"every is {every}; give 1 or more frames", option="every")
    segmenter, networks = _segmenter(model, weights)
    run = Run("clicks", networks, {"every": every, "most_clicks": MOST_CLICKS}, on_progress)
    samples = list(Davis(data, 2016, split, sequences=sequences))
    rows: list[tuple[str, tuple[float, ...]]] = []
    for number, sample in enumerate(samples, start=1):
        scores = []
        for frame in list(sample.annotations)[::every]:
            image, truth = sample.image(frame), sample.labels(frame) == 1
            if image.shape[:2] != truth.shape:
                sizes = ["x".join(map(str, each.shape[1::-1])) for each in (truth, image)]
                raise DatasetError(f"{sample.annotations[frame]}: the mask is {sizes[0]}, its frame {sizes[1]}")
            if truth.any():
                scores.append(score_frame(segmenter, image, truth, run))
        rows.append((sample.name, tuple(np.mean(scores, 0).tolist()) if scores else (float("nan"),) * len(COLUMNS)))
        run.progress("evaluate", number, len(samples), "sequences")
    if all(np.isnan(values[0]) for _, values in rows):
        raise InputError(f"{data}: no frame that is scored has an object; score more of them", option="every")
    means = tuple(float(np.nanmean([row[i] for _, row in rows])) for i in range(len(COLUMNS)))
    return run.report(
        clock="one mask from its prompts, the network alone",
        scores={
            **dict(zip(COLUMNS, means, strict=True)),
            "sequences": {name: dict(zip(COLUMNS, values, strict=True)) for name, values in rows},
        },
        table=Table(COLUMNS, (*rows, ("mean", means)), ("number", "number", "share", "share")),
        protocol=(
            f"clicks in the middle of the thickest error until the mask's intersection over union is 0.85 and 0.90, at "
            f"most {MOST_CLICKS}; every {every}th frame, mean over sequences"
        ),
        coverage=coverage(len(samples), 20 if split == "val" else None, "sequences", "DAVIS-2016 val"),
    )


def score_frame(
    segmenter: PromptNetwork, image: NDArray[np.uint8], truth: NDArray[np.bool_], run: Run
) -> tuple[float, float, float, float]:
    """Return the clicks to 0.85 and 0.90, and the intersection over union from a box and from the first click."""

    def predict(*prompts: Any, **more: Any) -> NDArray[np.bool_]:
        with run.clock.running():
            return segmenter.predict(image, *prompts, **more)

    boxed = overlap(predict(box=enclosing_box(truth)), truth)
    reached: dict[float, int] = {}
    first = 0.0
    for clicks, result in enumerate(itertools.islice(masks_by_click(predict, truth), MOST_CLICKS), start=1):
        reached_now = overlap(result, truth)
        if clicks == 1:
            first = reached_now
        for wanted in (0.85, 0.90):
            if reached_now >= wanted:
                reached.setdefault(wanted, clicks)
        if 0.90 in reached:
            break
    return float(reached.get(0.85, MOST_CLICKS)), float(reached.get(0.90, MOST_CLICKS)), boxed, first


def masks_by_click(predict: Callable[..., NDArray[np.bool_]], truth: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Click where the mask is most wrong, again and again: yield the mask after each click, bool (H, W).

    predict: (points, start=the mask so far or None) -> mask. Ends when nothing is wrong where no click was made yet.
    """
    points: list[Point] = []
    result = np.zeros_like(truth)
    while (click := next_click(truth, result, points)) is not None:
        points.append(click)
        result = predict(points, start=result if len(points) > 1 else None)
        yield result


def enclosing_box(truth: NDArray[np.bool_]) -> Box:
    """Return the smallest box (x1, y1, x2, y2), in edges, around a mask (H, W) that is not empty."""
    ys, xs = np.nonzero(truth)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def overlap(result: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks; 0 where both are empty."""
    return float((result & truth).sum() / max(1, (result | truth).sum()))


def _segmenter(model: Any, weights: Any) -> tuple[PromptNetwork, Networks]:
    from torch import nn

    from twospeed.pipelines.click import ClickSegmenter
    from twospeed.pipelines.grabcut import GrabCutSegmenter

    if model == GRABCUT:
        model = GrabCutSegmenter()
    networks = Networks(model, weights, task="click")
    built = networks.built()[0]
    return (ClickSegmenter(built) if isinstance(built, nn.Module) else built), networks
