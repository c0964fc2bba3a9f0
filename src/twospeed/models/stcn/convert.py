"""The authors' STCN checkpoints, in our names.

Released files: `stcn.pth` and friends (hkchengrex/STCN): a plain state dict; resume files wrap it in `network`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from twospeed.models.renames import renamed

# authors' name -> ours, applied in order to each key
_RENAMES = (
    (r"^key_encoder\.res2\.", "key_encoder.layer1."),
    (r"^key_proj\.key_proj\.", "key_projection."),
    (r"^key_comp\.", "thin_projection."),
    (r"^value_encoder\.fuser\.", "value_encoder.fusion."),
    (r"^value_encoder\.(conv1|bn1|layer\d)\.", r"value_encoder.backbone.\1."),
    (r"\.attention\.ChannelGate\.mlp\.1\.", ".attention.squeeze."),
    (r"\.attention\.ChannelGate\.mlp\.3\.", ".attention.excite."),
    (r"\.attention\.SpatialGate\.spatial\.conv\.", ".attention.spatial."),
    (r"^(value_encoder\.fusion\.block\d|decoder\.compress)\.downsample\.", r"\1.skip."),
    (r"^decoder\.(up_\w+)\.skip_conv\.", r"decoder.\1.skip_projection."),
    (r"^decoder\.(up_\w+)\.out_conv\.downsample\.", r"decoder.\1.block.skip."),
    (r"^decoder\.(up_\w+)\.out_conv\.", r"decoder.\1.block."),
    (r"^decoder\.pred\.", "decoder.predict."),
)
_MASK_CONV = "value_encoder.backbone.conv1.weight"


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged.

    A stage-0 file (static pretraining, one mask channel) gets a second mask channel of zeros, as the authors do for
    evaluation: the value of a single object is then unchanged.
    """
    ours = renamed(state, _RENAMES)
    if _has_one_mask(ours):
        first = ours[_MASK_CONV]
        ours[_MASK_CONV] = torch.cat([first, torch.zeros_like(first[:, :1])], 1)
    return ours


def for_training(state: Mapping[str, Tensor], *, mask_channels: int = 2) -> dict[str, Tensor]:
    """Rename the authors' keys for a network that trains on.

    mask_channels: of that network. A stage-0 file keeps its one mask channel for another stage 0; for the later stages
    it gets a second one, for the others' masks, drawn orthogonal (authors' code).
    """
    ours = renamed(state, _RENAMES)
    if mask_channels == 2 and _has_one_mask(ours):
        first = ours[_MASK_CONV]
        others = torch.empty_like(first[:, :1])
        nn.init.orthogonal_(others)
        ours[_MASK_CONV] = torch.cat([first, others], 1)
    return ours


def _has_one_mask(ours: Mapping[str, Tensor]) -> bool:
    first = ours.get(_MASK_CONV)
    return first is not None and first.ndim == 4 and first.shape[1] == 4


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that the shapes of a state in our naming determine."""
    if name in ("track_tiny", "track_nano", "track_small"):
        return {}
    options: dict[str, object] = {"aspp": any(key.startswith("aspp.") for key in state)}
    stem, inner = state.get("key_encoder.conv1.weight"), state.get("key_encoder.layer1.0.conv1.weight")
    if stem is not None and inner is not None:
        options["width"] = stem.shape[0]
        options["backbone"] = "wide_resnet50" if inner.shape[0] == 2 * stem.shape[0] else "resnet50"
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "stcn", "track_tiny", "track_nano" or "track_small" when the keys are theirs, in either naming."""
    ours = to_ours(state)
    projection = ours.get("key_projection.weight")
    if projection is None or projection.ndim != 4 or "decoder.predict.weight" not in ours:
        return None
    if "key_encoder.stem.weight" in ours:
        return "track_small" if "key_encoder.context.weight" in ours else "track_nano"
    return "stcn" if projection.shape[1] == 1024 else "track_tiny"
