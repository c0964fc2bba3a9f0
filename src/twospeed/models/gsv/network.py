"""GSVNet: class scores of a keyframe, carried to the frames after it by flow and refined by a guided filter.

Source: Lee, Chen, Peng, "GSVNet: Guided Spatially-Varying Convolution for Fast Semantic Segmentation on Video", ICME
2021, with the arithmetic of the released code. Everything between frames happens on a grid of an eighth of the frame,
h = H // 8, w = W // 8, in logits; all resizing aligns corners. Shape letters: N batch, C classes, H/W pixels.

The option `fine` is ours: scores travel on a grid of about a quarter of the frame, where thin things have room, and
what is computed from frames sees further. Its grids have sides of 8n + 1 cells, so that every second cell is exactly a
cell of the grid of half the fineness. Frames of more than 640 x 480 pixels are seen at that size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.models.conv_norm import ConvNorm
from twospeed.models.gsv.filtering import EdgeKind, delay_kernels, delay_places, edge_map, filter_scores, unit_gain
from twospeed.models.pixels import SWIFTNET_MEAN, SWIFTNET_STD, InputOrder, hold_pixels, normalise
from twospeed.ops.grid import GRID, grid_size, rounded
from twospeed.ops.warp import backward_warp, shrink

Fusion = Literal["guided", "accel"]
_FINE = 32  # frame pixels per eight cells of the fine one
_FINE_PIXELS = 640 * 480  # of a frame: larger ones are seen at this size, so that things are as large as in training


def resize(x: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Bilinear, corners aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def scale_image(image: Tensor, scale: float) -> Tensor:
    """Resize an image (N, 3, H, W) by a factor as released: 3/4 means 3 * (length // 4) pixels a side."""
    part = Fraction(scale).limit_denominator(16)
    size = tuple(max(1, part.numerator * (length // part.denominator)) for length in image.shape[-2:])
    return image if size == tuple(image.shape[-2:]) else resize(image, size)


class Step(NamedTuple):
    """One propagation step, with what led to it."""

    scores: Tensor  # (N, C, h, w), the result
    flow: Tensor  # (N, 2, h, w), (x, y) in cells of the grid
    warped: Tensor  # (N, C, h, w), the previous scores, moved
    edges: Tensor | None  # (N, 1, h, w), 0 or 1, of a fine network at half of h and w; None without guided filtering
    intra: Tensor | None  # (N, C, h, w), scores of the frame by itself
    kernels: Tensor | None  # (N, taps, h, w), summing to one: identity, delays, intra; None without guided filtering
    carried: Tensor  # (N, C, h, w), what the next step moves


class IntraNet(nn.Module):
    """Three convolutions that label the small frame by itself: what warping cannot bring (section 3.4.2)."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.conv1 = ConvNorm(3, width, bias=True)
        self.conv2 = ConvNorm(width, width, bias=True)
        self.predict = nn.Conv2d(width, num_classes, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: normalised (N, 3, h, w) -> scores (N, C, h, w)."""
        scores: Tensor = self.predict(self.conv2(self.conv1(image)))
        return scores


class ContextIntraNet(nn.Module):
    """Label the small frame by itself with more of it in view: a step down, dilated convolutions, a step up."""

    def __init__(self, num_classes: int, width: int = 48):
        super().__init__()
        self.down = nn.ModuleList([ConvNorm(3, width, stride=2), ConvNorm(width, 2 * width, stride=2)])
        self.dilated = nn.ModuleList(ConvNorm(2 * width, 2 * width, dilation=dilation) for dilation in (1, 2, 4, 8))
        self.lateral = ConvNorm(width, 2 * width, 1)
        self.blend = ConvNorm(2 * width, 2 * width)
        self.predict = nn.Conv2d(2 * width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: normalised (N, 3, 2h - 1, 2w - 1) -> scores (N, C, h, w)."""
        half = self.down[0](image)
        x = self.down[1](half)
        for dilated in self.dilated:
            x = x + dilated(x)
        scores: Tensor = self.predict(self.blend(resize(x, half.shape[-2:]) + self.lateral(half)))
        return scores


class GuideNet(nn.Module):
    """Computes at every pixel how much of each tap to take: a small encoder and decoder (section 3.4.3)."""

    def __init__(self, channels_in: int, taps: int, width: int):
        super().__init__()
        self.encode = ConvNorm(channels_in, width, bias=True)
        self.down = nn.ModuleList(
            [ConvNorm(width, 2 * width, stride=2, bias=True), ConvNorm(2 * width, 4 * width, stride=2, bias=True)]
        )
        self.up = nn.ModuleList([ConvNorm(4 * width, 2 * width, bias=True), ConvNorm(2 * width, width, bias=True)])
        self.predict = ConvNorm(width, taps, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: intra scores and edges (N, C+1, h, w) -> kernels of 0 or more (N, taps, h, w), not normalised."""
        query = self.encode(x)
        half = self.down[0](query)
        y = self.down[1](half)
        # Differs: to the encoder's sizes rather than by two, so that any frame size works; the numbers are the same
        # where the released code runs, for frames of multiples of 32
        y = self.up[0](resize(y, half.shape[-2:]))
        y = self.up[1](resize(y, query.shape[-2:]))
        kernels: Tensor = self.predict(query + y)
        return kernels


class GSVNet(nn.Module):
    """Label the frames of a video: an image network on keyframes, a light step on all others.

    keyframe_network: maps RGB 0..255 (N, 3, H, W) to class scores of any size (its method `scores` is used where it has
    one, else its call); any image network will do, see `ImageNetwork`. flow_network: maps the small current and
    previous frame to (x, y) in quarters of a cell. num_classes: C. delay_kernel: 3 or 5; learned_delay: train the
    delays too. intra: use the frame by itself as one more tap (without it, the guide sees the warped scores instead).
    keyframe_scale: of the image that the keyframe network sees. edges: the map of class borders that the guide sees,
    "binary" as in the authors' code or "sigmoid" as in the paper, see `edge_map`. fine: see above; the guide then sees
    the warped scores, too. width: of the intra and guide networks. fusion: "guided" as published; "accel": the paper's
    baseline A-Lite, which is Accel (Jain, Wang, Gonzalez, CVPR 2019) with the flow network and the features of GSVNet:
    a 1x1 convolution mixes the frame's scores with those of the keyframe, which are moved from frame to frame by
    themselves. pixel_mean, pixel_std: of what flow and intra network see, RGB order, units of 0..255; input_order: its
    channel order. Published weights have "bgr" (Cityscapes) or "rgb" (CamVid), and their keyframe network the other
    one. Raises ValueError for options out of range.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder
    guide: GuideNet | None
    mix: nn.Conv2d | None

    def __init__(
        self,
        keyframe_network: nn.Module,
        flow_network: nn.Module,
        num_classes: int = 19,
        *,
        delay_kernel: int = 3,
        learned_delay: bool = False,
        intra: bool = True,
        keyframe_scale: float = 0.75,
        edges: EdgeKind = "binary",
        fine: bool = False,
        width: int = 32,
        fusion: Fusion = "guided",
        pixel_mean: Sequence[float] = SWIFTNET_MEAN,
        pixel_std: Sequence[float] = SWIFTNET_STD,
        input_order: InputOrder = "bgr",
    ):
        super().__init__()
        if not 0 < keyframe_scale <= 2:
            raise ValueError(f"keyframe_scale is {keyframe_scale}; give a factor above 0 and up to 2 (0.75 published)")
        if edges not in ("binary", "sigmoid"):
            raise ValueError(f"edges is {edges!r}; choose 'binary' (the authors' code) or 'sigmoid' (the paper)")
        if fusion == "accel" and (not intra or learned_delay):
            raise ValueError(
                "fusion='accel' mixes the frame's own scores and has no delays: leave intra and delays alone"
            )
        if fine and (not intra or fusion != "guided"):
            raise ValueError("fine=True is guided and has an intra network: leave intra and fusion alone")
        self.num_classes, self.keyframe_scale, self.edges, self.fine = num_classes, keyframe_scale, edges, fine
        self.keyframe_network, self.flow_network = keyframe_network, flow_network
        self.delays = nn.Parameter(delay_kernels(delay_kernel), requires_grad=learned_delay)
        self._delay_places = None if learned_delay else delay_places(delay_kernel)
        self.intra: IntraNet | ContextIntraNet | None = None
        if intra:
            self.intra = ContextIntraNet(num_classes) if fine else IntraNet(num_classes, width)
        self.guide = self.mix = None
        if fusion == "guided":
            seen = (2 if fine else 1) * num_classes + 1
            self.guide = GuideNet(seen, len(self.delays) + 1 + int(intra), width)
        else:
            self.mix = nn.Conv2d(2 * num_classes, num_classes, 1)
        for module in (self.intra, self.guide):
            for layer in module.modules() if module is not None else ():
                if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:  # torch loads its compiler for that
                    nn.init.xavier_normal_(layer.weight)
        if self.mix is not None:  # both count alike at first
            half = 0.5 * torch.eye(num_classes)
            self.mix.load_state_dict(
                {"weight": torch.cat([half, half], 1)[..., None, None], "bias": torch.zeros(num_classes)}
            )
        hold_pixels(self, pixel_mean, pixel_std, input_order)

    @property
    def recorded_options(self) -> dict[str, object]:
        """What a file of weights must hold beside them."""
        return {"input_order": self.input_order, "keyframe_scale": self.keyframe_scale, "edges": self.edges}

    def keyframe(self, image: Tensor) -> Tensor:
        """Run the image network. Shapes: RGB 0..255 (N, 3, H, W) -> class scores (N, C, h, w).

        Raises InputError for frames under 8 pixels, and for a network with another number of classes.
        """
        network = self.keyframe_network
        if self.fine:
            scale = self.keyframe_scale * _reduction(image)
            scaled = resize(image, tuple(max(1, rounded(scale * length)) for length in image.shape[-2:]))
        else:
            scaled = scale_image(image, self.keyframe_scale)
        scores: Tensor = getattr(network, "scores", network)(scaled)
        if scores.shape[1] != self.num_classes:
            raise InputError(
                f"the keyframe network gives {scores.shape[1]} classes, the propagation has {self.num_classes}; "
                "build both with the same num_classes"
            )
        return resize(scores, self.grid(image))

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return the size of the grid on which scores travel. Raises InputError for frames under 8 pixels."""
        height, width = grid_size(image)
        if not self.fine:
            return height, width
        scale = _reduction(image) / _FINE
        rows, columns = (GRID * max(1, rounded(scale * length)) + 1 for length in image.shape[-2:])
        return rows, columns

    def propagate(self, previous_segmentation: Tensor, previous_image: Tensor, image: Tensor) -> Tensor:
        """Carry class scores to the next frame.

        Shapes: scores (N, C, h, w), RGB 0..255 (N, 3, H, W) twice -> scores (N, C, h, w).
        Raises InputError where the shapes do not belong together.
        """
        if previous_image.shape != image.shape:
            raise InputError(f"frames are {tuple(previous_image.shape)} and {tuple(image.shape)}; give one size")
        wanted = (image.shape[0], self.num_classes, *self.grid(image))
        if tuple(previous_segmentation.shape) != wanted:
            raise InputError(f"previous_segmentation is {tuple(previous_segmentation.shape)}, expected {wanted}")
        return self.step(previous_segmentation, self.small(previous_image), self.small(image)).scores

    def small(self, image: Tensor) -> Tensor:
        """Bring a frame to the grid, normalised. Shapes: RGB 0..255 (N, 3, H, W), float or uint8 -> (N, 3, h, w)."""
        # Before normalisation, which commutes with it: all other pixels are then never touched
        return normalise(shrink(image, self.grid(image)), self.pixel_mean, self.pixel_std, self.input_order)

    def step(self, previous_scores: Tensor, previous_small: Tensor, small: Tensor) -> Step:
        """Do one propagation step on small frames. Shapes: (N, C, h, w), (N, 3, h, w) twice -> Step."""
        flow = self.flow(previous_small, small)
        warped = backward_warp(previous_scores, flow)
        return self.fuse(flow, warped, None if self.intra is None else self.intra(small))

    def flow(self, previous_small: Tensor, small: Tensor) -> Tensor:
        """Return where each cell was before, in cells. Shapes: (N, 3, h, w) twice -> (N, 2, h, w), x and y."""
        flow = resize(self.flow_network(small, previous_small), small.shape[-2:])
        return flow if self.fine else flow / 4

    def fuse(self, flow: Tensor, warped: Tensor, intra: Tensor | None) -> Step:
        """Refine warped scores by the frame's own.

        Shapes: flow (N, 2, h, w), warped scores (N, C, h, w), what the intra network gives -> Step.
        """
        if self.mix is not None and intra is not None:
            return Step(self.mix(torch.cat([warped, intra], 1)), flow, warped, None, intra, None, warped)
        assert self.guide is not None
        if self.fine and intra is not None:
            coarse = F.avg_pool2d(warped, 3, 2, 1, count_include_pad=False)  # its cells are every second of the fine
            edges = edge_map(coarse, self.edges)
            kernels = resize(unit_gain(self.guide(torch.cat([intra, coarse, edges], 1))), warped.shape[-2:])
            intra = resize(intra, warped.shape[-2:])
        else:
            edges = edge_map(warped, self.edges)
            kernels = unit_gain(self.guide(torch.cat([warped if intra is None else intra, edges], 1)))
        scores = filter_scores(warped, kernels, self.delays, intra, self._delay_places)
        return Step(scores, flow, warped, edges, intra, kernels, scores)


class ScaledImages(nn.Module):
    """An image network by itself on images brought to a fraction of their size: the paper's other way to save time.

    keyframe_network: as of `GSVNet`. scale: above 0.
    """

    def __init__(self, keyframe_network: nn.Module, scale: float):
        super().__init__()
        self.keyframe_network, self.scale = keyframe_network, scale

    def scores(self, image: Tensor) -> Tensor:
        """Shapes: RGB 0..255 (N, 3, H, W) -> class scores (N, C, any, any), at the size that the network gives."""
        network = self.keyframe_network
        scores: Tensor = getattr(network, "scores", network)(scale_image(image, self.scale))
        return scores

    def forward(self, image: Tensor) -> Tensor:
        """As `scores`."""
        return self.scores(image)


def _reduction(image: Tensor) -> Any:
    """Return the factor at which a fine network sees a frame, 1 or less; in a traced graph a tensor."""
    height, width = image.shape[-2:]
    part: Any = _FINE_PIXELS / (height * width)
    return part.sqrt().clamp(max=1.0) if isinstance(part, Tensor) else min(1.0, math.sqrt(part))
