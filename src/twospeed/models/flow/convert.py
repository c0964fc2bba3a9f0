"""GSVNet's flow networks, in our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from twospeed.models.renames import renamed

# authors' name -> ours, applied in order to each key
_LIGHT = (
    *((rf"^conv_dilate_{index + 1}\.", f"dilated.{index}.") for index in range(4)),
    (r"^conv_merge\.", "merge."),
    (r"^toflow\.", "predict."),
    (r"^(conv[12]|dilated\.\d|merge)\.0\.", r"\1.conv."),
    (r"^(conv[12]|dilated\.\d|merge)\.1\.", r"\1.norm."),
)
_FLOWNETS = (
    (r"^(conv\d(?:_1)?|deconv\d)\.0\.", r"\1."),
    (r"^predict_flow(\d)\.", r"predict\1."),
    (r"^upsampled_flow(\d)_to_\d\.", r"upflow\1."),
)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys; keys in our naming pass unchanged."""
    return renamed(state, _FLOWNETS if name_of(state) == "flownet2s" else _LIGHT)


def name_of(state: Mapping[str, Tensor]) -> str | None:
    """Return "light" or "flownet2s" when the keys are theirs, in either naming."""
    if any(key.startswith(("predict_flow6.", "predict6.")) for key in state):
        return "flownet2s"
    return "light" if any(key.startswith(("conv_dilate_1.", "dilated.0.")) for key in state) else None
