"""Where GSVNet's three networks meet: keyframe, flow and propagation, built together and loaded from separate files.

Model families do not know each other, so what joins SwiftNet or BiSeNet with a flow network and the propagation is
here. In the joint state dict their keys begin with `keyframe_network.`, `flow_network.`, or, for the propagation, with
neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack

from torch import Tensor, nn

from twospeed.errors import CheckpointError
from twospeed.models.bisenet import convert as bisenet_convert
from twospeed.models.bisenet.builders import bisenet_r18
from twospeed.models.flow import convert as flow_convert
from twospeed.models.flow.builders import FlowName, flow_network
from twospeed.models.gsv import convert as gsv_convert
from twospeed.models.gsv.builders import Options, gsvnet
from twospeed.models.gsv.network import GSVNet
from twospeed.models.pixels import IMAGENET_MEAN, IMAGENET_STD, SWIFTNET_MEAN, SWIFTNET_STD, InputOrder
from twospeed.models.swiftnet import convert as swiftnet_convert
from twospeed.models.swiftnet import convert_nano as swiftnet_nano_convert
from twospeed.models.swiftnet.builders import swiftnet_nano, swiftnet_r18
from twospeed.models.swiftnet.nano import NANO_MEAN, NANO_STD
from twospeed.weights.imports import read_state, unwrap
from twospeed.weights.store import local_file

PARTS = ("keyframe", "flow", "propagation")
OVERRIDABLE = ("pixel_mean", "pixel_std", "keyframe_network.pixel_mean", "keyframe_network.pixel_std")
_KEYFRAME, _FLOW = "keyframe_network.", "flow_network."
_OTHER_ORDER: dict[InputOrder, InputOrder] = {"rgb": "bgr", "bgr": "rgb"}
_NO_KEYFRAME = (
    "GSVNet's propagation file holds no keyframe network; give that network's own file as keyframe_weights, as in "
    'create_model("gsvnet_swiftnet_r18", FILE, keyframe_weights=FILE)'
)
_KEYFRAME_CONVERTERS: Mapping[str, ModuleType] = {
    "gsvnet_swiftnet_r18": swiftnet_convert,
    "gsvnet_bisenet_r18": bisenet_convert,
    "segment_nano": swiftnet_nano_convert,
}


def gsvnet_swiftnet_r18(num_classes: int = 19, *, flow: FlowName = "light", **options: Unpack[Options]) -> GSVNet:
    """Build GSVNet with SwiftNet-R18 on keyframes: 47.2 MB and, with the light flow network, 1.6 MB more."""
    options = _with_values(options, SWIFTNET_MEAN, SWIFTNET_STD)
    return _around(swiftnet_r18, num_classes, flow, options, _OTHER_ORDER[options["input_order"]])


def gsvnet_bisenet_r18(num_classes: int = 19, *, flow: FlowName = "light", **options: Unpack[Options]) -> GSVNet:
    """Build GSVNet with BiSeNet-R18 on keyframes."""
    options = _with_values(options, IMAGENET_MEAN, IMAGENET_STD)
    return _around(bisenet_r18, num_classes, flow, options, _OTHER_ORDER[options["input_order"]])


def segment_nano(num_classes: int = 11, *, flow: FlowName = "light", **options: Unpack[Options]) -> GSVNet:
    """Build the small GSVNet of our own training: 4.1 million parameters, RGB throughout.

    Keyframes are enlarged by a third: poles three pixels wide are lost at a quarter of 480 x 360. fine=False puts the
    published propagation around its image network, instead of our finer one.
    """
    options = _with_values({"keyframe_scale": 4 / 3, "input_order": "rgb", **options}, NANO_MEAN, NANO_STD)
    options.setdefault("fine", True)
    return _around(swiftnet_nano, num_classes, flow, options, options["input_order"])


def _around(keyframe: Any, num_classes: int, flow: FlowName, options: Options, input_order: InputOrder) -> GSVNet:
    """Build a GSVNet around the keyframe network of a builder, which sees images in this order of channels."""
    pixels = {"pixel_mean": options["pixel_mean"], "pixel_std": options["pixel_std"], "input_order": input_order}
    return gsvnet(keyframe(num_classes, **pixels), flow_network(flow), num_classes, **options)


def _with_values(options: Options, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Options:
    order = options.get("input_order", "bgr")
    if order not in _OTHER_ORDER:
        raise ValueError(f"input_order is {order!r}; choose 'rgb' or 'bgr'")
    return {"pixel_mean": mean, "pixel_std": std, **options, "input_order": order}


def join_parts(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the three networks' weights, each a path or a state dict in either naming, into one state dict.

    The authors' propagation file (`.tar`) brings its flow network; `flow` may then be left out. A part that is None
    keeps its initial values: that is how a training starts. Raises CheckpointError for parts that are missing or
    unknown.
    """
    if unknown := [name for name in weights if name not in PARTS]:
        raise CheckpointError(f"weights for {', '.join(map(repr, unknown))}; the parts are {', '.join(PARTS)}")
    states = {name: None if source is None else _read(source) for name, source in weights.items()}
    joined: dict[str, Tensor] = {}
    propagation = states.get("propagation") or {}
    has_flow = any(name.startswith(_FLOW) for name in propagation)
    if missing := [name for name in PARTS if name not in weights and not (name == "flow" and has_flow)]:
        raise CheckpointError(
            f"weights give no {' and no '.join(missing)}; give a file or a state dict for each of "
            f"{', '.join(PARTS)} (None leaves a part at its initial values)"
        )
    joined |= propagation
    for name, prefix in (("keyframe", _KEYFRAME), ("flow", _FLOW)):
        if (state := states.get(name)) is not None:
            joined = {key: value for key, value in joined.items() if not key.startswith(prefix)}
            joined |= {prefix + key.removeprefix(prefix): value for key, value in state.items()}
    return joined


