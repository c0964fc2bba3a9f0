"""What tests of recipes share: a rendered data set, and whether a resumed run is the run it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import load_file

from twospeed.data.clips.synthetic import render_clip


def write_davis(root: Path, *, size: str, frames: int, height: int, width: int) -> Path:
    """Write five rendered sequences in the layout of DAVIS-2016, without lists. size: the folder's name."""
    for number, name in enumerate(["ant", "bee", "cat", "dog", "eel"]):
        images, masks = root / "JPEGImages" / size / name, root / "Annotations" / size / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (image, labels) in enumerate(render_clip(number, frames=frames, height=height, width=width, objects=1)):
            cv2.imwrite(str(images / f"{t:05d}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(masks / f"{t:05d}.png"), labels * 255)
    return root


def check_resumed_equals_whole(train: Callable[..., Path], config: Any, halves: Path) -> None:
    """Train into `config.out`, and with an interruption after two steps into `halves`: the weights must be equal."""
    whole = load_file(train(config) / "weights.safetensors")
    stopped = dataclasses.replace(config, out=halves, stop_after_steps=2)
    train(stopped)
    train(dataclasses.replace(stopped, stop_after_steps=None), resume=True)
    for name, value in load_file(halves / "weights.safetensors").items():
        assert torch.equal(value, whole[name]), name
