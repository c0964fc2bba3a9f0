"""The authors' STCN checkpoints, in our names.

Released files: `stcn.pth` and friends (hkchengrex/STCN): a plain state dict; resume files wrap it in `network`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# authors' name -> ours, applied in order to each key
_RENAMES = (
    (r"^key_encoder\.res2\.", "key_encoder.layer1."),
    (r"^key_proj\.key_proj\.", "key_projection."),
    (r"^key_comp\.", "thin_projection."),
    (r"^value_encoder\.fuser\.", "value_encoder.fusion."),
    (r"^value_encoder\.(conv1|bn1|layer\d)\.", r"value_encoder.trunk.\1."),
    (r"\.attention\.ChannelGate\.mlp\.1\.", ".attention.squeeze."),
    (r"\.attention\.ChannelGate\.mlp\.3\.", ".attention.excite."),
    (r"\.attention\.SpatialGate\.spatial\.conv\.", ".attention.spatial."),
    (r"^(value_encoder\.fusion\.block\d|decoder\.compress)\.downsample\.", r"\1.skip."),
    (r"^decoder\.(up_\w+)\.skip_conv\.", r"decoder.\1.skip_projection."),
    (r"^decoder\.(up_\w+)\.out_conv\.downsample\.", r"decoder.\1.block.skip."),
    (r"^decoder\.(up_\w+)\.out_conv\.", r"decoder.\1.block."),
    (r"^decoder\.pred\.", "decoder.predict."),
)
_MASK_CONV = "value_encoder.trunk.conv1.weight"


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged.

    A stage-0 file (static pretraining, one mask channel) gets a second mask channel of zeros, as the authors do for
    evaluation: the value of a single object is then unchanged.
    """
    ours = {}
    for name, value in state.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    first = ours.get(_MASK_CONV)
    if first is not None and first.ndim == 4 and first.shape[1] == 4:
        ours[_MASK_CONV] = torch.cat([first, torch.zeros_like(first[:, :1])], 1)
    return ours


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that the shapes of a state in our naming determine."""
    if name == "track_nano":
        return {}
    options: dict[str, object] = {"aspp": any(key.startswith("aspp.") for key in state)}
    inner = state.get("key_encoder.layer1.0.conv1.weight")
    if inner is not None:
        options["backbone"] = "wide_resnet50" if inner.shape[0] == 128 else "resnet50"
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "stcn" or "track_nano" when the keys are theirs, in either naming."""
    ours = to_ours(state)
    projection = ours.get("key_projection.weight")
    if projection is None or "decoder.predict.weight" not in ours:
        return None
    return "stcn" if projection.shape[1] == 1024 else "track_nano"
