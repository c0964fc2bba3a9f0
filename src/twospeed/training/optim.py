"""Parameter groups and what happens between backward and step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, *, weight_decay: float, norm_weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those of normalisation layers, which do not.

    Frozen parameters are left out. A parameter shared by two modules counts once, with the first that holds
    it.
    """
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                (norms if isinstance(module, NORMS) else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": norm_weight_decay},
    ]
    return [group for group in groups if group["params"]]


def encoder_groups(
    model: nn.Module, encoder: str, *, encoder_rate: float, weight_decay: float, encoder_decays: bool = False
) -> list[dict[str, Any]]:
    """Split trainable parameters into those of the pretrained part `encoder`, which learn slower, and the others.

    encoder: the part's name in the model, at any depth. encoder_rate: its share of the learning rate. Vectors do not
    decay; the encoder's weights do where encoder_decays is set.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((f".{encoder}." in f".{name}", parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if is_matrix and (encoder_decays or not in_encoder) else 0.0,
            "lr_scale": encoder_rate if in_encoder else 1.0,
        }
        for (in_encoder, is_matrix), parameters in groups.items()
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times the group's `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def gradient_norm(model: nn.Module, *, clip: float | None = None) -> Tensor:
    """Return the L2 norm of all gradients before clipping; where `clip` is given, scale them down to it."""
    limit = float("inf") if clip is None else clip
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), limit)
    return norm
