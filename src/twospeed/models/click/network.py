"""A network that draws the mask of what is clicked on: image features once, then as often as the prompts change.

Prompts are drawn as planes of the image's size (`ops.clicks.prompt_planes`), embedded, and added to the image's
features at stride 4; everything after that depends on the prompts. The mask of the time before is one of the planes,
so that a click corrects and does not begin anew (as in RITM: Sofiiuk, Petrov and Konushin, ICIP 2022). Differs: RITM
adds the prompts after the first convolution, so that the whole network runs again for every click.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.encoders.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, EfficientNetLite
from twospeed.models.refine import Refine, doubled
from twospeed.ops.clicks import PLANES

STRIDE = 32  # sizes must be multiples of it
SHARED_STAGES = 2  # of the encoder: computed once for an image, whatever the prompts


class ClickNetwork(nn.Module):
    """Logits of the object that prompts mean. Letters: B batch, H/W pixels, multiples of 32."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *, widths: tuple[int, int, int, int] = (96, 96, 64, 48)) -> None:
        super().__init__()
        w32, w16, w8, w4 = widths
        self.encoder = EfficientNetLite(stride=32)
        c4, c8, c16, c32 = self.encoder.channels
        self.prompts = nn.Sequential(
            nn.Conv2d(PLANES, 16, 5, 2, 2), nn.ReLU(inplace=True), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(inplace=True)
        )
        self.prompts_in = nn.Conv2d(32, c4, 1)
        self.context = nn.Conv2d(c32, w32, 1)
        self.lateral16 = nn.Conv2d(c16, w32, 1)
        self.lateral8 = nn.Conv2d(c8, w16, 1)
        self.lateral4 = nn.Conv2d(c4 + 32, w8, 1)
        self.up16, self.up8, self.up4 = Refine(w32, w16), Refine(w16, w8), Refine(w8, w4)
        self.predict = nn.Conv2d(w4, 4, 3, 1, 1)  # the four halves of a cell: logits at stride 2
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Compute what does not depend on prompts. Shapes: RGB in 0..1 (B, 3, H, W) -> (B, 24, H/4, W/4)."""
        x = ((images - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.encoder.stem(x), inplace=True)
        for stage in self.encoder.stages[:SHARED_STAGES]:
            x = stage(x)
        return x

    def decode(self, f4: Tensor, planes: Tensor) -> Tensor:
        """Draw the mask. Shapes: (B, 24, H/4, W/4), planes (B, PLANES, H, W) -> logits (B, H, W)."""
        said = self.prompts(planes)
        x = f4 + self.prompts_in(said)
        features = []
        for index, stage in enumerate(self.encoder.stages[SHARED_STAGES:], SHARED_STAGES):
            x = stage(x)
            if index in self.encoder.ends:
                features.append(x)
        f8, f16, f32 = features
        y = self.context(f32)
        y = y + F.adaptive_avg_pool2d(y, 1)
        y = self.up16(doubled(y) + self.lateral16(f16))
        y = self.up8(doubled(y) + self.lateral8(f8))
        y = self.up4(doubled(y) + self.lateral4(torch.cat([f4, said], 1)))
        logits = F.pixel_shuffle(self.predict(y), 2)
        return F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]

    def forward(self, images: Tensor, planes: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W), (B, PLANES, H, W) -> logits (B, H, W)."""
        return self.decode(self.encode(images), planes)
