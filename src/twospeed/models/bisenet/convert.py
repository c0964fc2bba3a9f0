"""GSVNet's BiSeNet checkpoints, in our names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twospeed.models.pixels import IMAGENET_MEAN, IMAGENET_STD
from twospeed.models.renames import renamed

OVERRIDABLE = ("pixel_mean", "pixel_std")
_SPATIAL = ("conv_7x7", "conv_3x3_1", "conv_3x3_2", "conv_1x1")

# authors' name -> ours, applied in order to each key
_RENAMES = (
    *((rf"^spatial_path\.{name}\.", f"spatial_path.{index}.") for index, name in enumerate(_SPATIAL)),
    (r"^global_context\.1\.", "global_context."),
    (r"^arms\.(\d)\.conv_3x3\.", r"attention.\1.mix."),
    (r"^arms\.(\d)\.channel_attention\.1\.", r"attention.\1.gate."),
    (r"^refines\.", "refine."),
    (r"^ffm\.conv_1x1\.", "fusion.mix."),
    (r"^ffm\.channel_attention\.1\.conv\.", "fusion.squeeze."),
    (r"^ffm\.channel_attention\.2\.conv\.", "fusion.excite."),
    (r"^heads\.([01])\.", r"auxiliary_heads.\1."),
    (r"^heads\.2\.", "head."),
    (r"^((?:auxiliary_heads\.\d|head)\.)conv_3x3\.", r"\1mix."),
    (r"^((?:auxiliary_heads\.\d|head)\.)conv_1x1\.", r"\1classifier."),
    (r"^((?!context_path).*)\.bn\.", r"\1.norm."),
)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged.

    Their files hold no mean and std, which were ImageNet's: those are added.
    """
    ours = renamed(state, _RENAMES)
    if any(name.startswith("spatial_path.conv_") for name in state):
        ours.setdefault("pixel_mean", torch.tensor(IMAGENET_MEAN))
        ours.setdefault("pixel_std", torch.tensor(IMAGENET_STD))
    return ours


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that names and shapes of a state in our naming determine."""
    options: dict[str, object] = {"auxiliary_heads": any(key.startswith("auxiliary_heads.") for key in state)}
    classifier = state.get("head.classifier.weight")
    if classifier is not None:
        options["num_classes"] = classifier.shape[0]
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "bisenet_r18" when the keys are its own, in either naming."""
    ours = to_ours(state)
    return "bisenet_r18" if "head.classifier.weight" in ours and "spatial_path.0.conv.weight" in ours else None
