"""The m-n module: m slow and n fast frames of one pyramid level become one enhanced feature of the middle frame.

Source: "Applying SlowFast Networks to Video Object Segmentation" (report), its section on the architecture. No layer
pads in time, so the frames of one window shrink to exactly one; over a longer clip, every window's result comes out
of the same convolutions, which is what `PathwayStream` uses. Shape letters: B batch, C channels of a pyramid level,
T frames, h/w cells of the level.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Shares of the pyramid's channels: 192, 192, 224 slow ones, 32 fast ones and 64 handed over, for the published 256
_SLOW_EIGHTHS = (6, 6, 7)
_FAST_EIGHTHS = 1
_FUSED_EIGHTHS = 2


def temporal_kernels(frames: int) -> tuple[int, int, int]:
    """Return the temporal kernels of a pathway's three layers, which shrink `frames` to one."""
    third, rest = divmod(frames, 3)
    return {
        0: (third, third + 1, third + 1),
        1: (third + 1, third + 1, third + 1),
        2: (third + 1, third + 1, third + 2),
    }[rest]


class TemporalLayer(nn.Module):
    """A 3-D convolution that pads in space but not in time, batch norm, and ReLU unless it is the last."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        frames: int,
        *,
        spatial: int = 3,
        bias: bool = True,
        relu: bool = True,
    ):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv3d(
            channels_in, channels_out, (frames, spatial, spatial), padding=(0, spatial // 2, spatial // 2), bias=bias
        )
        self.norm = nn.BatchNorm3d(channels_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, T, h, w) -> (B, channels_out, T - frames + 1, h, w).

        The 3-D convolution is one 2-D convolution of stacked frames: torch's 3-D one takes a path many times slower for
        small levels and batches of one.
        """
        batch = x.shape[0]
        stacks = x.unfold(2, self.frames, 1)  # (B, C, T', h, w, frames), a view
        stacked = stacks.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)  # (B T', C frames, h, w)
        y = F.conv2d(stacked, self.conv.weight.flatten(1, 2), self.conv.bias, padding=self.conv.padding[1:])
        y = self.norm(y.unsqueeze(2)).squeeze(2)  # over all frames alike
        y = y.relu() if self.relu else y
        return y.unflatten(0, (batch, -1)).transpose(1, 2)


