"""Start a backbone from torchvision's ImageNet weights of the same residual network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from twospeed.errors import CheckpointError
from twospeed.models.encoders.resnet import ResNetFeatures

_NOT_OF_A_BACKBONE = ("fc.", "layer4.")


@torch.no_grad()
def start_from_imagenet(backbone: ResNetFeatures, state: Mapping[str, Tensor]) -> None:
    """Fill a backbone, batch-norm statistics included, from a state dict of torchvision's ResNet.

    Input channels beyond RGB (masks) are drawn orthogonal, biases that torchvision has not are set to zero (STCN's
    authors; the key `conv1` alone may have more channels). Raises CheckpointError when anything else is missing or of
    another shape: the network is of another depth or width.
    """
    own = backbone.state_dict()
    strangers = [name for name in state if name not in own and not name.startswith(_NOT_OF_A_BACKBONE)]
    wrong = [f"{name} (not in the backbone)" for name in strangers]
    filled: dict[str, Tensor] = {}
    for name, value in own.items():
        given = state.get(name)
        if given is None and name.endswith(".bias") and value.ndim == 1 and ".bn" not in f".{name}":
            filled[name] = torch.zeros_like(value)
        elif given is None and name.endswith("num_batches_tracked"):
            filled[name] = value
        elif given is None:
            wrong.append(f"{name} (missing)")
        elif name == "conv1.weight" and given.shape[1] == 3 < value.shape[1] and given.shape[2:] == value.shape[2:]:
            masks = torch.empty_like(value[:, 3:])
            nn.init.orthogonal_(masks)
            filled[name] = torch.cat([given.to(value.dtype), masks], 1)
        else:
            filled[name] = given
            if given.shape != value.shape:
                wrong.append(f"{name} {tuple(given.shape)} where {tuple(value.shape)} is expected")
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise CheckpointError(f"the ImageNet weights do not fit the backbone: {', '.join(wrong[:6])}{more}")
    backbone.load_state_dict(filled)
