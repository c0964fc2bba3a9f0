"""Run networks over AVA's keyframes, write detections.csv as the server takes it, and score that file.

What runs is the `BoxActions` that `twospeed detect` runs, on the boxes that a person detector found (score of at least
0.8), one clip around each keyframe, the whole image. Finished parts of a video are written aside and moved into
place, which is what makes a run resumable.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import (
    Version,
    default_label_map,
    find_annotations,
    find_predicted_boxes,
    read_exclusions,
    read_label_map,
    read_predicted_boxes,
    second_text,
    write_detections,
)
from twospeed.data.benchmarks.ava_frames import AvaFrames, in_pixels
from twospeed.data.benchmarks.ava_keyframes import PERSON_SCORE, Keyframe, keyframes_of
from twospeed.environment import resolve_device
from twospeed.errors import InputError
from twospeed.evaluation.ava import check_rules, evaluate_ava, of_videos
from twospeed.evaluation.report import Report, Table
from twospeed.evaluation.runner import Model, Networks, Run, check_source, listed
from twospeed.files import atomic_file, make_folder
from twospeed.pipelines.box_actions import BoxActions, scaled
from twospeed.pipelines.inputs import Precision, used_precision
from twospeed.results import OnProgress
from twospeed.training.distributed import Process, processes, wait_for_all
from twospeed.transforms.spatial import CropTransform
from twospeed.video.ahead import read_ahead
from twospeed.weights.catalog import find

KEYFRAMES_A_PART = 50  # an interrupted run loses less than this

Clips = dict[tuple[int, CropTransform], NDArray[np.uint8]]


def score_keyframes(
    keyframes: Sequence[Keyframe], frames: AvaFrames, actions: BoxActions, *, workers: int = 1
) -> Iterator[tuple[Keyframe, NDArray[np.float32]]]:
    """Yield every keyframe with what its people do, float32 (n, C); `workers` threads decode ahead.

    Raises DatasetError for videos that are missing or too short, VideoError for images that cannot be read.
    """
    longest: dict[int, int] = {}
    for count, stride in actions.samplings:
        if count % 2:
            raise InputError(f"a clip of {count} frames has no middle; networks for keyframes take an even number")
        longest[stride] = max(count, longest.get(stride, 0))

    def read(keyframe: Keyframe) -> tuple[Keyframe, Clips, int, int]:
        clips: Clips = {}
        height = width = 0
        for stride, count in longest.items():
            images = frames.clip(keyframe.video, keyframe.second, count, stride)
            height, width = images.shape[1:3]
            for transform in actions.transforms(height, width):
                clips[stride, transform] = np.stack([scaled(image, transform) for image in images])
        return keyframe, clips, height, width

    def middle(clips: Clips, count: int, stride: int, transform: CropTransform) -> NDArray[np.uint8]:
        """As `box_actions.Images`: the middle of the clip that was read."""
        clip = clips[stride, transform]
        before = (len(clip) - count) // 2
        return clip[before : before + count]

    for keyframe, clips, height, width in read_ahead(read, keyframes, workers):
        boxes = in_pixels(keyframe.boxes_xyxy, height, width)
        yield keyframe, actions.scores(functools.partial(middle, clips), boxes, height, width)


def run_keyframes(
    run: Run,
    keyframes: Sequence[Keyframe],
    frames: AvaFrames,
    actions: BoxActions,
    folder: Path,
    process: Process,
    *,
    workers: int = 1,
) -> Path:
    """Write folder/detections.csv, and return its path. Every process writes its share of the parts.

    What an earlier run has left in folder/parts is kept. Raises as `score_keyframes`, and OutputError.
    """
    whole, parts = folder / "detections.csv", folder / "parts"
    kept_whole = whole.is_file()
    wait_for_all()  # before any process can write it
    if kept_whole:
        return whole
    by_video: dict[str, list[Keyframe]] = {}
    for keyframe in keyframes:
        by_video.setdefault(keyframe.video, []).append(keyframe)
    make_folder(parts)
    written: list[Path] = []
    done = 0
    seen = actions.passes * max(count for count, _ in actions.samplings)  # frames that the networks see of a keyframe
    for number, (video, its) in enumerate(by_video.items(), 1):
        kept = True
        for begin in range(0, len(its), KEYFRAMES_A_PART):
            part = its[begin : begin + KEYFRAMES_A_PART]
            path = parts / f"{video}_{second_text(part[0].second)}.csv"
            written.append(path)
            if len(written) % process.world == process.rank and not path.is_file():
                kept = False
                with (
                    run.clock.running("keyframes", seen * len(part)),
                    atomic_file(path) as temporary,
                    temporary.open("w", encoding="utf-8") as file,
                ):
                    scored = score_keyframes(part, frames, actions, workers=workers)
                    for place, (keyframe, scores) in enumerate(scored):
                        run.progress("detect", done + place, len(keyframes), "keyframes")
                        write_detections(file, video, keyframe.second, keyframe.boxes_xyxy, scores)
            done += len(part)
        what = "kept from before" if kept else f"{len(its)} keyframes"
        run.progress("detect", done, len(keyframes), "keyframes", f"{video}: {what} ({number} of {len(by_video)})")
    wait_for_all()
    if process.is_main:
        with atomic_file(whole) as temporary, temporary.open("wb") as joined:
            for path in written:
                with path.open("rb") as part_file:
                    shutil.copyfileobj(part_file, joined)
        shutil.rmtree(parts)
    wait_for_all()
    return whole


def evaluate_ava_model(
    data: Path | str,
    *,
    model: Model | Sequence[Model],
    weights: Any = "default",
    split: str = "val",
    boxes: Path | str | None = None,
    threshold: float | None = None,
    scales: Sequence[int] = (),
    flip: bool = False,
    videos: Sequence[str] | None = None,
    ground_truth: Path | str | None = None,
    labels: Path | str | None = None,
    exclusions: Path | str | None = None,
    rules: str = "activitynet",
    version: Version | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    workers: int = 1,
    device: str | None = None,
    precision: Precision = "fp32",
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Run networks over a split of AVA in its official layout, and score them.

    data: the folder: `annotations`, and `frames` with `frame_lists`, or `videos`. model, weights, scales, flip, device,
    precision: as `BoxActions` takes them. boxes: people found by a detector, as csv; None looks for the file in
    `annotations`. threshold: boxes with a lower score are left out; None for what the models were published with (0.8;
    Slow 4x16: 0.9). version: of the annotations, None takes the newest that is there. videos: only these. ground_truth,
    labels, exclusions: instead of the files in `annotations`; rules: as `evaluate_ava`. output: where detections.csv is
    kept, and with resume that of an interrupted run; None for a temporary folder. workers: threads that decode.
    Under torchrun every process computes its share into `output`, and each returns the report of the whole.

    The report's scores are those of `evaluate_ava`; of a split without public ground truth they are empty and `output`
    holds what the server takes. Raises InputError, DatasetError, VideoError, CheckpointError, WeightsUnavailable,
    OutputError.
    """
    check_source(None, model, output, resume)
    if workers < 1:
        raise InputError(f"workers={workers}: at least 1 thread decodes")
    check_rules(rules)
    published = threshold is None
    if threshold is None:
        threshold = published_person_score(model)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: give a score from 0 to 1")
    files = find_annotations(data, split, version=version, need_ground_truth=ground_truth is None and output is None)
    truth = ground_truth or files.get("ground_truth")
    labels, exclusions = labels or files.get("labels"), exclusions or files.get("exclusions")
    names = default_label_map() if labels is None else read_label_map(labels)
    boxes = boxes or find_predicted_boxes(data, split)
    rows = of_videos(read_predicted_boxes(boxes, labels=names), videos)
    left_out = () if exclusions is None else read_exclusions(exclusions)
    keyframes = keyframes_of(rows, threshold=threshold, excluded=left_out)
    frames = AvaFrames(data, (split,))
    frames.check(keyframes)

    networks = Networks(model, weights, task="detect", on_progress=on_progress)
    precision = used_precision(precision, resolve_device(device))
    settings = {
        "split": split, "boxes": str(boxes), "threshold": threshold, "scales": list(scales), "flip": flip,
        "precision": precision, "videos": None if videos is None else sorted(videos),
    }  # fmt: skip
    run = Run("ava", networks, settings, on_progress)
    with processes(device) as process:
        if process.world > 1 and output is None:
            raise InputError("several processes share a folder for their results, which is not given", option="output")
        place = device if process.world == 1 else str(process.device)
        actions = BoxActions(model, weights=weights, scales=scales, flip=flip, device=place, precision=precision)
        classes = len(actions.labels)
        if classes < max(names):
            raise InputError(
                f"the label map has class {max(names)}, but {actions.name} with these weights has {classes} classes"
            )
        with run.shared_folder(output, process, resume=resume) as folder:
            found = run_keyframes(run, keyframes, frames, actions, folder, process, workers=workers)
            if truth is None:
                scored = _unscored(found, split, len(keyframes))
            else:
                scored = evaluate_ava(found, truth, labels=labels, exclusions=exclusions, rules=rules, videos=videos)
    people = f"people: boxes of {Path(boxes).parent.name}/{Path(boxes).name} with a score of {threshold:g} or more"
    people += " (as published)" if published else " (chosen)"
    return run.report(
        clock=f"decoding and networks, {actions.passes} clips a keyframe",
        scores=scored.scores,
        table=scored.table,
        protocol=f"{scored.protocol}; {people}",
        coverage=scored.coverage,
        notes=scored.notes,
        settings={**scored.settings, **settings},
    )


def published_person_score(model: Model | Sequence[Model]) -> float:
    """Return the least score of people's boxes that models were published with; 0.8 where they differ."""
    scores = {find(one).person_score if isinstance(one, str) else PERSON_SCORE for one in listed(model)}
    return scores.pop() if len(scores) == 1 else PERSON_SCORE


def _unscored(found: Path, split: str, keyframes: int) -> Report:
    return Report(
        benchmark="ava",
        scores={},
        table=Table(("AP",), ()),
        protocol=f"detections of {split}, as the server takes them",
        coverage=f"{keyframes} keyframes",
        model="",
        notes=(f"the annotations of {split} are not here: send {found} to the benchmark's server",),
    )
