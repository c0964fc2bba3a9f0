"""Flow networks for label propagation: two small frames in, a coarse flow field out.

Source: GSVNet (Lee, Chen, Peng, ICME 2021), section 3.3 and appendix C, for the light network of fused
dilated convolutions; FlowNetS (Dosovitskiy et al., ICCV 2015) in the form of Deep Feature Flow. Both return (x, y) at a
quarter, or an eighth, of their input's size, in units of a quarter of an input pixel: `GSVNet` scales them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import ConvNorm

_SLOPE = 0.1
_DILATIONS = (1, 2, 4, 8)
# FlowNetS, by level: channels of the encoder map, and of the features upsampled to it
_WIDTHS = {5: (512, 512), 4: (512, 256), 3: (256, 128), 2: (128, 64)}


class FlowLight(nn.Module):
    """The light flow network: 186,402 parameters at the published width of 32.

    Four parallel dilated convolutions see four reaches; each adds the sum of the smaller ones before they are merged
    (hierarchical feature fusion), which removes the grid pattern that single dilations leave.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        wide = 2 * width
        self.conv1 = ConvNorm(6, width, stride=2, bias=True, slope=_SLOPE)
        self.conv2 = ConvNorm(width, wide, stride=2, bias=True, slope=_SLOPE)
        self.dilated = nn.ModuleList(
            ConvNorm(wide, wide, dilation=dilation, bias=True, slope=_SLOPE) for dilation in _DILATIONS
        )
        self.merge = ConvNorm(wide * len(_DILATIONS), wide, 1, bias=True, slope=_SLOPE)
        self.predict = nn.Conv2d(wide, 2, 3, 1, 1)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Shapes: normalised frames (N, 3, h, w) twice -> flow (N, 2, h/4, w/4), (x, y)."""
        x = self.conv2(self.conv1(torch.cat([current, previous], 1)))
        sums: list[Tensor] = []
        for dilated in self.dilated:
            y = dilated(x)
            sums.append(y + sums[-1] if sums else y)
        flow: Tensor = self.predict(self.merge(torch.cat(sums, 1)) + x)
        return flow


class FlowNetS(nn.Module):
    """FlowNetS without norms: 38,676,514 parameters; the `flownet2s` option of GSVNet.

    Upsampled maps are cropped to their partner's size, top left kept, as the weights were trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(6, 64, 7, 2)
        self.conv2 = _conv(64, 128, 5, 2)
        self.conv3, self.conv3_1 = _conv(128, 256, 5, 2), _conv(256, 256, 3, 1)
        self.conv4, self.conv4_1 = _conv(256, 512, 3, 2), _conv(512, 512, 3, 1)
        self.conv5, self.conv5_1 = _conv(512, 512, 3, 2), _conv(512, 512, 3, 1)
        self.conv6, self.conv6_1 = _conv(512, 1024, 3, 2), _conv(1024, 1024, 3, 1)
        self.predict6 = nn.Conv2d(1024, 2, 3, 1, 1)
        channels = 1024
        for level, (skip, width) in _WIDTHS.items():
            self.add_module(f"deconv{level}", nn.ConvTranspose2d(channels, width, 4, 2))
            self.add_module(f"upflow{level + 1}", nn.ConvTranspose2d(2, 2, 4, 2))
            channels = skip + width + 2
            self.add_module(f"predict{level}", nn.Conv2d(channels, 2, 3, 1, 1))

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Shapes: normalised frames (N, 3, h, w) twice -> flow (N, 2, h/8, w/8), (x, y)."""
        maps: dict[int, Tensor] = {}
        x = F.leaky_relu(self.conv1(torch.cat([previous, current], 1)), _SLOPE)  # this one takes the earlier first
        x = maps[2] = F.leaky_relu(self.conv2(x), _SLOPE)
        for level in (3, 4, 5, 6):
            x = F.leaky_relu(self.get_submodule(f"conv{level}")(x), _SLOPE)
            x = maps[level] = F.leaky_relu(self.get_submodule(f"conv{level}_1")(x), _SLOPE)
        flow: Tensor = self.predict6(x)
        for level in _WIDTHS:
            skip = maps[level]
            upflow = _crop(self.get_submodule(f"upflow{level + 1}")(flow), skip)
            features = F.leaky_relu(_crop(self.get_submodule(f"deconv{level}")(x), skip), _SLOPE)
            x = torch.cat([skip, features, upflow], 1)
            if level == 2:
                # A map of one row or column, from a frame under 128 pixels, keeps it: there is nothing to halve
                x = F.avg_pool2d(x, 2, ceil_mode=min(x.shape[-2:]) < 2)
            flow = self.get_submodule(f"predict{level}")(x)
        return flow


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)


def _crop(x: Tensor, like: Tensor) -> Tensor:
    return x[..., : like.shape[-2], : like.shape[-1]]
