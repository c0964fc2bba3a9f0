"""Track through a whole video: the tracker that a network needs, in one direction or both.

Source: STCN (Cheng 2021) and its supplement, section B; the report on SlowFast networks for video object segmentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

from twospeed.errors import InputError
from twospeed.pipelines.inputs import Device, Model, Precision
from twospeed.pipelines.propagate import Direction, Gone, check_keyframes, frames_of, track_segments
from twospeed.pipelines.tracker import Tracker
from twospeed.pipelines.video_tracker import Labels, VideoTracker, name_of, needs_masks
from twospeed.results import ObjectMasks, OnProgress
from twospeed.video.indexed_png import read_label_map
from twospeed.video.reader import frame_range, open_video
from twospeed.video.sources import PositionLike, SourceLike
from twospeed.weights.catalog import DEFAULT_TRACKER

MEMORY_FRAMES = 20  # remembered by `track` and the command line unless told otherwise


class TrackOptions(TypedDict, total=False):
    """Options of `track`: those of `Tracker` and of `UnsupervisedTracker`; each takes its own."""

    memory_every: int
    include_last: bool
    top_k: int | None
    max_memory_frames: int | None
    size: int | None
    upscale: bool
    weights: Any
    device: Device
    kernel_sigma: float | None
    precision: Precision
    cuts: bool
    finder: Model | None
    merged: bool
    min_score: float | None
    max_objects: int
    on_progress: OnProgress | None


def make_tracker(
    model_or_name: Model = DEFAULT_TRACKER, finetune: int | Any = None, **options: Unpack[TrackOptions]
) -> VideoTracker:
    """Return the tracker that a network needs: `Tracker`, `UnsupervisedTracker`, or `OneShotTracker`.

    finetune: iterations, or the settings, of fine-tuning on the first masks; a network that finds objects without masks
    is then an `OneShotTracker`. Raises InputError for an option that this tracker does not have.
    """
    kind: Any
    if needs_masks(model_or_name):
        kind = Tracker
    elif finetune is None:
        from twospeed.pipelines.unsupervised import UnsupervisedTracker  # imports torch

        kind = UnsupervisedTracker
    else:
        from twospeed.pipelines.finetune import OneShotTracker  # imports torchvision

        kind = OneShotTracker
    given: dict[str, Any] = {**options, **({} if finetune is None else {"finetune": finetune})}
    known = [name for name in inspect.signature(kind).parameters if name != "model_or_name"]
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            f"{unknown[0]} is no option of {kind.__name__}, which {name_of(model_or_name)} needs; it takes "
            f"{', '.join(known)}",
            option=unknown[0],
        )
    tracker: VideoTracker = kind(model_or_name, **given)
    return tracker


GivenMasks: TypeAlias = "Labels | str | Path | Mapping[int, Labels | str | Path]"


def track(
    source: SourceLike,
    masks: GivenMasks | None = None,
    model_or_name: Model = DEFAULT_TRACKER,
    *,
    direction: Direction = "forward",
    start: PositionLike | None = None,
    end: PositionLike | None = None,
    gone: Gone | None = None,
    finetune: int | Any = None,
    **options: Unpack[TrackOptions],
) -> Iterator[ObjectMasks]:
    """Track objects through a video, one result a frame in order of frames, in constant memory.

    source: anything `open_video` takes. masks: labels (H, W) or a mask file for the frame where tracking begins, or a
    mapping from frame index to either: objects may appear, and be corrected, at any frame; None for a network that
    finds objects without masks (find_nano). direction: "forward" from each mask, "backward", or "both", where
    frames between two masks come from the nearer one (`pipelines.propagate`); frames that no mask reaches are empty.
    A mask without an index is that of the first frame, or with "backward" of the last. start, end: the part, as
    `open_video` takes them. gone: ids of objects by the frame from which on they are absent. finetune, options: of
    `make_tracker`, but max_memory_frames is 20 unless given; None sets no bound.

    Raises VideoError, MaskError, InputError; errors of masks and options appear before any frame is computed; forward,
    that of a mask of no frame of the part appears after the last. Only stored sources can be tracked backward.
    """
    wanted = needs_masks(model_or_name) or finetune is not None
    if masks is not None and not wanted:
        raise InputError(
            f"masks were given, but {name_of(model_or_name)} finds objects without; leave them out, choose track_nano, "
            "or fine-tune it on them",
            option="masks",
        )
    if masks is None and wanted:
        raise InputError(
            f"no masks were given: {name_of(model_or_name)} follows objects that are marked; give masks of the first "
            "frame, or choose find_nano, which finds objects without",
            option="masks",
        )
    if direction not in ("forward", "backward", "both"):
        raise InputError(f"direction is {direction!r}; choose 'forward', 'backward' or 'both'", option="direction")
    if not needs_masks(model_or_name) and (direction != "forward" or gone):
        raise InputError(f"{name_of(model_or_name)} tracks forward alone, without corrections", option="direction")
    known: Any = masks
    if isinstance(masks, Mapping):
        known = {index: _read_labels(one) for index, one in masks.items()}
    elif masks is not None:
        known = _read_labels(masks)
    if needs_masks(model_or_name):
        options = {"max_memory_frames": MEMORY_FRAMES, **options}
    tracker = make_tracker(model_or_name, finetune, **options)
    if direction == "forward" or not isinstance(tracker, Tracker):
        return (result for _, result in tracker.run(open_video(source, start, end), known, gone))
    frames = frame_range(source, start, end)
    keyframes = known if isinstance(known, Mapping) else {frames[-1 if direction == "backward" else 0]: known}
    check_keyframes({*keyframes, *(gone or {})}, frames)
    return (r for _, r in track_segments(frames_of(source), tracker, keyframes, frames, direction, gone))


def _read_labels(masks: Labels | str | Path) -> Labels:
    return read_label_map(Path(masks)) if isinstance(masks, str | Path) else masks
