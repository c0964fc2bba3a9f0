"""Feature pyramids of one frame (Lin et al., CVPR 2017): the report's ResNet-50, and a narrow one."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from twospeed.models.encoders.resnet import ResNetFeatures


class Pyramid(nn.Module):
    """A backbone with a feature pyramid on its four stages.

    body: returns the stages' outputs, as a list or a dictionary in order. channels_in: of each. out_channels: of the
    pyramid's levels "0" to "3" (strides 4 to 32) and "pool" (64). always_frozen: parts of the body that never learn.
    The names of the parts are torchvision's.
    """

    def __init__(self, body: nn.Module, channels_in: list[int], out_channels: int, always_frozen: tuple[str, ...] = ()):
        super().__init__()
        self.always_frozen = always_frozen
        for part in always_frozen:
            body.get_submodule(part).requires_grad_(False)
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels_in, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Shapes: (B, 3, H, W) -> levels (B, out_channels, h, w)."""
        stages = self.body(images)
        values = stages.values() if isinstance(stages, dict) else stages
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), stage) for i, stage in enumerate(values)))
        return levels


def resnet50_pyramid(out_channels: int, *, frozen_batch_norm: bool) -> Pyramid:
    """ResNet-50 as torchvision's Mask R-CNN has it.

    frozen_batch_norm: fixed statistics and affine with eps 0, and stem and first stage frozen, as torchvision with COCO
    weights; otherwise everything learns.
    """
    backbone = resnet50(weights=None, norm_layer=FrozenBatchNorm2d if frozen_batch_norm else nn.BatchNorm2d)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    body = IntermediateLayerGetter(backbone, {f"layer{i + 1}": str(i) for i in range(4)})
    return Pyramid(body, [256, 512, 1024, 2048], out_channels, ("conv1", "layer1") if frozen_batch_norm else ())


def nano_pyramid(out_channels: int) -> Pyramid:
    """A ResNet of 7 blocks and half of ResNet-18's width, its stem striding by 4.

    Its first three stages are those of `track_tiny`'s key encoder, so that its weights give a start.
    """
    body = ResNetFeatures("basic", (1, 2, 2, 2), width=32, stem_width=32, stem_stride=4)
    return Pyramid(body, body.channels, out_channels)
