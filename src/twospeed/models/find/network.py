"""A network that finds what a clip is about: a wide Slow pathway on one frame, a thin Fast one on the motion around it.

The two speeds of SlowFast, as the report on video object segmentation uses them: the Slow pathway sees what things are,
the Fast pathway sees how they move, in a few channels, and lateral connections bring that to the Slow pathway. Differs
from the report: the Fast pathway reads motion against the camera (`ops.motion`), not frames, and the network answers
with one map of the primary objects, not with boxes; thirty videos are too few to learn flow or boxes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.encoders.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, EfficientNetLite
from twospeed.models.refine import Refine, doubled
from twospeed.ops.motion import OFFSETS, PLANES

STRIDE = 32  # sizes must be multiples of it
KEPT_STAGES = 2  # of the Slow pathway: those to stride 4, which see no motion


class FastPathway(nn.Module):
    """Motion in few channels: features at strides 4, 8 and 16."""

    def __init__(self, planes: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c4, c8, c16 = channels
        self.start = nn.Conv2d(planes, c4, 5, 2, 2)
        self.refine4 = _Residual(c4)
        self.down8 = nn.Conv2d(c4, c8, 3, 2, 1)
        self.refine8 = _Residual(c8)
        self.down16 = nn.Conv2d(c8, c16, 3, 2, 1)
        self.refine16 = _Residual(c16)

    def forward(self, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: (B, planes, H/2, W/2) -> (B, c4, H/4, W/4), (B, c8, H/8, W/8), (B, c16, H/16, W/16)."""
        f4 = self.refine4(F.relu(self.start(motion)))
        f8 = self.refine8(F.relu(self.down8(f4)))
        return f4, f8, self.refine16(F.relu(self.down16(f8)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels, h, w), the same back, 0 or more."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class FindNetwork(nn.Module):
    """Logits of the primary objects of a frame. Letters: B batch, H/W pixels, multiples of 32.

    widths: of the decoder, at strides 16, 8, 4 and of its end. fast: channels of the Fast pathway at strides 4, 8, 16.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, *, widths: tuple[int, int, int, int] = (96, 64, 40, 32), fast: tuple[int, int, int] = (16, 32, 48)
    ) -> None:
        super().__init__()
        w16, w8, w4, end = widths
        self.slow = EfficientNetLite(stride=32)
        self.fast = FastPathway(len(OFFSETS) * PLANES, fast)
        c4, c8, c16, c32 = self.slow.channels
        # Lateral connections; they begin at zero, so that training starts from what ImageNet taught
        self.to_slow8, self.to_slow16 = nn.Conv2d(fast[1], c8, 1), nn.Conv2d(fast[2], c16, 1)
        for lateral in (self.to_slow8, self.to_slow16):
            for parameter in lateral.parameters():
                nn.init.zeros_(parameter)
        self.context = nn.Conv2d(c32, w16, 1)
        self.lateral16 = nn.Conv2d(c16 + fast[2], w16, 1)
        self.lateral8 = nn.Conv2d(c8 + fast[1], w8, 1)
        self.lateral4 = nn.Conv2d(c4 + fast[0], w4, 1)
        self.up16, self.up8, self.up4 = Refine(w16, w8), Refine(w8, w4), Refine(w4, end)
        self.predict = nn.Conv2d(end, 4, 3, 1, 1)  # the four quarters of a cell: logits at stride 2
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, motion: Tensor) -> Tensor:
        """Shapes: RGB in 0..1 (B, 3, H, W), planes of `ops.motion` (B, 12, H/2, W/2) -> logits (B, H/2, W/2)."""
        x = ((images - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        m4, m8, m16 = self.fast(motion.contiguous(memory_format=torch.channels_last))
        x = F.relu6(self.slow.stem(x))
        lateral = {self.slow.ends[1]: self.to_slow8(m8), self.slow.ends[2]: self.to_slow16(m16)}
        features = []
        for index, stage in enumerate(self.slow.stages):
            x = stage(x)
            if index in lateral:
                x = x + lateral[index]
            if index in self.slow.ends:
                features.append(x)
        f4, f8, f16, f32 = features
        y = self.context(f32)
        y = y + F.adaptive_avg_pool2d(y, 1)
        y = self.up16(doubled(y) + self.lateral16(torch.cat([f16, m16], 1)))
        y = self.up8(doubled(y) + self.lateral8(torch.cat([f8, m8], 1)))
        y = self.up4(doubled(y) + self.lateral4(torch.cat([f4, m4], 1)))
        return F.pixel_shuffle(self.predict(y), 2)[:, 0]

    def primary_map(self, images: Tensor, motion: Tensor) -> Tensor:
        """How likely each place belongs to a primary object. Shapes: as `forward` -> (B, H/2, W/2), 0..1."""
        return self(images, motion).sigmoid()
