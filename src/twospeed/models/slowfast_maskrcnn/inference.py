"""The detector rearranged to run fast: equal results up to rounding, no training.

What changes, and why it is faster on a CPU:

- Batch norm is fused into the convolution before it; features lie channels last in memory.
- A convolution over k frames is k convolutions of one frame, whose results are summed over time. Each frame is read
  once by each layer: what it gives to the k results that it takes part in comes out of one 2-D convolution. The first
  layers of both pathways read the same feature and are one convolution.
- These 3x3 convolutions, two fifths of the whole arithmetic and more with longer windows, run by Winograd's algorithm
  (`models/fused.py`). Backbone and region proposals stay direct: proposals are chosen by their scores, and the
  smallest rounding flips a choice.

On a GPU only the folding, the sums over time and the memory layout apply.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from twospeed.models.fused import LAST, FusedConv, Maker, WinogradConv
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream, SlowFastModule, TemporalLayer
from twospeed.models.slowfast_maskrcnn.stream import Detections, DetectionStream, FrameFeatures
from twospeed.ops.fuse import fuse_batch_norm


def for_inference(
    network: SlowFastMaskRCNN, *, winograd: bool | None = None, dtype: torch.dtype = torch.float32
) -> FusedMaskRCNN | None:
    """Return a network that finds what `network` finds in eval mode, faster; `network` is left as it is.

    The two share nothing: training `network` on does not change the returned one. winograd: None chooses it on CPUs.
    Region proposals are those of `network` to rounding of the direct convolutions, enhanced features agree to 1e-4 of
    their range. None for another dtype than float32.
    """
    if dtype != torch.float32:
        return None
    return FusedMaskRCNN(network, winograd)


class FusedMaskRCNN(nn.Module):
    """What `for_inference` returns: called like `SlowFastMaskRCNN`. Not to be called from two threads at a time."""

    def __init__(self, network: SlowFastMaskRCNN, winograd: bool | None) -> None:
        super().__init__()
        self.window, self.min_size = network.window, network.min_size
        self.detector = copy.deepcopy(network.detector).eval()
        _fuse_inside(self.detector.backbone)
        self.detector.backbone.to(memory_format=LAST)
        self.slow_fast = FusedPathways(network.slow_fast, winograd)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> list[Detections]:
        """As `SlowFastMaskRCNN.forward`."""
        stream = DetectionStream(self)
        results = [found for frame in frames for found in stream.push(frame)]
        return results + stream.finish()

    @torch.no_grad()
    def encode(self, frame: Tensor) -> FrameFeatures:
        """As `SlowFastMaskRCNN.encode`."""
        images, _ = self.detector.transform([frame])
        pyramid = self.detector.backbone(images.tensors.contiguous(memory_format=LAST))
        proposals, _ = self.detector.rpn(images, pyramid)
        return FrameFeatures(pyramid, proposals[0], images.image_sizes[0], (frame.shape[-2], frame.shape[-1]))

    def pathways(self) -> PathwayStream:
        """As `SlowFastMaskRCNN.pathways`."""
        return PathwayStream(self.slow_fast)

    @torch.no_grad()
    def detect(self, features: FrameFeatures, enhanced: dict[str, Tensor]) -> Detections:
        """As `SlowFastMaskRCNN.detect`."""
        # RoIAlign reads channels first; it would copy the levels for the boxes and again for the masks
        levels = {name: level.contiguous() for name, level in enhanced.items()}
        sizes = [features.scaled_size]
        found, _ = self.detector.roi_heads(levels, [features.proposals], sizes)
        result: Detections = self.detector.transform.postprocess(found, sizes, [features.size])[0]
        return result


class FusedPathways(nn.Module):
    """`SlowFastModule`, to be streamed: see `PathwayStream`."""

    def __init__(self, module: SlowFastModule, winograd: bool | None) -> None:
        super().__init__()
        self.slow_frames, self.fast_frames = module.slow_frames, module.fast_frames
        make = Maker(winograd, next(module.parameters()).device)
        self.first_taps = taps_of([module.slow1, module.fast1], make)
        self.slow1, self.fast1 = FusedLayer(module.slow1, None), FusedLayer(module.fast1, None)
        for name in ("slow2", "slow3", "fast2", "fast3", "fuse1", "fuse2"):
            layer = getattr(module, name)
            self.add_module(name, FusedLayer(layer, taps_of([layer], make)))

    def first(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layers of the slow and the fast pathway take of a frame: its share of their sums."""
        taps = self.first_taps([level])
        slow, fast = taps.split([self.slow1.channels, self.fast1.channels], 1)
        return slow, fast

    def outside(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a frame outside the video."""
        B, _, h, w = level.shape
        zero = level.new_zeros(())
        return zero.expand(B, self.slow1.channels, h, w), zero.expand(B, self.fast1.channels, h, w)

    def slider(self, name: str) -> PartialSums:
        """Begin a video with the layer of this name."""
        layer = self.get_submodule(name)
        assert isinstance(layer, FusedLayer)
        return PartialSums(layer)


def taps_of(layers: Sequence[TemporalLayer], make: Maker) -> FusedConv | WinogradConv:
    """Return one 2-D convolution that gives what a frame adds to each result of layers: k times O channels for each.

    Without bias, which belongs to a result, not to a frame.
    """
    fused = [fuse_batch_norm(layer.conv, layer.norm)[0] for layer in layers]
    weight = torch.cat([w.transpose(0, 2).transpose(1, 2).flatten(0, 1) for w in fused])  # (k O, C, s, s)
    spatial = weight.shape[-1]
    conv = nn.Conv2d(weight.shape[1], len(weight), spatial, padding=spatial // 2, bias=False)
    conv.weight = nn.Parameter(weight.to(layers[0].conv.weight.dtype), requires_grad=False)
    return make.convolution([conv])


class FusedLayer(nn.Module):
    """`TemporalLayer` as `PartialSums` runs it. taps: None for a first layer, whose taps come from outside."""

    bias: Tensor

    def __init__(self, layer: TemporalLayer, taps: nn.Module | None) -> None:
        super().__init__()
        self.frames, self.relu, self.taps = layer.frames, layer.relu, taps
        bias = fuse_batch_norm(layer.conv, layer.norm)[1]
        self.register_buffer("bias", bias.to(layer.conv.weight.dtype).view(-1, 1, 1))

    @property
    def channels(self) -> int:
        """Of its taps: k O."""
        return self.frames * len(self.bias)


class PartialSums:
    """The results that a layer has begun: each is the sum of what its frames give, and complete with the k-th."""

    def __init__(self, layer: FusedLayer) -> None:
        self.layer = layer
        self._sums: deque[Tensor] = deque()

    def __len__(self) -> int:
        return len(self._sums)

    def push(self, *parts: Tensor) -> Tensor | None:
        """Take the next frame (in parts, as if concatenated); return the result that it completes, if any."""
        layer, sums = self.layer, self._sums
        taps = parts[0] if layer.taps is None else layer.taps(parts)
        each = taps.chunk(layer.frames, 1)
        for age, partial in enumerate(reversed(sums), start=1):
            partial += each[age]
        sums.append(torch.add(each[0], layer.bias))  # memory of its own, not a part of all taps
        if len(sums) < layer.frames:
            return None
        result = sums.popleft()
        return result.relu_() if layer.relu else result


def _fuse_inside(module: nn.Module) -> None:
    """Fold every `bnX` of a residual network into its `convX`, and every second layer of a shortcut into the first."""
    for child in module.children():
        _fuse_inside(child)
    pairs = [(f"conv{name[2:]}", name) for name, _ in module.named_children() if name.startswith("bn")]
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], nn.Conv2d):
        pairs.append(("0", "1"))
    for conv_name, norm_name in pairs:
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        if isinstance(norm, FrozenBatchNorm2d):
            norm = _as_batch_norm(norm)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        weight, bias = fuse_batch_norm(conv, norm)
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
        setattr(module, norm_name, nn.Identity())


def _as_batch_norm(frozen: FrozenBatchNorm2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps)
    norm.load_state_dict(frozen.state_dict(), strict=False)  # all but the count of batches
    return norm.to(frozen.weight.device)
