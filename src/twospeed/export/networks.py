"""Exported models as the networks that pipelines take: the protocols of `models.protocol`, over NumPy arrays."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import CheckpointError
from twospeed.export.engines import Call, open_graph
from twospeed.ops import on_numpy
from twospeed.weights.entries import ExportedModel
from twospeed.weights.store import sha256

Array = NDArray[Any]

_CHUNK_ELEMENTS = 1 << 21  # similarities held at once by the read: 8 MB
_CHUNK_ROWS = 96


def open_network(exported: ExportedModel) -> ExportedNetwork:
    """Return an exported model as a network, ready to run on the CPU.

    Raises CheckpointError for files that are missing or were changed since, or that the engine does not take;
    InputError where the engine is not installed.
    """
    kinds: dict[str, type[ExportedNetwork]] = {
        "keyframe": VideoSegmentation, "scores": ImageSegmentation, "encode_key": MaskMemory, "logits": ClipNetwork
    }  # fmt: skip
    found = [kind for graph, kind in kinds.items() if graph in exported.graphs]
    if len(found) != 1 or (missing := [name for name in found[0].needed if name not in exported.graphs]):
        what = f"lacks the graph {missing[0]!r}" if len(found) == 1 else "holds graphs of no known kind"
        raise CheckpointError(f"{exported.path}: {what}; export the model again")
    for name, checksum in exported.files.items():
        file = exported.folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing, but {exported.path.name} lists it; export the model again")
        if sha256(file) != checksum:
            raise CheckpointError(f"{file}: was changed since it was exported (checksum); export the model again")
    try:
        return found[0](exported)
    except KeyError as error:
        raise CheckpointError(f"{exported.path}: attribute {error} is missing; export the model again") from error


class ExportedNetwork:
    """What all exported networks share.

    arrays: the module that computes on their kind of arrays. sha256: of `model.json`. needed: graphs.
    """

    arrays = on_numpy
    needed: tuple[str, ...] = ()

    def __init__(self, exported: ExportedModel) -> None:
        self.exported, self.sha256 = exported, sha256(exported.path)
        self._calls: dict[str, Call] = {
            name: open_graph(exported.engine, exported.folder / graph.file, graph.outputs)
            for name, graph in exported.graphs.items()
        }

    def eval(self) -> ExportedNetwork:
        """Return itself, as a network in eval mode does."""
        return self

    def to(self, device: Any) -> ExportedNetwork:
        """Return itself: there is one device."""
        return self

    def _run(self, graph: str, *arrays: Array, **named: Array) -> list[Array]:
        """Run a graph: arrays in the order of its inputs, or by name."""
        fed = dict(zip(self.exported.graphs[graph].inputs, arrays, strict=False)) | named
        return self._calls[graph](fed)


class MaskMemory(ExportedNetwork):
    """`models.protocol.MaskMemoryNetwork`, and what reads its memory."""

    needed = ("normalise", "encode_key", "encode_memory", "read", "decode")

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        attributes = exported.attributes
        self.similarity = attributes["similarity"]
        self.keys_per_object = bool(attributes["keys_per_object"])
        self.masks_as_given = bool(attributes["masks_as_given"])
        self.input_scale = float(attributes.get("input_scale", 1.0))
        if not 0 < self.input_scale <= 1:
            raise CheckpointError(f"{exported.path}: input_scale is {self.input_scale}; it is above 0 and at most 1")
        self.sees_last_frame = "recall_recent" in exported.graphs
        self._features = namedtuple("Features", exported.graphs["encode_key"].outputs)  # type: ignore[misc]

    def normalise(self, images: Array) -> Array:
        """As `MaskMemoryNetwork.normalise`."""
        return self._run("normalise", images)[0]

    def encode_key(self, frames: Array) -> Any:
        """As `MaskMemoryNetwork.encode_key`."""
        return self._features(*self._run("encode_key", frames))

    def encode_memory(self, frames: Array, features: Any, masks: Array) -> tuple[Array, Array]:
        """As `MaskMemoryNetwork.encode_memory`."""
        keys, values = self._run("encode_memory", frames, masks, **features._asdict())
        return keys, values

    def decode(self, readout: Array, features: Any) -> Array:
        """As `MaskMemoryNetwork.decode`."""
        return self._run("decode", readout, **features._asdict())[0]

    def recall_recent(self, readout: Array, key: Array, last_key: Array, last_masks: Array) -> Array:
        """As `LastFrameNetwork.recall_recent`."""
        return self._run("recall_recent", readout, key, last_key, last_masks)[0]

    def read(
        self,
        query_key: Array,
        memory_key: Array,
        memory_value: Array,
        *,
        top_k: int | None,
        similarity: Any = None,
        kernel_sigma: None = None,
        allowed: Array | None = None,
    ) -> Array:
        """As `models.banks.ReadMemory`, with the network's own similarity; a few query cells at a time."""
        channels, height, width = query_key.shape[1:]
        queries = np.ascontiguousarray(query_key[0].reshape(channels, -1).T)  # (P, C)
        keys, values = np.ascontiguousarray(memory_key[0].T), np.ascontiguousarray(memory_value[0].swapaxes(1, 2))
        cells = len(keys)
        k = np.array([cells if top_k is None else min(top_k, cells)], np.int64)
        seen = np.ones(cells, bool) if allowed is None else allowed
        step = max(_CHUNK_ROWS, _CHUNK_ELEMENTS // cells)
        parts = [
            self._run("read", queries[start : start + step], keys, values, seen, k)[0]
            for start in range(0, len(queries), step)
        ]
        readout = np.concatenate(parts, 1).swapaxes(1, 2)  # (K, V, P)
        return readout.reshape(1, *readout.shape[:2], height, width)


class VideoSegmentation(ExportedNetwork):
    """`models.protocol.VideoSegmentationNetwork`."""

    needed = ("keyframe", "small", "step")

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        self._step = namedtuple("Step", exported.graphs["step"].outputs)  # type: ignore[misc]

    def keyframe(self, image: Array) -> Array:
        """As `VideoSegmentationNetwork.keyframe`."""
        return self._run("keyframe", image)[0]

    def small(self, image: Array) -> Array:
        """As `VideoSegmentationNetwork.small`."""
        return self._run("small", np.asarray(image, np.float32))[0]

    def step(self, scores: Array, previous: Array, current: Array) -> Any:
        """As `VideoSegmentationNetwork.step`."""
        return self._step(*self._run("step", scores, previous, current))


class ImageSegmentation(ExportedNetwork):
    """A network that labels one image by itself."""

    needed = ("scores",)

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        self.align_corners = bool(exported.attributes["align_corners"])

    def __call__(self, image: Array) -> Array:
        """Shapes: RGB 0..255 (1, 3, H, W) -> class scores (1, C, any, any)."""
        return self._run("scores", image)[0]


class ClipNetwork(ExportedNetwork):
    """A network of clips: actions of whole clips, or of people in boxes."""

    needed = ("logits",)

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        self.frames, self.frame_stride = int(exported.attributes["frames"]), int(exported.attributes["frame_stride"])
        self.num_classes, self.average = int(exported.attributes["num_classes"]), exported.attributes["average"]
        self.class_names = exported.labels

    def __call__(self, clip: Array, boxes: list[Array] | None = None) -> Array:
        """As the network: clip (S, 3, T, H, W) -> logits (S, P, C); with boxes (n, 4) of one clip, (n, C)."""
        return self._run("logits", clip, *(boxes or []))[0]
