"""Weights of others in our names: PySlowFast, PyTorchVideo, Caffe2, and ResNets trained on images.

Our names are PySlowFast's (`s4.pathway0_res3.branch2.a.weight`), so its checkpoints pass unchanged but for wrappers'
prefixes. PyTorchVideo's are a pure renaming. Caffe2 blobs also differ in shape: trailing ones are left out there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from twospeed.errors import CheckpointError

Source = Literal["pyslowfast", "pytorchvideo", "caffe2", "torchvision", "unknown"]
LITE = ("slowfast_lite0",)  # networks of `lite.py`, whose weights nobody else writes
WRAPPERS = ("module.", "model.")  # DistributedDataParallel, PyTorchVideo's detector and model zoo


def source_of(names: Mapping[str, object]) -> Source:
    """Return from its keys who wrote a state dict; `pyslowfast` is also what twospeed writes."""
    names = {strip_wrappers(name): value for name, value in names.items()}
    if any(re.match(r"s\d\.pathway\d_", name) for name in names):
        return "pyslowfast"
    if any(name.startswith("blocks.") for name in names):
        return "pytorchvideo"
    if "conv1_w" in names:
        return "caffe2"
    if "conv1.weight" in names and any(name.startswith("layer1.") for name in names):
        return "torchvision"
    return "unknown"


def strip_wrappers(name: str) -> str:
    """Remove the prefixes that wrapping modules put before every name."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


