"""The authors' STM checkpoint, in our names (seoungwugoh/STM; its keys start with `module.`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twospeed.models.renames import renamed

# authors' name -> ours, applied in order to each key
_RENAMES = (
    (r"^module\.", ""),
    (r"^Encoder_(M|Q)\.(mean|std)$", r"Encoder_\1.pixel_\2"),
    (r"^Encoder_(M|Q)\.res2\.", r"Encoder_\1.layer1."),
    (r"^Encoder_(M|Q)\.res3\.", r"Encoder_\1.layer2."),
    (r"^Encoder_(M|Q)\.res4\.", r"Encoder_\1.layer3."),
    (r"^Encoder_(M|Q)\.(conv1\w*|bn1|layer\d)\.", r"Encoder_\1.backbone.\2."),
    (r"^KV_(M|Q)_r4\.Key\.", r"Encoder_\1.key."),
    (r"^KV_(M|Q)_r4\.Value\.", r"Encoder_\1.value."),
    (r"^Encoder_M\.", "memory_encoder."),
    (r"^Encoder_Q\.", "query_encoder."),
    (r"^Decoder\.convFM\.", "decoder.compress."),
    (r"^Decoder\.ResMM\.", "decoder.block."),
    (r"^Decoder\.RF3\.", "decoder.refine_8."),
    (r"^Decoder\.RF2\.", "decoder.refine_4."),
    (r"^(decoder\.refine_\d)\.convFS\.", r"\1.skip_projection."),
    (r"^(decoder\.refine_\d)\.ResFS\.", r"\1.skip_block."),
    (r"^(decoder\.refine_\d)\.ResMM\.", r"\1.block."),
    (r"^Decoder\.pred2\.", "decoder.predict."),
)
_STEM = "memory_encoder.backbone.conv1.weight"
_MASK_STEMS = ("memory_encoder.backbone.conv1_m.weight", "memory_encoder.backbone.conv1_o.weight")


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged.

    The authors add two more convolutions, of this object's and of the others' mask, to that of the image; the sum of
    three convolutions is one over all their channels.
    """
    ours = renamed(state, _RENAMES)
    stems = [ours.get(name) for name in (_STEM, *_MASK_STEMS)]
    whole = [stem for stem in stems if stem is not None and stem.ndim == 4]
    if len(whole) == 3 and len({(len(stem), *stem.shape[2:]) for stem in whole}) == 1:
        ours[_STEM] = torch.cat(whole, 1)
        for name in _MASK_STEMS:
            del ours[name]
    return ours


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Return the width; names and shapes do not tell how keys are compared."""
    stem = state.get("query_encoder.backbone.conv1.weight")
    return {} if stem is None else {"width": stem.shape[0]}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "stm" when the keys are its, in either naming."""
    ours = to_ours(state)
    return "stm" if "query_encoder.key.weight" in ours and "memory_encoder.key.weight" in ours else None
