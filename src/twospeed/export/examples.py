"""What goes into a network's parts and comes out of them, while it runs on frames as its pipeline runs it.

These examples say which axes may change, what a graph is traced with, what it must compute, and what int8 is calibrated
on. Networks are run by what they offer (`models.protocol`), not by their name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.models.memory import read_memory
from twospeed.models.protocol import CLIP_NETWORK, MASK_MEMORY, VIDEO_SEGMENTATION, lacks, sees_last_frame
from twospeed.ops.masks import one_hot, soft_aggregate
from twospeed.weights.entries import Preprocessing, Task

STRIDE = 16
_TOP_K = 20  # of the reads that are checked

Image = NDArray[np.uint8]


class Clip(NamedTuple):
    """Consecutive frames, uint8 (H, W, 3) RGB, and the labels (H, W) of the first one, 0 for the background."""

    frames: Sequence[Image]
    labels: Image


class Example(NamedTuple):
    """What a part was given and gave once."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass
class PartExamples:
    """A part of a network, and what it was given and gave."""

    call: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: list[Example] = field(default_factory=list)

    def moving(self) -> dict[str, dict[int, str]]:
        """Name the axes that differ between examples, by input and output."""
        axes: dict[str, dict[int, str]] = {}
        for names, part in ((self.inputs, "inputs"), (self.outputs, "outputs")):
            for position, name in enumerate(names):
                shapes = [getattr(example, part)[position].shape for example in self.examples]
                differ = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
                axes[name] = {axis: f"{name}_{axis}" for axis in differ}
        return axes

    def fed(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the inputs of each example by their names."""
        for example in self.examples:
            yield {name: value.numpy() for name, value in zip(self.inputs, example.inputs, strict=True)}


class Recorder:
    """Runs parts of a network, and keeps what goes in and comes out."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.graphs: dict[str, PartExamples] = {}

    def run(
        self, name: str, call: Callable[..., tuple[Tensor, ...]], outputs: Sequence[str], **inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Run a part on these inputs, keep them with what it gives, and return that."""
        found = call(self.network, *inputs.values())
        graph = self.graphs.setdefault(name, PartExamples(call, tuple(inputs), tuple(outputs)))
        graph.examples.append(Example(tuple(x.contiguous() for x in inputs.values()), found))
        return found


@torch.inference_mode()
def examples_of(network: nn.Module, task: Task, clip: Clip, preprocessing: Preprocessing) -> dict[str, PartExamples]:
    """Run a network on frames as its pipeline does, and return its parts with examples of each.

    Raises InputError for a network of another task, and for a tracker without two objects on the first frame.
    """
    recorder = Recorder(network)
    if task == "track":
        if missing := lacks(network, MASK_MEMORY):
            raise InputError(
                f"{type(network).__name__} cannot be exported to track: it has no `{'`, `'.join(missing)}`; networks "
                "that follow given masks can"
            )
        for sizes in ((2, 240), (3, 176), (1, 112)):
            _track(recorder, clip, *sizes)
    elif task == "segment":
        for short_side in (240, 180, 128):
            _segment(recorder, clip, short_side)
    else:
        if missing := lacks(network, CLIP_NETWORK):
            raise InputError(f"{type(network).__name__} cannot be exported: it has no `{'`, `'.join(missing)}`")
        for turn in range(2):
            _recognise(recorder, task, clip, preprocessing, turn)
    return recorder.graphs


def _track(recorder: Recorder, clip: Clip, objects: int, short_side: int) -> None:
    """Track through the clip as `Tracker` does, remembering every second frame."""
    network = recorder.network
    frames = [_scaled(image, short_side, STRIDE) / 255 for image in clip.frames]
    labels = _scaled(clip.labels, short_side, STRIDE, nearest=True)[0, 0]
    ids = [int(i) for i in labels.unique() if i]
    if len(ids) < 2:
        raise InputError("the first frame's mask holds fewer than two objects; mark two or more")
    masks = one_hot(labels, [*ids[:objects], *[ids[0]] * (objects - len(ids))])[None]  # (1, K, H, W)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    last: tuple[Tensor, Tensor] | None = None
    kind: Any = type(network.encode_key(network.normalise(frames[0])))  # what holds the features
    for number, image in enumerate(frames):
        (x,) = recorder.run("normalise", lambda n, i: (n.normalise(i),), ["normalised"], images=image)
        found = recorder.run("encode_key", lambda n, f: tuple(n.encode_key(f)), kind._fields, frames=x)
        features = dict(zip(kind._fields, found, strict=True))
        if number:
            bank = torch.cat(keys, -1)[0].mT.contiguous(), torch.cat(values, -1)[0].mT.contiguous()
            h, w = features["key"].shape[-2:]
            (readout,) = recorder.run(
                "read",
                lambda n, *a: (_read(n.similarity, *a),),
                ["readout"],
                queries=features["key"][0].flatten(1).T,
                keys=bank[0],
                values=bank[1],
                allowed=torch.ones(len(bank[0]), dtype=torch.bool),
                top_k=torch.tensor([_TOP_K + number]),
            )
            recalled = readout.mT.unflatten(-1, (h, w))[None]  # (1, K, V, h, w)
            if sees_last_frame(network) and last is not None:
                (recalled,) = recorder.run(
                    "recall_recent", lambda n, *a: (n.recall_recent(*a),), ["joined"],
                    readout=recalled, key=features["key"], last_key=last[0], last_masks=last[1],
                )  # fmt: skip
            (logits,) = recorder.run(
                "decode", lambda n, r, *f: (n.decode(r, kind(*f)),), ["logits"], readout=recalled, **features
            )
            masks = soft_aggregate(logits.sigmoid()).softmax(1)[:, 1:]
        last = (features["key"], masks)
        if number % 2 == 0:
            key, value = recorder.run(
                "encode_memory",
                lambda n, f, m, *rest: n.encode_memory(f, kind(*rest), m),
                ["keys", "values"],
                frames=x,
                masks=masks,
                **features,
            )
            # Of networks with keys of each object, the first's stand for all
            keys.append((key[:, 0] if network.keys_per_object else key).flatten(2))
            values.append((value[:, :1] if network.keys_per_object else value).flatten(3))


def _read(similarity: Any, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, top_k: Tensor) -> Tensor:
    """Read as the graph does. Shapes: (P, C), (N, C), (K, N, V), (N,), (1,) -> (K, P, V)."""
    found = read_memory(
        queries.T[None, :, None],
        keys.T[None],
        values.mT[None],
        top_k=int(top_k),
        similarity=similarity,
        allowed=allowed,
    )
    return found[0, :, :, 0].mT


def _segment(recorder: Recorder, clip: Clip, short_side: int) -> None:
    images = [_scaled(image, short_side, 1) for image in clip.frames]
    if lacks(recorder.network, VIDEO_SEGMENTATION):
        for image in images[:: max(1, len(images) // 4)]:
            recorder.run("scores", _scores, ["scores"], image=image)
        return
    scores = previous = None
    for number, image in enumerate(images):
        (small,) = recorder.run("small", lambda n, i: (n.small(i),), ["reduced"], image=image)
        if scores is None or previous is None or number % 4 == 0:
            (scores,) = recorder.run("keyframe", lambda n, i: (n.keyframe(i),), ["scores"], image=image)
        else:
            step = recorder.network.step(scores, previous, small)
            names = [name for name in ("scores", "flow", "carried") if hasattr(step, name)]
            found = recorder.run(
                "step",
                lambda n, *a, names=names: _parts(n.step(*a), names),
                names,
                previous_scores=scores,
                previous=previous,
                current=small,
            )
            scores = dict(zip(names, found, strict=True)).get("carried", found[0])
        previous = small


def _scores(network: Any, image: Tensor) -> tuple[Tensor, ...]:
    call: Any = getattr(network, "scores", network)
    return (call(image),)


def _parts(step: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    return tuple(getattr(step, name) for name in names)


def _recognise(recorder: Recorder, task: Task, clip: Clip, preprocessing: Preprocessing, turn: int) -> None:
    """Run on clips of the frames: of the size of the crop for whole clips, of several sizes for people in boxes."""
    side = preprocessing.crop or preprocessing.short_side or 256
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    chosen = [clip.frames[i] for i in np.linspace(0, len(clip.frames) - 1, recorder.network.frames).round().astype(int)]
    if task == "detect":
        side = [side // 2, side * 3 // 4][turn]
    frames = torch.cat([_scaled(image, side, STRIDE) for image in chosen]).transpose(0, 1)[None]  # (1, 3, T, H, W)
    x = (frames / 255 - mean) / std
    x = x.flip(1) if preprocessing.input_order == "bgr" else x
    if task == "classify":
        left = [0, (x.shape[-1] - side) // 2, x.shape[-1] - side]
        crops = torch.cat([x[..., at : at + side] for at in left[: 2 - turn]])
        recorder.run("logits", lambda n, c: (n(c),), ["logits"], clip=crops)
        return
    height, width = x.shape[-2:]
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.8, 0.8], [0.0, 0.0, 1.0, 1.0], [0.6, 0.5, 0.9, 0.7]])
    placed = boxes[: turn + 2] * torch.tensor([width, height, width, height])
    recorder.run("logits", lambda n, c, b: (n(c, [b]),), ["logits"], clip=x, boxes=placed)


def _scaled(image: Image, short_side: int, multiple: int, *, nearest: bool = False) -> Tensor:
    """Bring an image to a shorter side, sides rounded down to a multiple. -> float (1, C, H, W), same units."""
    x = torch.from_numpy(np.ascontiguousarray(image)).float()
    x = x[None, None] if image.ndim == 2 else x.permute(2, 0, 1)[None]
    scale = short_side / min(x.shape[-2:])
    size = [max(multiple, int(side * scale + 1e-6) // multiple * multiple) for side in x.shape[-2:]]
    return nn.functional.interpolate(x, size, mode="nearest" if nearest else "bilinear").contiguous()