class SlowFastModule(nn.Module):
    """Two pathways over one pyramid level, one module for all levels (slow_frames m, fast_frames n, both odd, m <= n).

    channels: of the pyramid (256), a multiple of 8; what comes out has as many, 224 from the slow and 32 from the fast
    pathway. Raises ValueError for frames that are even, below one, or more slow than fast.
    """

    def __init__(self, slow_frames: int, fast_frames: int, channels: int = 256):
        super().__init__()
        if slow_frames < 1 or fast_frames < slow_frames or slow_frames % 2 == 0 or fast_frames % 2 == 0:
            raise ValueError(
                f"a pathway of {slow_frames} slow and {fast_frames} fast frames; give odd numbers, "
                "no more slow than fast ones (both windows are centred on the same frame)"
            )
        if channels < 8 or channels % 8:
            raise ValueError(f"a pyramid of {channels} channels cannot be shared by the pathways; give a multiple of 8")
        self.slow_frames, self.fast_frames, self.channels = slow_frames, fast_frames, channels
        slow, fast = temporal_kernels(slow_frames), temporal_kernels(fast_frames)
        slow_left = (slow_frames - slow[0] + 1, slow_frames - slow[0] - slow[1] + 2)  # frames after layers 1 and 2
        fast_left = (fast_frames - fast[0] + 1, fast_frames - fast[0] - fast[1] + 2)
        eighth = channels // 8
        w1, w2, w3 = (share * eighth for share in _SLOW_EIGHTHS)
        narrow, fused = _FAST_EIGHTHS * eighth, _FUSED_EIGHTHS * eighth
        self.slow1 = TemporalLayer(channels, w1, slow[0])
        self.slow2 = TemporalLayer(w1 + fused, w2, slow[1])
        self.slow3 = TemporalLayer(w2 + fused, w3, slow[2], relu=False)
        self.fast1 = TemporalLayer(channels, narrow, fast[0])
        self.fast2 = TemporalLayer(narrow, narrow, fast[1])
        self.fast3 = TemporalLayer(narrow, narrow, fast[2], relu=False)
        # A fusion's kernel brings the fast frames to the number of slow ones
        self.fuse1 = TemporalLayer(narrow, fused, fast_left[0] - slow_left[0] + 1, spatial=1, bias=False)
        self.fuse2 = TemporalLayer(narrow, fused, fast_left[1] - slow_left[1] + 1, spatial=1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Enhance the middle frames of all windows of a clip.

        Shapes: (B, C, T, h, w), T >= n -> (B, C, T - n + 1, h, w); the slow pathway takes the m central frames of each
        window, so its clip is n - m frames shorter.
        """
        skip = (self.fast_frames - self.slow_frames) // 2
        fast = self.fast1(frames)
        slow = torch.cat([self.slow1(frames[:, :, skip : frames.shape[2] - skip]), self.fuse1(fast)], 1)
        fast = self.fast2(fast)
        slow = torch.cat([self.slow2(slow), self.fuse2(fast)], 1)
        return torch.cat([self.slow3(slow), self.fast3(fast)], 1)

    def first(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layers of the slow and the fast pathway take of a frame."""
        return level, level

    def outside(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a frame outside the video: features of zero."""
        zeros = level.new_zeros(()).expand_as(level)
        return zeros, zeros

    def slider(self, name: str) -> Slider:
        """Begin a video with the layer of this name."""
        return Span(getattr(self, name))


class Slider(Protocol):
    """A layer over time."""

    def __len__(self) -> int:
        """How many frames' worth it holds."""
        ...

    def push(self, *parts: Tensor) -> Tensor | None:
        """Take the next frame, (B, C, h, w), in parts as if concatenated; return a result, None while filling."""
        ...


class Pathways(Protocol):
    """What `PathwayStream` needs: `SlowFastModule`, or one that was prepared to run fast."""

    slow_frames: int
    fast_frames: int

    def first(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layers of the slow and the fast pathway take of a frame."""
        ...

    def outside(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a frame outside the video."""
        ...

    def slider(self, name: str) -> Slider:
        """Begin a video with the layer of this name."""
        ...


class Span:
    """The last frames that a layer sees at once."""

    def __init__(self, layer: TemporalLayer):
        self.layer = layer
        self._frames: deque[Tensor] = deque(maxlen=layer.frames)

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, *parts: Tensor) -> Tensor | None:
        """Take the next frame; return the layer's result for the last `frames` of them, None while filling."""
        self._frames.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        if len(self._frames) < self.layer.frames:
            return None
        result: Tensor = self.layer(torch.stack(tuple(self._frames), 2))
        return result[:, :, 0]


class PathwayStream:
    """One level of a video, frame by frame: every layer sees every frame once and keeps only what its kernel spans.

    The result is that of `SlowFastModule` on every window, with features of zero before the first and after the last
    frame. What is held does not depend on the length of the video.
    """

    def __init__(self, module: Pathways):
        self.module = module
        self._spans: dict[str, Slider] = {}
        self._waiting: dict[str, deque[Tensor]] = {
            name: deque() for name in ("slow1", "fuse1", "slow2", "fuse2", "slow3", "fast3")
        }
        self._outside: tuple[Tensor, Tensor] | None = None

    def push(self, level: Tensor) -> Tensor | None:
        """Take the next frame's feature; return the enhanced one of the frame n // 2 before it, if there is one yet.

        Shapes: (B, C, h, w) -> (B, C, h, w).
        """
        if self._outside is None:
            self._outside = self.module.outside(level)
            for _ in range(self.module.fast_frames // 2):
                self._push_fast(self._outside[1])
            for _ in range(self.module.slow_frames // 2):
                self._push_slow(self._outside[0])
        slow, fast = self.module.first(level)
        self._push_fast(fast)
        self._push_slow(slow)
        return self._join()

    def finish(self) -> list[Tensor]:
        """End the video: return what the last n // 2 frames (or fewer, of a shorter video) were still waiting for."""
        results = []
        if self._outside is not None:
            slow, fast = self._outside
            for _ in range(self.module.slow_frames // 2):
                self._push_slow(slow)
            for _ in range(self.module.fast_frames // 2):
                self._push_fast(fast)
                if (enhanced := self._join()) is not None:
                    results.append(enhanced)
        return results

    def _push_fast(self, x: Tensor) -> None:
        first = self._slide("fast1", x)
        if first is None:
            return
        self._queue("fuse1", self._slide("fuse1", first))
        second = self._slide("fast2", first)
        if second is None:
            return
        self._queue("fuse2", self._slide("fuse2", second))
        self._queue("fast3", self._slide("fast3", second))

    def _push_slow(self, x: Tensor) -> None:
        self._queue("slow1", self._slide("slow1", x))

    def _join(self) -> Tensor | None:
        """Bring the pathways together where both have got to the same place."""
        waiting = self._waiting
        for slow, fused, layer in (("slow1", "fuse1", "slow2"), ("slow2", "fuse2", "slow3")):
            while waiting[slow] and waiting[fused]:
                self._queue(layer, self._slide(layer, waiting[slow].popleft(), waiting[fused].popleft()))
        if waiting["slow3"] and waiting["fast3"]:
            return torch.cat([waiting["slow3"].popleft(), waiting["fast3"].popleft()], 1)
        return None

    def _queue(self, name: str, x: Tensor | None) -> None:
        if x is not None:
            self._waiting[name].append(x)

    def _slide(self, name: str, *parts: Tensor) -> Tensor | None:
        if name not in self._spans:
            self._spans[name] = self.module.slider(name)
        return self._spans[name].push(*parts)
