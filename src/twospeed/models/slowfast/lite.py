"""A small SlowFast network for classes of one's own: the Slow pathway is an ImageNet encoder, the Fast one is thin.

    Slow    T/alpha frames, full size    EfficientNet-Lite0 on each     320 channels  ─┬───────────────► pool ┐
                                                                                       ├─ concat ─ res5 ► pool ├─ linear
    Fast    T frames, a quarter the size    stem, res2, res3, res4       64 channels  ─┴─ lateral (time-strided conv)
                                                                          └─────────────────────────────► pool ┘

Two things differ from the paper's networks. The lateral connection joins the pathways once, at stride 32, so that the
Slow pathway's weights stay as ImageNet taught them. And the head sees both pathways beside what they make together:
each is useful by itself where there are a few clips of each class, and only the linear layer is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite
from twospeed.models.slowfast.blocks import Bottleneck, Lateral, Stem
from twospeed.models.slowfast.network import ClassifyHead, check_clip, slow_frame_indices

CROP = 192  # pixels of the crop that the head's window is made for; sides are multiples of STRIDE
STRIDE = 32  # of both pathways' last features
FAST_SCALE = 4  # by which the Fast pathway's frames are smaller


class SlowFastLite(nn.Module):
    """A pathway of few frames for appearance, a pathway of many frames for motion, and a block on both.

    Call with clip: float (N, 3, T, H, W), normalised with the encoder's PIXEL_MEAN and PIXEL_STD; H and W multiples of
    32, T a multiple of alpha. Returns logits (N, P, num_classes), as `SlowFast` does. frames, frame_stride: the
    sampling that the weights expect, in frames of a 30 fps video; recorded for the pipelines. width: channels of the
    Fast pathway's first convolution. Raises InputError for a clip of another shape.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        frames: int = 16,
        frame_stride: int = 1,
        alpha: int = 4,
        width: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, number in {"num_classes": num_classes, "frames": frames, "frame_stride": frame_stride}.items():
            if number < 1:
                raise InputError(f"{name}={number}: at least 1")
        if alpha < 1 or frames % alpha:
            raise InputError(f"alpha={alpha}: a number that divides frames={frames}")
        self.num_classes, self.frames, self.frame_stride, self.alpha = num_classes, frames, frame_stride, alpha
        self.class_names: tuple[str, ...] | None = None
        self.recorded_options: dict[str, object] = {"frames": frames, "frame_stride": frame_stride, "alpha": alpha}

        self.slow = EfficientNetLite(stride=STRIDE)
        slow_channels, fast_channels = self.slow.channels[-1], 8 * width
        self.fast = nn.Sequential(
            Stem(width, temporal_kernel=5),
            _res(width, 2 * width, stride=1),
            _res(2 * width, 4 * width, stride=2),
            _res(4 * width, fast_channels, stride=1),
        )
        self.lateral = Lateral(
            slow_channels, fast_channels, alpha, "time_strided_conv", kernel=5, channel_ratio=2, merge="concatenate"
        )
        self.res5 = _res(self.lateral.channels_out, 256, stride=1)
        self.pathway_channels = (slow_channels, 256, fast_channels)  # of what the head sees
        self.feature_channels = sum(self.pathway_channels)
        self.head = ClassifyHead(self.feature_channels, num_classes, CROP // STRIDE, dropout)

    def slow_features(self, frames: Tensor) -> Tensor:
        """Encode the Slow pathway's frames one by one: (N, 3, T', H, W) -> (N, 320, T', H/32, W/32)."""
        images = frames.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (N T', 3, H, W)
        encoded: Tensor = self.slow(images)[-1]
        return encoded.unflatten(0, frames.shape[::2][:2]).transpose(1, 2)

    def join(self, slow: Tensor, frames: Tensor) -> list[Tensor]:
        """Look at the Fast pathway's small frames (N, 3, T, H/4, W/4), and join what both saw; see `features`."""
        fast = self.fast(frames)
        joined, _ = self.lateral([slow, fast])
        return [slow, self.res5(joined), fast]

    def features(self, clip: Tensor) -> list[Tensor]:
        """Return (N, C, T', H/32, W/32) each: Slow's, what both make together, and Fast's, of alpha T' frames."""
        check_clip(clip, self.alpha, self.frames)
        if clip.shape[3] % STRIDE or clip.shape[4] % STRIDE:
            raise InputError(f"clip has {clip.shape[4]}x{clip.shape[3]} pixels; sides are multiples of {STRIDE}")
        few = clip[:, :, slow_frame_indices(clip.shape[2], self.alpha)]
        return self.join(self.slow_features(few), F.avg_pool3d(clip, (1, FAST_SCALE, FAST_SCALE)))

    def forward(self, clip: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> logits (N, P, num_classes), one row for each position of the head's window."""
        logits: Tensor = self.head(self.features(clip))
        return logits


@torch.no_grad()
def initialise_motion(network: SlowFastLite) -> None:
    """Fill the first convolution of the Fast pathway with gratings that drift in as many directions as it has channels.

    Each answers to what moves its way, and not to what rests (Adelson and Bergen: Spatiotemporal energy models for the
    perception of motion, 1985). From random filters a training finds such ones late: what does not move, which is most
    of what they see, hides the rest.
    """
    stem = network.fast.get_submodule("0")
    assert isinstance(stem, Stem)
    weight = stem.conv.weight  # (C, 3, T, H, W)
    t, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in weight.shape[2:]), indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / 8 - t.square() / 4)
    for channel in range(len(weight)):
        angle = torch.tensor(2 * torch.pi * channel / len(weight))
        along = x * angle.cos() + y * angle.sin()
        grating = window * torch.cos(2 * torch.pi / 6 * (along - 1.2 * t))  # pixels a wave, pixels a frame
        weight[channel] = grating - (grating.sum(0) / window.sum(0)) * window  # nothing for what rests


def _res(channels_in: int, channels_out: int, *, stride: int) -> Bottleneck:
    """One residual block that looks along time, then along space."""
    return Bottleneck(channels_in, channels_out // 4, channels_out, temporal_kernel=3, stride=stride, dilation=1)


def slowfast_lite0(
    *, num_classes: int = 27, frames: int = 16, frame_stride: int = 1, alpha: int = 4, dropout: float = 0.0
) -> SlowFastLite:
    """EfficientNet-Lite0 on 4 frames, a thin Fast pathway on 16: what `twospeed train actions` starts from."""
    return SlowFastLite(num_classes, frames=frames, frame_stride=frame_stride, alpha=alpha, dropout=dropout)
