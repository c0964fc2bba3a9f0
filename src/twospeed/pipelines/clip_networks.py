"""The networks of an ensemble that sees clips, made ready: to name actions, or what people in boxes do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twospeed.errors import InputError
from twospeed.models.protocol import CLIP_NETWORK
from twospeed.pipelines.action_labels import Labels
from twospeed.pipelines.inputs import Model, autocast_type, network_for, one_or_several, optimised
from twospeed.results import OnProgress
from twospeed.video.sampling import ClipShape
from twospeed.weights.entries import Preprocessing, Task


@dataclass(frozen=True, slots=True, eq=False)
class ClipNetwork:
    """One network, ready, and what is known of it. autocast: a torch type; float32: run as it is."""

    network: Any
    name: str
    preprocessing: Preprocessing
    known_labels: Labels | None
    autocast: Any

    @property
    def shape(self) -> ClipShape:
        """What clips it sees."""
        return clip_shape(self.network, self.preprocessing)


def clip_networks(
    task: Task,
    models: Model | Sequence[Model],
    weights: Any,
    preprocessing: Preprocessing | None,
    *,
    default: Preprocessing,
    dtype: Any,
    device: Any,
    on_progress: OnProgress | None,
) -> list[ClipNetwork]:
    """Build or open networks, and make them fast.

    weights: as `create_model` takes them, one source for all or a list with one for each. preprocessing: None takes the
    catalogue's, `default` for networks that are not in it. Raises InputError for other numbers of weights, and where
    the networks have different classes; and as `network_for` does.
    """
    given = one_or_several(models)
    sources = list(weights) if isinstance(weights, list | tuple) else [weights] * len(given)
    if not given or len(sources) != len(given):
        raise InputError(f"{len(given)} networks with {len(sources)} weights: give one for each, in the same order")
    ready = []
    for model, source in zip(given, sources, strict=True):
        network, entry = network_for(task, model, source, CLIP_NETWORK, on_progress)
        name, labels, pixels = type(network).__name__, None, default
        if entry is not None:
            name, labels, pixels = entry.name, entry.labels, entry.preprocessing
        labels = getattr(network, "class_names", None) or labels
        fast = optimised(network.eval(), dtype)
        ready.append(ClipNetwork(fast.to(device), name, preprocessing or pixels, labels, autocast_type(fast, dtype)))
    first = ready[0]
    for other in ready[1:]:
        if other.network.num_classes != first.network.num_classes:
            raise InputError(
                f"scores can only be averaged over the same classes: {first.name} has {first.network.num_classes}, "
                f"{other.name} has {other.network.num_classes}"
            )
    return ready


def clip_shape(network: Any, preprocessing: Preprocessing) -> ClipShape:
    """Return what clips a network sees."""
    size = preprocessing.short_side or 256
    return ClipShape(
        network.frames, network.frame_stride, preprocessing.mean, preprocessing.std, preprocessing.input_order,
        short_side=size, crop=preprocessing.crop or size,
    )  # fmt: skip
