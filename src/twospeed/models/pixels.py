"""How an image network holds its pixels: mean, std and channel order, so that all of them take RGB in 0..255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

InputOrder = Literal["rgb", "bgr"]

SWIFTNET_MEAN, SWIFTNET_STD = (73.15, 82.90, 72.30), (47.67, 48.49, 47.73)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def hold_pixels(network: nn.Module, mean: Sequence[float], std: Sequence[float], input_order: InputOrder) -> None:
    """Give a network the buffers `pixel_mean`, `pixel_std` (RGB order, units of 0..255) and `input_order`.

    Raises ValueError for values that are not three numbers, a std that is not positive, or an unknown order.
    """
    for name, values in (("pixel_mean", mean), ("pixel_std", std)):
        if len(values) != 3:
            raise ValueError(f"{name} has {len(values)} values; give three, in RGB order and units of 0..255")
    if min(std) <= 0:
        raise ValueError(f"pixel_std is {tuple(std)}; give three positive numbers in units of 0..255")
    if input_order not in ("rgb", "bgr"):
        raise ValueError(f"input_order is {input_order!r}; choose 'rgb' or 'bgr'")
    network.register_buffer("pixel_mean", torch.tensor(tuple(mean), dtype=torch.float32))
    network.register_buffer("pixel_std", torch.tensor(tuple(std), dtype=torch.float32))
    network.input_order = input_order  # type: ignore[assignment]


def normalise(images: Tensor, mean: Tensor, std: Tensor, input_order: InputOrder) -> Tensor:
    """Bring RGB in 0..255, (N, 3, H, W), to zero mean and unit std, in the order that the weights expect.

    The images themselves stay as they are.
    """
    scaled = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    return scaled if input_order == "rgb" else scaled.flip(1)


class ImageNetwork(nn.Module):
    """Any network that maps normalised images to class scores, behind the face that ours have: RGB 0..255 in.

    network: takes (N, 3, H, W), returns scores (N, C, h, w) of any size, or a mapping that holds them under `output`,
    as torchvision's segmentation networks do. pixel_mean, pixel_std: RGB order, units of 0..255; ImageNet's unless
    given. Use it to hand an off-the-shelf network to `GSVNet`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        network: nn.Module,
        *,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        input_order: InputOrder = "rgb",
        output: str = "out",
    ):
        super().__init__()
        self.network, self.output = network, output
        hold_pixels(self, pixel_mean, pixel_std, input_order)

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: RGB 0..255 (N, 3, H, W) -> class scores (N, C, h, w)."""
        found = self.network(normalise(image, self.pixel_mean, self.pixel_std, self.input_order))
        scores: Tensor = found if isinstance(found, Tensor) else found[self.output]
        return scores
