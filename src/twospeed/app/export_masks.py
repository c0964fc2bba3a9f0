"""Exports of a project's masks: annotations, overlays, and objects cut out of their background."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app.store import Project
from twospeed.output.censor import blur_objects, pixelate_objects, read_background, replace_background
from twospeed.output.exports import EXPORTS, files_in
from twospeed.output.matte import foreground, matte, premultiplied, write_exr
from twospeed.output.overlay import draw_masks
from twospeed.results import AnnotatedFrame, Frame, ObjectMasks
from twospeed.video.colours import BT709
from twospeed.video.image_files import encoded
from twospeed.video.reader import open_video
from twospeed.video.writer import VideoWriter

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Export:
    """What is exported: the chosen objects on frames first..last."""

    project: Project
    source: Path
    first: int
    last: int
    objects: frozenset[int]
    options: dict[str, Any]

    def time_of(self, frame: int) -> float:
        """Return a frame's time in seconds."""
        return float(self.project.times[frame])

    def colours(self) -> NDArray[np.uint8]:
        """Return the objects' colours as the page shows them: uint8 (256, 3) by label."""
        colours = np.zeros((256, 3), np.uint8)
        for entry in self.project.objects():
            colours[entry["id"]] = list(bytes.fromhex(entry["colour"][1:]))
        return colours

    def results(self) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Yield frames with their masks, and report each."""
        with open_video(self.source, self.first, self.last + 1) as frames:
            for frame in frames:
                yield frame, self._result(frame.index)

    def masks(self) -> Iterator[tuple[int, ObjectMasks]]:
        """Yield masks without decoding the video."""
        for index in range(self.first, self.last + 1):
            yield index, self._result(index)

    def _result(self, index: int) -> ObjectMasks:
        print(json.dumps({"done": index - self.first, "total": self.last - self.first + 1}), flush=True)
        return self.project.object_masks(index, self.objects)


def annotation_files(export: Export, path: Path) -> None:
    """Write a format of `output.exports`: its one file, or a zip of its files."""
    kind = EXPORTS[export.options["as"]]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as name:
        folder = Path(name)
        video = Path(export.project.get("name")).stem if kind.several_videos and export.options["as"] != "png" else ""
        with kind(files_in(folder)) as writer:
            for index, result in export.masks():
                writer.add(AnnotatedFrame(video, f"{index:05d}", index, result))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if kind.is_one_file():
            files[0].replace(path)
            return
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder).as_posix())


def overlay(export: Export, path: Path) -> None:
    """Write the video with masks drawn on it."""
    colours = export.colours()
    write_video(export, path, lambda image, result: draw_masks(image, result.labels, colours=colours), audio=True)


def background(export: Export, path: Path) -> None:
    """Write the objects before a colour."""
    colour = read_background(export.options["background"])

    def replaced(image: Image, result: ObjectMasks) -> Image:
        return replace_background(image, result, np.broadcast_to(colour, image.shape))

    write_video(export, path, replaced, audio=True)


def grey_matte(export: Export, path: Path) -> None:
    """Write alpha as a grey video."""

    def grey(image: Image, result: ObjectMasks) -> Image:
        return np.repeat(_cut(export, image, result)[..., 3:], 3, axis=2)

    write_video(export, path, grey)


def cutout(export: Export, path: Path) -> None:
    """Write the objects with alpha: one video, or a zip of one for each object."""
    if not export.options["layers"]:
        write_video(export, path, lambda image, result: _cut(export, image, result), alpha="straight")
        return
    suffix = {"prores": ".mov", "webm": ".webm"}[export.options["as"]]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as name, ExitStack() as stack:
        files = {i: Path(name) / f"object_{i}{suffix}" for i in sorted(export.objects)}
        writers = {i: stack.enter_context(_writer(export, file, alpha="straight")) for i, file in files.items()}
        for frame, result in export.results():
            for i, writer in writers.items():
                writer.write(_cut(export, frame.image, result, i), frame.time_s)
        stack.close()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in files.values():
                archive.write(file, file.name)


def cutout_images(export: Export, path: Path) -> None:
    """Write a zip of PNG or OpenEXR images with alpha."""
    exr = export.options["as"] == "exr"
    layers = sorted(export.objects) if export.options["layers"] else [None]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, result in export.results():
            for layer in layers:
                folder = "" if layer is None else f"object_{layer}/"
                rgba = _cut(export, frame.image, result, layer, stored=not exr)
                if exr:
                    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as name:
                        file = Path(name) / "image.exr"
                        write_exr(file, rgba, premultiply=True)  # as OpenEXR's readers expect
                        archive.write(file, f"{folder}{frame.index:05d}.exr")
                    continue
                archive.writestr(f"{folder}{frame.index:05d}.png", encoded(rgba, ".png"))


def _cut(
    export: Export, image: Image, result: ObjectMasks, object_id: int | None = None, *, stored: bool = True
) -> Image:
    """Return one object, or all, as RGBA. stored: premultiplied where that is wanted."""
    if export.options["soft"]:
        rgba = matte(image, result, object_id)
    else:
        inside = result.labels == object_id if object_id is not None else result.labels > 0
        alpha = inside.astype(np.float32)
        rgba = np.dstack([foreground(image, alpha), np.where(inside, 255, 0).astype(np.uint8)])
    return premultiplied(rgba) if stored and export.options["premultiplied"] else rgba


def write_video(
    export: Export, path: Path, draw: Callable[..., Image], *, audio: bool = False, alpha: Any = None
) -> None:
    """Write what is drawn of each frame with its masks as a video, with the source's times, and its sound if wanted."""
    with _writer(export, path, audio=audio, alpha=alpha) as writer:
        for frame, result in export.results():
            writer.write(draw(frame.image, result), frame.time_s)


def _writer(export: Export, path: Path, *, audio: bool = False, alpha: Any = None) -> VideoWriter:
    source = export.source if export.source.is_file() and audio else None
    times = export.project.times
    rate = float(1 / np.median(np.diff(times))) if len(times) > 1 else None
    with open_video(export.source, ahead=0) as reader:
        colours = reader.info.colours or BT709
    return VideoWriter(path, rate, audio_from=source, alpha=alpha, colours=colours)


blurred = partial(write_video, draw=blur_objects, audio=True)
pixelated = partial(write_video, draw=pixelate_objects, audio=True)