def _read(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(source, str | Path):
        return read_state(local_file(source))[0]
    return unwrap(source, "the state dict")


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Take a joint state dict apart: keyframe network, flow network, propagation; prefixes are taken off."""
    parts: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
    for name, value in state.items():
        for prefix, part in zip((_KEYFRAME, _FLOW, ""), parts, strict=True):
            if name.startswith(prefix):
                part[name.removeprefix(prefix)] = value
                break
    return parts


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of each part by its family's rules; keys in our naming pass unchanged.

    The propagation's own mean and std, which the authors' files do not hold, are those of the keyframe network.
    """
    keyframe, flow, propagation = split(state)
    family = _family(keyframe)
    if family is not None:
        keyframe = _KEYFRAME_CONVERTERS[family].to_ours(keyframe)
        if family == "gsvnet_bisenet_r18":
            # Their keyframe network was frozen: the auxiliary heads of its own training play no part here
            keyframe = {name: value for name, value in keyframe.items() if not name.startswith("auxiliary_heads.")}
    propagation = gsv_convert.to_ours(propagation)
    for name in ("pixel_mean", "pixel_std"):
        if propagation and name in keyframe:
            propagation.setdefault(name, keyframe[name])
    return {
        **{_KEYFRAME + name: value for name, value in keyframe.items()},
        **{_FLOW + name: value for name, value in flow_convert.to_ours(flow).items()},
        **propagation,
    }


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that a joint state in our naming determines."""
    keyframe, flow, propagation = split(state)
    options: dict[str, object] = gsv_convert.options_from(propagation) if propagation else {}
    if (kind := flow_convert.name_of(flow)) is not None:
        options["flow"] = kind
    classes = _KEYFRAME_CONVERTERS[name].options_from(keyframe, name).get("num_classes") if keyframe else None
    if classes is not None and options.setdefault("num_classes", classes) != classes:
        raise CheckpointError(
            f"the keyframe network has {classes} classes, the propagation {options['num_classes']}; "
            "they were trained on different data sets"
        )
    return options


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "gsvnet_swiftnet_r18", "gsvnet_bisenet_r18" or "segment_nano" for a joint state dict.

    Raises CheckpointError for the authors' propagation file, which holds no keyframe network.
    """
    keyframe, _, propagation = split(state)
    if not {"delays", "guide.encode.conv.weight", "mix.weight"} & set(gsv_convert.to_ours(propagation)):
        return None
    if not keyframe:
        raise CheckpointError(_NO_KEYFRAME)
    return _family(keyframe)


def _family(keyframe: Mapping[str, Tensor]) -> str | None:
    for name, converter in _KEYFRAME_CONVERTERS.items():
        if converter.recognise(keyframe) is not None:
            return name
    return None


def complete(network: nn.Module, state: dict[str, Tensor], parts: Mapping[str, Any]) -> None:
    """Fill in the initial values of the parts that are given as None, so that loading stays strict for the others.

    Raises CheckpointError for the authors' propagation file without a keyframe network.
    """
    if "keyframe" not in parts and not any(name.startswith(_KEYFRAME) for name in state):
        raise CheckpointError(_NO_KEYFRAME)
    initial = dict(zip(PARTS, split(network.state_dict()), strict=True))
    for name, prefix in zip(PARTS, (_KEYFRAME, _FLOW, ""), strict=True):
        if name in parts and parts[name] is None:
            for key, value in initial[name].items():
                state.setdefault(prefix + key, value)
