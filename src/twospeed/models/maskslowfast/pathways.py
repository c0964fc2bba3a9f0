"""The m-n module: m slow and n fast frames of one pyramid level become one enhanced feature of the middle frame.

Source: "Applying SlowFast Networks to Video Object Segmentation" (report), its section on the architecture. No layer
pads in time, so the frames of one window shrink to exactly one; over a longer stretch, every window's result comes out
of the same convolutions, which is what `PathwayStream` uses. Shape letters: B batch, C channels of a pyramid level,
T frames, h/w cells of the level.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn

SLOW_WIDTHS = (192, 192, 224)
FAST_WIDTH = 32
FUSED_WIDTH = 64  # what the fast pathway hands to the slow one


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
        """Shapes: (B, channels_in, T, h, w) -> (B, channels_out, T - frames + 1, h, w)."""
        y: Tensor = self.norm(self.conv(x))
        return y.relu() if self.relu else y


class SlowFastModule(nn.Module):
    """Two pathways over one pyramid level, one module for all levels (slow_frames m, fast_frames n, both odd, m <= n).

    channels: of the pyramid (256); what comes out has as many, 224 from the slow and 32 from the fast pathway.
    Raises ValueError for frames that are even, below one, or more slow than fast.
    """

    def __init__(self, slow_frames: int, fast_frames: int, channels: int = 256):
        super().__init__()
        if slow_frames < 1 or fast_frames < slow_frames or slow_frames % 2 == 0 or fast_frames % 2 == 0:
            raise ValueError(
                f"a pathway of {slow_frames} slow and {fast_frames} fast frames; give odd numbers, "
                "no more slow than fast ones (both windows are centred on the same frame)"
            )
        self.slow_frames, self.fast_frames, self.channels = slow_frames, fast_frames, channels
        slow, fast = temporal_kernels(slow_frames), temporal_kernels(fast_frames)
        slow_left = (slow_frames - slow[0] + 1, slow_frames - slow[0] - slow[1] + 2)  # frames after layers 1 and 2
        fast_left = (fast_frames - fast[0] + 1, fast_frames - fast[0] - fast[1] + 2)
        w1, w2, w3 = SLOW_WIDTHS
        self.slow1 = TemporalLayer(channels, w1, slow[0])
        self.slow2 = TemporalLayer(w1 + FUSED_WIDTH, w2, slow[1])
        self.slow3 = TemporalLayer(w2 + FUSED_WIDTH, w3, slow[2], relu=False)
        self.fast1 = TemporalLayer(channels, FAST_WIDTH, fast[0])
        self.fast2 = TemporalLayer(FAST_WIDTH, FAST_WIDTH, fast[1])
        self.fast3 = TemporalLayer(FAST_WIDTH, FAST_WIDTH, fast[2], relu=False)
        # A fusion's kernel brings the fast frames to the number of slow ones
        self.fuse1 = TemporalLayer(FAST_WIDTH, FUSED_WIDTH, fast_left[0] - slow_left[0] + 1, spatial=1, bias=False)
        self.fuse2 = TemporalLayer(FAST_WIDTH, FUSED_WIDTH, fast_left[1] - slow_left[1] + 1, spatial=1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Enhance the middle frames of all windows in a stretch.

        Shapes: (B, C, T, h, w), T >= n -> (B, C, T - n + 1, h, w); the slow pathway takes the m central frames of each
        window, so its stretch is n - m frames shorter.
        """
        skip = (self.fast_frames - self.slow_frames) // 2
        fast = self.fast1(frames)
        slow = torch.cat([self.slow1(frames[:, :, skip : frames.shape[2] - skip]), self.fuse1(fast)], 1)
        fast = self.fast2(fast)
        slow = torch.cat([self.slow2(slow), self.fuse2(fast)], 1)
        return torch.cat([self.slow3(slow), self.fast3(fast)], 1)


class PathwayStream:
    """One level of a video, frame by frame: every layer sees every frame once and keeps only what its kernel spans.

    The result is that of `SlowFastModule` on every window, with features of zero before the first and after the last
    frame. What is held does not depend on the length of the video.
    """

    def __init__(self, module: SlowFastModule):
        self.module = module
        self._spans: dict[TemporalLayer, deque[Tensor]] = {}
        self._waiting: dict[str, deque[Tensor]] = {
            name: deque() for name in ("slow1", "fuse1", "slow2", "fuse2", "slow3", "fast3")
        }
        self._shape: torch.Size | None = None
        self._like: Tensor = torch.empty(0)

    def push(self, level: Tensor) -> Tensor | None:
        """Take the next frame's feature; return the enhanced one of the frame n // 2 before it, if there is one yet.

        Shapes: (B, C, h, w) -> (B, C, h, w).
        """
        if self._shape is None:
            self._shape, self._like = level.shape, level.new_empty(0)
            for _ in range(self.module.fast_frames // 2):
                self._push_fast(self._zeros())
            for _ in range(self.module.slow_frames // 2):
                self._push_slow(self._zeros())
        self._push_fast(level)
        self._push_slow(level)
        return self._join()

    def finish(self) -> list[Tensor]:
        """End the video: return what the last n // 2 frames (or fewer, of a shorter video) were still waiting for."""
        results = []
        if self._shape is not None:
            for _ in range(self.module.slow_frames // 2):
                self._push_slow(self._zeros())
            for _ in range(self.module.fast_frames // 2):
                self._push_fast(self._zeros())
                if (enhanced := self._join()) is not None:
                    results.append(enhanced)
        return results

    def _zeros(self) -> Tensor:
        assert self._shape is not None
        return self._like.new_zeros(self._shape)

    def _push_fast(self, x: Tensor) -> None:
        m = self.module
        first = self._slide(m.fast1, x)
        if first is None:
            return
        self._queue("fuse1", self._slide(m.fuse1, first))
        second = self._slide(m.fast2, first)
        if second is None:
            return
        self._queue("fuse2", self._slide(m.fuse2, second))
        self._queue("fast3", self._slide(m.fast3, second))

    def _push_slow(self, x: Tensor) -> None:
        self._queue("slow1", self._slide(self.module.slow1, x))

    def _join(self) -> Tensor | None:
        """Bring the pathways together where both have got to the same place."""
        waiting = self._waiting
        for slow, fused, layer, result in (
            ("slow1", "fuse1", self.module.slow2, "slow2"),
            ("slow2", "fuse2", self.module.slow3, "slow3"),
        ):
            while waiting[slow] and waiting[fused]:
                joined = torch.cat([waiting[slow].popleft(), waiting[fused].popleft()], 1)
                self._queue(result, self._slide(layer, joined))
        if waiting["slow3"] and waiting["fast3"]:
            return torch.cat([waiting["slow3"].popleft(), waiting["fast3"].popleft()], 1)
        return None

    def _queue(self, name: str, x: Tensor | None) -> None:
        if x is not None:
            self._waiting[name].append(x)

    def _slide(self, layer: TemporalLayer, x: Tensor) -> Tensor | None:
        """Let a layer see its last `frames` inputs. Shapes: (B, C_in, h, w) -> (B, C_out, h, w), None while filling."""
        span = self._spans.setdefault(layer, deque(maxlen=layer.frames))
        span.append(x)
        if len(span) < layer.frames:
            return None
        result: Tensor = layer(torch.stack(tuple(span), 2))
        return result[:, :, 0]
