"""Export a model as graphs that run without torch, and measure what a lower precision costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.files import atomic_folder
from twospeed.metrics.confusion import confusion_matrix, mean_iou
from twospeed.metrics.regions import score_frame
from twospeed.models.protocol import CLIP_NETWORK, MASK_MEMORY, VIDEO_SEGMENTATION, lacks
from twospeed.ops.on_numpy import sigmoid
from twospeed.results import OnProgress
from twospeed.video.indexed_png import read_label_map
from twospeed.video.reader import frame_times, read_frames
from twospeed.video.sources import SourceLike
from twospeed.weights.catalog import find
from twospeed.weights.entries import ENGINES, PRECISIONS, ExportedModel, Preprocessing, Task, read_exported
from twospeed.weights.store import weights_sha256

if TYPE_CHECKING:
    from torch import nn

    from twospeed.export.examples import Clip

FRAMES = 12
"""Frames that a graph is checked and calibrated on."""

ALLOWED_LOSS = 0.02
"""Loss of J&F, mIoU or top-1 agreement from which int8 is refused, unless more is allowed."""


def export_model(
    model_or_name: nn.Module | str,
    folder: str | Path,
    format: Literal["onnx", "openvino"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    *,
    weights: Any = "default",
    task: Task | None = None,
    source: SourceLike | None = None,
    masks: NDArray[np.integer[Any]] | str | Path | None = None,
    allow_loss: float = ALLOWED_LOSS,
    labels: tuple[str, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    on_progress: OnProgress | None = None,
) -> ExportedModel:
    """Write a model as graphs that the pipelines run without torch: `Tracker(folder)`, `Segmenter(folder)`, and so on.

    model_or_name: a catalogue name, with `weights` as `create_model` takes them, or a network that offers one of the
    protocols of `models.protocol`; task: "classify" or "detect", which networks of clips need. folder: must not exist.
    precision: "fp16" stores weights in 16 bits and computes in 32; "int8" computes convolutions and products in 8 bits.
    source, masks: frames on which graphs are checked against torch and int8 is calibrated, the first 12 of a video,
    and for a tracker the labels of the first frame with two objects or more; a rendered clip unless given. allow_loss:
    of the result in a lower precision, as the job's benchmark scores it against the result in fp32: J&F of masks, mIoU
    of labels, share of equal top-1 classes, 1 - the mean difference of scores for people in boxes. labels,
    preprocessing: of a network of your own.

    Returns what `folder/model.json` says: `check` holds the largest differences from torch and the loss. Raises
    InputError (an unknown format, a folder that exists, a network that cannot be exported, a loss that is not allowed,
    a missing package), CheckpointError, WeightsUnavailable, OutputError; nothing is left behind then.
    """
    for name, value, known in (("format", format, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; choose {' or '.join(known)}", option=name)
    if not 0 <= allow_loss <= 1:
        raise InputError(f"allow_loss is {allow_loss}; give a number from 0 to 1", option="allow_loss")
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; name a new folder, or remove it", option="output")
    origin: dict[str, Any] = {}
    if isinstance(model_or_name, str):
        entry = find(model_or_name)
        if entry.exported is not None:
            raise InputError(f"{model_or_name} is exported already; name the model that it comes from")
        if entry.task == "click" or (entry.task == "track" and not entry.needs_masks):
            raise InputError(
                f"{entry.name} cannot be exported; models that classify, detect, segment or follow masks can"
            )
        from twospeed.pipelines.action_labels import label_names
        from twospeed.weights.load import create_model

        network: Any = create_model(entry.name, weights, on_progress=on_progress)
        task, preprocessing, model = entry.task, preprocessing or entry.preprocessing, entry.name
        labels = labels or getattr(network, "class_names", None)
        if entry.task != "segment" and not labels and entry.labels is not None:
            # A segmenter's pipeline knows the classes of data sets by their number
            labels = tuple(label_names(None, entry.labels, getattr(network, "num_classes", 0), entry.labels))
        if weights is not None:
            origin["weights_sha256"] = weights_sha256(entry.name, weights)
        if weights == "default" and entry.weights is not None:
            origin |= {"licence": entry.weights.licence, "trained_on": entry.weights.trained_on}
    else:
        network, model = model_or_name, type(model_or_name).__name__
        task = task or _task_of(network)
        preprocessing = preprocessing or Preprocessing()
    from twospeed.export.write import write_graphs

    clip = _clip(source, masks, task)
    network = network.eval().cpu()
    with atomic_folder(folder) as temporary:
        exported = write_graphs(
            network, temporary, task=task, model=model, engine=format, precision=precision, clip=clip,
            preprocessing=preprocessing, labels=labels, origin=origin,
        )  # fmt: skip
        if precision != "fp32":
            what, agreement = _agreement(network, exported, clip)
            if 1 - agreement > allow_loss:
                raise InputError(
                    f"{model} in {precision} has {what} {agreement:.4f} against its results in fp32, a loss of "
                    f"{1 - agreement:.4f}, and {allow_loss:g} is allowed; calibrate on frames like yours, or allow "
                    "more",
                    option="allow_loss",
                )
            exported = replace(exported, check={**exported.check, "agreement": {"of": what, "value": agreement}})
            exported.write()
    return read_exported(folder)


def _task_of(network: Any) -> Task:
    """Tell what a network does from what it offers."""
    if not lacks(network, MASK_MEMORY):
        return "track"
    if lacks(network, CLIP_NETWORK):
        return "segment"
    raise InputError(
        f"{type(network).__name__} is a network of clips: say whether its task is 'classify' or 'detect'", option="task"
    )


def _clip(source: SourceLike | None, masks: Any, task: Task) -> Clip:
    """Return the frames that are checked, with the labels of the first."""
    from twospeed.export.examples import Clip

    if source is None:
        from twospeed.data.clips.synthetic import render_clip

        rendered = list(render_clip(7, frames=FRAMES, height=240, width=320))
        return Clip([image for image, _ in rendered], rendered[0][1])
    count = min(FRAMES, len(frame_times(source, rate=30)))
    if count < 3:
        raise InputError(f"the video has {count} frames; give one with 3 or more", option="frames")
    frames = list(read_frames(source, list(range(count))))
    if masks is None and task == "track":
        raise InputError("the first frame's masks are not given; a tracker needs them, of two objects", option="mask")
    labels = read_label_map(Path(masks)) if isinstance(masks, str | Path) else masks
    labels = np.zeros(frames[0].shape[:2], np.uint8) if labels is None else np.asarray(labels).astype(np.uint8)
    if labels.shape != frames[0].shape[:2]:
        raise InputError(f"the mask is {labels.shape[1]}x{labels.shape[0]}, its frame is not", option="mask")
    return Clip(frames, labels)


def _agreement(network: Any, exported: ExportedModel, clip: Clip) -> tuple[str, float]:
    """Score the results of graphs against those of the network itself, as the job's benchmark would."""
    if exported.task == "track":
        return "J&F", _masks_agree(network, exported, clip)
    if exported.task == "segment":
        return "mIoU", _labels_agree(network, exported, clip)
    from twospeed.export.write import recognised

    pairs = recognised(network, exported, clip)
    if exported.task == "classify":
        equal = [a.mean(1).argmax(-1) == b.mean(1).argmax(-1) for a, b in pairs]
        return "top-1 agreement", float(np.concatenate(equal).mean())
    scores = [np.abs(sigmoid(a.astype(np.float64)) - sigmoid(b.astype(np.float64))).ravel() for a, b in pairs]
    return "1 - mean difference of scores", 1 - float(np.concatenate(scores).mean())


def _masks_agree(network: Any, exported: ExportedModel, clip: Clip) -> float:
    from twospeed.pipelines.tracker import Tracker

    trackers = [Tracker(network, size=None, device="cpu", finder=None), Tracker(exported.folder, size=None)]
    objects, scores = int(clip.labels.max()), []
    for number, image in enumerate(clip.frames):
        given = clip.labels if number == 0 else None
        reference, found = (tracker.step(image, given).labels for tracker in trackers)
        if number:
            scores.append(np.stack(score_frame(found, reference, objects)))  # (2, K): J and F
    return float(np.nanmean(np.stack(scores)))


def _labels_agree(network: Any, exported: ExportedModel, clip: Clip) -> float:
    from twospeed.pipelines.segment import Segmenter

    every = 1 if lacks(network, VIDEO_SEGMENTATION) else 4
    segmenters = [Segmenter(network, every, device="cpu"), Segmenter(exported.folder, every)]
    total: Any = 0
    for image in clip.frames:
        reference, found = (segmenter.step(image) for segmenter in segmenters)
        total = total + confusion_matrix(reference.labels, found.labels, len(reference.scores))
    return float(mean_iou(total, absent="skip"))
