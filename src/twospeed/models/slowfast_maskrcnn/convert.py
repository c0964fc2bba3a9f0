"""The authors' SlowFast Mask R-CNN checkpoints, and torchvision's COCO Mask R-CNN, in our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from twospeed.models.renames import renamed

# authors' name -> ours, applied in order to each key
_RENAMES = (
    (r"^maskrcnn_model\.", "detector."),
    (r"^slow_fast\.(slow|fast)_conv(\d)\.", r"slow_fast.\1\2.conv."),
    (r"^slow_fast\.bn_s(\d)\.", r"slow_fast.slow\1.norm."),
    (r"^slow_fast\.bn_f(\d)\.", r"slow_fast.fast\1.norm."),
    (r"^slow_fast\.conv_f2s(\d)\.", r"slow_fast.fuse\1.conv."),
    (r"^slow_fast\.bn_f2s(\d)\.", r"slow_fast.fuse\1.norm."),
    # torchvision before 0.13 -> since
    (r"\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$", r".fpn.\1_blocks.\2.0.\3"),
    (r"\.rpn\.head\.conv\.(weight|bias)$", r".rpn.head.conv.0.0.\1"),
    *((rf"\.mask_head\.mask_fcn{layer + 1}\.", f".mask_head.{layer}.0.") for layer in range(4)),
)
_BACKBONE = "detector.backbone.body.conv1.weight"
_LATERAL = "detector.backbone.fpn.inner_blocks.0.0.weight"


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys (and those of torchvision before 0.13); keys in our naming pass unchanged."""
    return renamed(state, _RENAMES)


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that names and shapes of a state in our naming determine.

    Trainable batch norm counts its batches, frozen does not; a ResNet-50's blocks have a third convolution.
    """
    if _BACKBONE not in state:
        return {}
    options: dict[str, object] = {
        "backbone": "resnet50" if "detector.backbone.body.layer1.0.conv3.weight" in state else "nano",
        "frozen_batch_norm": "detector.backbone.body.bn1.num_batches_tracked" not in state,
    }
    if (lateral := state.get(_LATERAL)) is not None:
        options["pyramid_channels"] = lateral.shape[0]
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "slowfast_maskrcnn_m_n" when the keys are theirs, in either naming; m and n follow from the kernels."""
    ours = to_ours(state)
    frames = []
    for pathway in ("slow", "fast"):
        layers = [ours.get(f"slow_fast.{pathway}{i}.conv.weight") for i in (1, 2, 3)]
        kernels = [layer.shape[2] for layer in layers if layer is not None and layer.ndim == 5]
        if len(kernels) < 3 or _BACKBONE not in ours:
            return None
        frames.append(sum(kernels) - 2)
    return f"slowfast_maskrcnn_{frames[0]}_{frames[1]}"
