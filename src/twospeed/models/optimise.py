"""One function that makes any network fast for inference; each family keeps how, in its `inference.py`."""

from __future__ import annotations

import copy
import importlib

import torch
from torch import nn

# Families with a form of their own; imported when one of their networks comes, as theirs may import torchvision
_OWN_FORMS = {
    "twospeed.models.slowfast.network.SlowFast": "twospeed.models.slowfast.inference",
    "twospeed.models.slowfast_maskrcnn.network.SlowFastMaskRCNN": "twospeed.models.slowfast_maskrcnn.inference",
    "twospeed.models.stcn.network.STCN": "twospeed.models.stcn.inference",
}


def optimise(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a network that computes what `network` does in eval mode, as fast as this package can.

    `network` is left as it is, in its mode and on its device: prepare it where it will run, since what is fast depends
    on the device. Results agree to 1e-4 of their range in float32. dtype: of weights and features. SlowFast in bfloat16
    runs by itself; all others are for `ops.bf16.autocast` then, STCN with weights of that type, the rest as they are. A
    network that nothing is known of comes back itself when it is in eval mode, else as a copy that is. Not to be called
    from two threads at once: optimised networks hold scratch memory.
    """
    for kind in type(network).__mro__:
        module = _OWN_FORMS.get(f"{kind.__module__}.{kind.__qualname__}")
        if module is not None:
            fast: nn.Module | None = importlib.import_module(module).for_inference(network, dtype=dtype)
            break
    else:
        from twospeed.models.fused import for_inference

        fast = for_inference(network, dtype=dtype)
    if fast is not None:
        return fast
    return copy.deepcopy(network).eval() if network.training else network