class Converted(dict[str, Tensor]):
    """A state dict in our names that remembers who wrote it, and how its authors average positions and views (see
    `SlowFast.average`)."""

    average: Literal["probabilities", "logits"] | None = None
    source: Source = "unknown"


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of PySlowFast, PyTorchVideo, Caffe2 or torchvision (image ResNets) to our names.

    Ours is returned unchanged. A name that the source's table does not have is kept as it is, so that the strict load
    reports it. Caffe2's momenta and counters are dropped. Arrays may be numpy's.
    """
    source = source_of(state)
    rename = RENAME.get(source)
    renamed = Converted()
    renamed.source = source
    if isinstance(state, Converted):
        renamed.average, renamed.source = state.average, state.source
    elif source == "pytorchvideo":
        renamed.average = "logits"  # its models end in a mean over positions, without softmax
    for name, value in state.items():
        if source == "caffe2" and (name.endswith("_momentum") or name in ("lr", "model_iter")):
            continue
        ours = strip_wrappers(name)
        if rename is not None:
            ours = rename(ours) or ours
        if ours in renamed:
            raise CheckpointError(f"two entries of the checkpoint both mean {ours!r} (one of them is {name!r})")
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        if source in ("caffe2", "torchvision"):
            tensor = _with_time(ours, tensor)
        renamed[ours] = tensor
    if source == "caffe2":  # counts of training steps are not in these files; evaluation does not use them
        for name in [name for name in renamed if name.endswith("running_var")]:
            counter = name.replace("running_var", "num_batches_tracked")
            renamed.setdefault(counter, torch.zeros((), dtype=torch.int64))
    return renamed


def _with_time(name: str, value: Tensor) -> Tensor:
    """Give a convolution's weight five dimensions, the head's two."""
    if name == "head.projection.weight":
        return value.flatten(1) if value[0].numel() == value.shape[1] else value
    if not name.endswith("weight") or value.ndim in (1, 5):
        return value
    if value.ndim == 4 and value.shape[-1] > 1:  # (out, in, H, W): an image kernel, one frame long
        return value.unsqueeze(2)
    return value.reshape(*value.shape, *[1] * (5 - value.ndim))


# ---------------------------------------------------------------------------------------------- PyTorchVideo

PYTORCHVIDEO_LAYERS = {
    "branch1_conv": "branch1",
    "branch1_norm": "branch1_bn",
    "branch2.conv_a": "branch2.a",
    "branch2.norm_a": "branch2.a_bn",
    "branch2.conv_b": "branch2.b",
    "branch2.norm_b": "branch2.b_bn",
    "branch2.conv_c": "branch2.c",
    "branch2.norm_c": "branch2.c_bn",
    "conv_fast_to_slow": "conv_f2s",
    "conv": "conv",
    "norm": "bn",
}


def _from_pytorchvideo(name: str) -> str | None:
    """`blocks.3.multipathway_blocks.1.res_blocks.0.branch2.conv_a.weight` -> `s4.pathway1_res0.branch2.a.weight`."""
    if match := re.fullmatch(r"(?:blocks\.[56]|detection_head)\.proj\.(weight|bias)", name):
        return f"head.projection.{match[1]}"
    match = re.fullmatch(
        r"blocks\.(?P<block>[0-4])\.(?P<path>multipathway_blocks\.(?P<pathway>\d)\.|multipathway_fusion\.|)"
        r"(?:res_blocks\.(?P<res>\d+)\.)?(?P<layer>[a-z_12.]+)\.(?P<kind>weight|bias|running_mean|running_var|"
        r"num_batches_tracked)",
        name,
    )
    if match is None or match["layer"] not in PYTORCHVIDEO_LAYERS:
        return None
    stage = f"s{int(match['block']) + 1}"
    layer = f"{PYTORCHVIDEO_LAYERS[match['layer']]}.{match['kind']}"
    if match["path"] == "multipathway_fusion.":
        return f"{stage}_fuse.{layer}"
    pathway = match["pathway"] or "0"  # a network of one pathway does not number it
    part = "stem" if match["res"] is None else f"res{match['res']}"
    return f"{stage}.pathway{pathway}_{part}.{layer}"


# ---------------------------------------------------------------------------------------------- Caffe2

# Longest first. Caffe2's running "inverse" variance is the variance itself, despite its name.
CAFFE2_KINDS = {
    "_bn_riv": "_bn.running_var",
    "_bn_rm": "_bn.running_mean",
    "_bn_s": "_bn.weight",
    "_bn_b": "_bn.bias",
    "_w": ".weight",
    "_b": ".bias",
}


def _from_caffe2(name: str) -> str | None:
    """`t_res4_5_branch2a_bn_s` -> `s4.pathway1_res5.branch2.a_bn.weight`; blob names of image ResNets alike."""
    kind = next((kind for kind in CAFFE2_KINDS if name.endswith(kind)), None)
    if kind is None:
        return None
    layer, suffix = name.removesuffix(kind), CAFFE2_KINDS[kind]
    pathway = int(layer.startswith("t_"))
    layer = layer.removeprefix("t_")
    if layer == "pred":
        return f"head.projection{suffix}"
    if layer in ("conv1", "res_conv1"):
        return f"s1.pathway{pathway}_stem." + (suffix.removeprefix("_") if "_bn" in suffix else f"conv{suffix}")
    if match := re.fullmatch(r"(?:pool1|res(\d)_\d+_branch2c_bn)_subsample", layer):
        return f"s{match[1] or 1}_fuse." + (suffix.removeprefix("_") if "_bn" in suffix else f"conv_f2s{suffix}")
    if match := re.fullmatch(r"res(\d)_(\d+)_branch1", layer):
        return f"s{match[1]}.pathway{pathway}_res{match[2]}.branch1{suffix}"
    if match := re.fullmatch(r"res(\d)_(\d+)_branch2([abc])", layer):
        return f"s{match[1]}.pathway{pathway}_res{match[2]}.branch2.{match[3]}{suffix}"
    if match := re.fullmatch(r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)", layer):
        return f"s{match[1]}.pathway{pathway}_nonlocal{match[2]}.conv_{match[3]}{suffix}"
    if (match := re.fullmatch(r"nonlocal_conv(\d)_(\d+)", layer)) and "_bn" in suffix:
        return f"s{match[1]}.pathway{pathway}_nonlocal{match[2]}.{suffix.removeprefix('_')}"
    return None


# ---------------------------------------------------------------------------------------------- torchvision

TORCHVISION_LAYERS = {
    "conv1": "branch2.a",
    "bn1": "branch2.a_bn",
    "conv2": "branch2.b",
    "bn2": "branch2.b_bn",
    "conv3": "branch2.c",
    "bn3": "branch2.c_bn",
    "downsample.0": "branch1",
    "downsample.1": "branch1_bn",
}


def _from_torchvision(name: str) -> str | None:
    """`layer3.0.conv1.weight` of an image ResNet -> `s4.pathway0_res0.branch2.a.weight`; strides agree (on b)."""
    if match := re.fullmatch(r"fc\.(weight|bias)", name):
        return f"head.projection.{match[1]}"
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"s1.pathway0_stem.{match[1]}.{match[2]}"
    match = re.fullmatch(r"layer([1-4])\.(\d+)\.((?:conv|bn)[123]|downsample\.[01])\.(\w+)", name)
    if match is None:
        return None
    return f"s{int(match[1]) + 1}.pathway0_res{match[2]}.{TORCHVISION_LAYERS[match[3]]}.{match[4]}"


RENAME: dict[Source, Callable[[str], str | None]] = {
    "pytorchvideo": _from_pytorchvideo,
    "caffe2": _from_caffe2,
    "torchvision": _from_torchvision,
}


# ---------------------------------------------------------------------------------------------- options


RES4_BLOCKS = {"r50": 6, "r101": 23}
DETECTOR_SUFFIX = "_ava"  # of names
DETECTOR_CLASSES = 80
CONTEXT = "head.context."


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Return the builder options that names and shapes of a state dict in OUR names determine.

    Also refuses, with the likely cause, weights that cannot fit `name`: other depth, a missing or additional pathway.
    Alpha, the non-local pooling and mode, and the sampling leave no trace: they come from the name or the caller.
    """
    head = state.get("head.projection.weight")
    stem = state.get("s1.pathway0_stem.conv.weight")
    if name in LITE and head is not None:
        return {"num_classes": head.shape[0]}
    if stem is None:
        return {}  # not a SlowFast checkpoint: the strict load lists what is missing
    depths = [_depth(state, stage, pathway=0) for stage in (2, 3, 4, 5)]
    _check_family(state, name, depths)
    two = "s1.pathway1_stem.conv.weight" in state
    options: dict[str, object] = {"width": stem.shape[0]}
    if head is not None:
        options["num_classes"] = head.shape[0]
    temporal = [_temporal_blocks(state, 4, pathway) for pathway in range(1 + two)]
    options["res4_temporal_blocks"] = temporal[0] if len(set(temporal)) == 1 else tuple(temporal)
    for stage in (3, 4):
        options[f"nonlocal_res{stage}"] = _nonlocal_positions(state, stage)
    if two:
        options |= _fusion(state)
    if isinstance(state, Converted) and state.average is not None:
        options["average"] = state.average
    if name.endswith(DETECTOR_SUFFIX):
        options |= _detector(state)
    return options


