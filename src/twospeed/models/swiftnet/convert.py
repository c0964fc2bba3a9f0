"""The authors' SwiftNet checkpoints, in our names (orsic/swiftnet, and the copy inside GSVNet)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from twospeed.models.renames import renamed

# What the caller may set even where the weights hold values: GSVNet normalises outside and leaves these buffers unused
OVERRIDABLE = ("pixel_mean", "pixel_std")
_LEVELS = 3

# authors' name -> ours, applied in order to each key
_RENAMES = (
    (r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.\1."),
    (r"^backbone\.spp\.spp\.spp_bn\.", "pyramid_pooling.squeeze."),
    (r"^backbone\.spp\.spp\.spp_fuse\.", "pyramid_pooling.fuse."),
    (r"^backbone\.spp\.spp\.spp(\d)\.", r"pyramid_pooling.levels.\1."),
    (r"^backbone\.upsample\.(\d)\.bottleneck\.", r"upsample.\1.lateral."),
    (r"^backbone\.upsample\.(\d)\.blend_conv\.", r"upsample.\1.blend."),
    (r"^backbone\.upsample_bottlenecks\.", "laterals."),
    (r"^backbone\.upsample_blends\.(\d)\.blend_conv\.", r"blends.\1."),
    (r"^backbone\.img_(mean|std)$", r"pixel_\1"),
    (r"^logits\.", "classifier."),
)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged.

    A pyramid file with one set of norms gives them to every level, as the authors' loader does.
    """
    ours = renamed(state, _RENAMES)
    ours |= {name: ours[name].flatten() for name in OVERRIDABLE if name in ours}
    return norms_for_every_level(ours) if any(name.startswith("blends.") for name in ours) else ours


def norms_for_every_level(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every level of the pyramid the norms of a backbone (`backbone.bn1.weight`...) that has one set of them."""
    ours = dict(state)
    for name in state:
        shared = re.match(r"(backbone\.(?:layer\d\.\d\.)?bn\d)\.([a-z]\w*)$", name)
        if shared:
            value = ours.pop(name)
            ours |= {f"{shared[1]}.{level}.{shared[2]}": value.clone() for level in range(_LEVELS)}
    return ours


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that the shapes of a state in our naming determine."""
    classifier = state.get("classifier.conv.weight")
    return {} if classifier is None else {"num_classes": classifier.shape[0]}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "swiftnet_r18" or "swiftnet_r18_pyramid" when the keys are theirs, in either naming."""
    ours = to_ours(state)
    if "classifier.conv.weight" not in ours:
        return None
    if "pyramid_pooling.fuse.conv.weight" in ours:
        return "swiftnet_r18"
    return "swiftnet_r18_pyramid" if "blends.0.conv.weight" in ours else None
