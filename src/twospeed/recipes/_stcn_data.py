"""What the recipe stcn trains on: its sets, in which order, how far apart the frames of a clip are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twospeed.data.benchmarks.coco import find_objects
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.stills import LAYOUTS, find_pairs
from twospeed.data.benchmarks.video_folders import VideoFolders, read_names, youtube_vos_training
from twospeed.data.clips.stills import StillClips
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import ClipKey, ClipMix, ClipSource, TrainingBatch, stack_clips
from twospeed.data.clips.videos import (
    AROUND_OBJECTS,
    AnnotatedVideo,
    AnnotatedVideos,
    FrameMotion,
    VideoClips,
    decoded,
    large_enough,
    max_gap,
    not_tiny,
)
from twospeed.data.loading import load
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.recipes._stcn_settings import StcnConfig
from twospeed.training.distributed import Process, epoch_batches
from twospeed.training.schedule import progress_of


def find_sources(config: StcnConfig) -> list[ClipSource]:
    """Return the sets that a configuration names. Raises InputError when it names none, DatasetError as they do."""
    sources: list[ClipSource] = []
    if config.static is not None:
        pairs = find_pairs(config.static, config.sets, sequences=config.davis_sequences)
        sources += [StillClips(some, repeats=LAYOUTS[name].repeats, name=name) for name, some in pairs.items()]
    if config.coco is not None and not config.generated:
        sources.append(StillClips(find_objects(config.coco), name="coco"))
    frames = FrameMotion(aspect=config.crop_aspect, near=config.near, twins=config.look_alikes)
    around = replace(
        AROUND_OBJECTS, scale=config.view_scale, zoom=config.frame_zoom, near=config.near, twins=config.look_alikes
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
        wider = replace(motion, area=(0.25, 1.0))
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
    return decoded(data, chosen, config.cache)


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