def _detector(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Options of `detection.RegionHead`: whether it has a context branch, and whose alignment it learned."""
    options: dict[str, object] = {"context": any(key.startswith(CONTEXT) for key in state)}
    if (phi := state.get(f"{CONTEXT}phi.weight")) is not None:
        options["context_channels"] = phi.shape[0]
    if isinstance(state, Converted) and state.source in ("pytorchvideo", "caffe2"):
        options["weights_from"] = state.source
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Guess the catalogue name of a state dict in any naming; None when it is not a video network of this family.

    Shapes cannot tell 16x8 from 8x8 with ResNet-101, nor the Slow-only samplings apart: the 8x8 names are returned.
    With ResNet-50 a fusion kernel of 7 means 8x8, of 5 means 4x16, as in the releases.
    """
    if "slow.stem.weight" in state and "lateral.conv_f2s.weight" in state:
        return LITE[0]
    if source_of(state) not in ("pyslowfast", "pytorchvideo", "caffe2"):
        return None
    ours = to_ours(state)
    stem = ours.get("s1.pathway0_stem.conv.weight")
    if stem is None or stem.ndim != 5 or _depth(ours, 4, pathway=0) not in RES4_BLOCKS.values():
        return None
    depth = "r50" if _depth(ours, 4, pathway=0) == RES4_BLOCKS["r50"] else "r101"
    suffix = "_nl" if any("nonlocal" in key for key in ours) else ""
    detector = DETECTOR_SUFFIX if _is_detector(state, ours) else ""
    if "s1.pathway1_stem.conv.weight" in ours:
        fuse = ours.get("s1_fuse.conv_f2s.weight")
        clip = "4x16" if depth == "r50" and fuse is not None and fuse.shape[2] == 5 else "8x8"
        return f"slowfast_{depth}_{clip}{suffix}{detector}"
    if stem.shape[2] > 1:
        return f"fast_r101_32x2{suffix}{detector}" if depth == "r101" else None
    return f"slow_r50_8x8{detector}" if depth == "r50" and not suffix else None


def mistaken(state: Mapping[str, Tensor], name: str) -> str | None:
    """Return which model a published file is of where its shapes fit `name`, too, but its sampling is another.

    SlowFast 4x16 and 8x8 with ResNet-50 differ in the kernel of their released lateral connections alone.
    """
    found = recognise(state)
    pair = ("slowfast_r50_4x16", "slowfast_r50_8x8")
    return found if found != name and found in pair and name in pair else None


def _is_detector(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> bool:
    """Recognise a region head by its name, or by the number of its classes: res5's stride leaves no trace."""
    if any("detection_head" in key or key.startswith(CONTEXT) for key in state):
        return True
    head = ours.get("head.projection.weight")
    return head is not None and head.shape[0] == DETECTOR_CLASSES


def _depth(state: Mapping[str, Tensor], stage: int, pathway: int) -> int:
    pattern = re.compile(rf"s{stage}\.pathway{pathway}_res(\d+)\.")
    return max((int(match[1]) + 1 for key in state if (match := pattern.match(key))), default=0)


def _temporal_blocks(state: Mapping[str, Tensor], stage: int, pathway: int) -> int:
    """Count the blocks with a temporal kernel; they lead the stage, else the strict load names the others."""
    keys = (f"s{stage}.pathway{pathway}_res{i}.branch2.a.weight" for i in range(_depth(state, stage, pathway)))
    return sum(key in state and state[key].shape[2] > 1 for key in keys)


def _nonlocal_positions(state: Mapping[str, Tensor], stage: int) -> tuple[int, ...]:
    pattern = re.compile(rf"s{stage}\.pathway0_nonlocal(\d+)\.")
    return tuple(sorted({int(match[1]) for key in state if (match := pattern.match(key))}))


def _fusion(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Recognise the lateral connections by the fused channels that enter res2."""
    slow = state["s1.pathway0_stem.conv.weight"].shape[0]
    fast = state["s1.pathway1_stem.conv.weight"].shape[0]
    options: dict[str, object] = {"beta_inverse": slow // fast}
    entering = state.get("s2.pathway0_res0.branch2.a.weight")
    added = None if entering is None else entering.shape[1] - slow
    if added is not None:
        options["fusion_merge"] = "sum" if added == 0 else "concatenate"
    conv = state.get("s1_fuse.conv_f2s.weight")
    if conv is not None:
        options["fusion"] = "time_strided_conv"
        options["fusion_kernel"] = conv.shape[2]
        options["fusion_channel_ratio"] = conv.shape[0] // fast
    elif added == fast:
        options["fusion"] = "time_strided_sample"
    elif added is not None:
        options["fusion"] = "time_to_channel"
        options["alpha"] = (added or slow) // fast
    return options


def _check_family(state: Mapping[str, Tensor], name: str, depths: list[int]) -> None:
    """Refuse weights of another network than the name's, saying which they are."""
    two = "s1.pathway1_stem.conv.weight" in state
    alone = "fast" if state["s1.pathway0_stem.conv.weight"].shape[2] > 1 else "slow"
    kind = "slowfast" if two else alone
    wanted = name.split("_")[0]
    if wanted in ("slowfast", "slow", "fast") and kind != wanted:
        found = "both pathways" if two else f"the {alone.capitalize()} pathway alone"
        raise CheckpointError(f"these weights hold {found}; {name} does not: choose a name that starts with {kind}_")
    for label, other in (("r50", "r101"), ("r101", "r50")):
        blocks = RES4_BLOCKS[label]
        if f"_{label}_" in name and depths[2] == RES4_BLOCKS[other]:
            raise CheckpointError(
                f"these weights have {depths[2]} blocks in res4, {name} has {blocks}: choose the {other} name"
            )
