"""GSVNet's released propagation weights, in our names; the keyframe and flow networks are their families' business."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from twospeed.models.gsv.filtering import delay_kernels

OVERRIDABLE = ("pixel_mean", "pixel_std")
_INTRA = {"0": "conv1.conv", "1": "conv1.norm", "3": "conv2.conv", "4": "conv2.norm", "6": "predict"}
_GUIDE = {
    "guide_conv": {"0": "encode.conv", "1": "encode.norm"},
    "guide_conv_feat": {"0": "down.0.conv", "1": "down.0.norm", "3": "down.1.conv", "4": "down.1.norm"},
    "guide_deconv": {"1": "up.0.conv", "2": "up.0.norm", "5": "up.1.conv", "6": "up.1.norm"},
    "guide_decoder": {"0": "predict.conv", "1": "predict.norm"},
}


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys (`grm.*`); keys in our naming pass unchanged."""
    ours = {}
    for name, value in state.items():
        if found := re.match(r"grm\.intra_net\.intra_net\.(\d)\.(\w+)$", name):
            name = f"intra.{_INTRA.get(found[1], found[1])}.{found[2]}"
        elif found := re.match(r"grm\.guide\.(guide_\w+)\.(\d)\.(\w+)$", name):
            name = f"guide.{_GUIDE.get(found[1], {}).get(found[2], found[2])}.{found[3]}"
        elif name == "grm.ideal_dk.filter_copy_s":
            name, value = "delays", value.flatten(0, 2) if value.ndim == 5 else value
        ours[name] = value
    return ours


def options_from(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Constructor options that a state in our naming determines."""
    fine = "intra.down.0.conv.weight" in state
    options: dict[str, object] = {"intra": any(name.startswith("intra.") for name in state), "fine": fine}
    delays, encode = state.get("delays"), state.get("guide.encode.conv.weight")
    if encode is not None:  # the guide of a fine network sees the scores twice
        options["num_classes"] = (encode.shape[1] - 1) // (2 if fine else 1)
    if (mix := state.get("mix.weight")) is not None:
        options |= {"num_classes": len(mix), "fusion": "accel"}
    if delays is not None and delays.shape[-1] in (3, 5):
        options["delay_kernel"] = delays.shape[-1]
        ideal = delay_kernels(delays.shape[-1])
        if delays.is_meta or delays.shape != ideal.shape or not torch.equal(delays.cpu().float(), ideal):
            options["learned_delay"] = True  # delays that are still ideal may be either
    return options
