"""`python -m twospeed.app.exporting`: write a project's masks as files, in a process of its own.

Reads {project, source, as, first, last, objects} as JSON from standard input, prints progress as JSON lines.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app.store import Project
from twospeed.errors import InputError, TwospeedError
from twospeed.files import atomic_file, make_folder
from twospeed.results import AnnotatedFrame, Frame, ObjectMasks


@dataclass(frozen=True)
class Export:
    """What is exported: the chosen objects on frames first..last."""

    project: Project
    source: Path
    first: int
    last: int
    objects: frozenset[int]
    options: dict[str, Any]

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame's labels, of the chosen objects alone."""
        labels = self.project.labels(frame)
        return np.where(np.isin(labels, list(self.objects)), labels, 0).astype(np.uint8)

    def colours(self) -> NDArray[np.uint8]:
        """Return the objects' colours as the page shows them: uint8 (256, 3) by label."""
        colours = np.zeros((256, 3), np.uint8)
        for entry in self.project.objects():
            colours[entry["id"]] = list(bytes.fromhex(entry["colour"][1:]))
        return colours

    def results(self) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Yield frames with their masks, and report each."""
        from twospeed.video.reader import open_video

        with open_video(self.source, self.first, self.last + 1) as frames:
            for frame in frames:
                yield frame, self._result(frame.index, frame.time_s)

    def masks(self) -> Iterator[tuple[int, ObjectMasks]]:
        """Yield masks without decoding the video."""
        for index in range(self.first, self.last + 1):
            yield index, self._result(index, 0.0)

    def _result(self, index: int, time_s: float) -> ObjectMasks:
        print(json.dumps({"done": index - self.first, "total": self.last - self.first + 1}), flush=True)
        ids = tuple(sorted(self.objects))
        labels = self.labels(index)
        planes = np.stack([labels == i for i in (0, *ids)]).astype(np.float32)
        mask = self.project.mask(index)
        known = {} if mask is None else mask.confidence
        confidence = np.array([known.get(i, 1.0) for i in ids], np.float32)
        return ObjectMasks(labels, planes, ids, index, time_s, confidence)


def _annotations(export: Export, path: Path) -> None:
    """Write a format of `output.exports`: its one file, or a zip of its files."""
    from twospeed.output.exports import EXPORTS

    kind = EXPORTS[export.options["as"]]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as name:
        folder = Path(name)

        def within(part: str) -> AbstractContextManager[Path]:
            make_folder((folder / part).parent)
            return atomic_file(folder / part)

        video = Path(export.project.get("name")).stem if kind.several_videos and export.options["as"] != "png" else ""
        with kind(within) as writer:
            for index, result in export.masks():
                writer.add(AnnotatedFrame(video, f"{index:05d}", index, result))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if len(kind.patterns) == 1 and "*" not in kind.patterns[0]:
            files[0].replace(path)
            return
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder).as_posix())


def _overlay(export: Export, path: Path) -> None:
    from twospeed.output.overlay import draw_masks

    colours = export.colours()
    _video(export, path, lambda image, result: draw_masks(image, result.labels, colours=colours), audio=True)


def _matte(export: Export, path: Path) -> None:
    def grey(image: NDArray[np.uint8], result: ObjectMasks) -> NDArray[np.uint8]:
        return np.repeat(_alpha(result, export)[..., None], 3, axis=2)

    _video(export, path, grey)


def _cutout(export: Export, path: Path) -> None:
    from twospeed.output.matte import foreground, matte

    def cut(image: NDArray[np.uint8], result: ObjectMasks) -> NDArray[np.uint8]:
        if export.options["soft"]:
            return matte(image, _labels_alone(result))
        alpha = _alpha(result, export)
        return np.dstack([foreground(image, (alpha / 255).astype(np.float32)), alpha])

    _video(export, path, cut, alpha="straight")


def _alpha(result: ObjectMasks, export: Export) -> NDArray[np.uint8]:
    from twospeed.output.matte import alpha_of

    if export.options["soft"]:
        return np.round(alpha_of(_labels_alone(result)) * 255).astype(np.uint8)
    return np.where(result.labels > 0, 255, 0).astype(np.uint8)


def _labels_alone(result: ObjectMasks) -> ObjectMasks:
    """Probabilities are not stored: edges are smoothed from labels."""
    return replace(result, probabilities=np.zeros((0, *result.labels.shape), np.float32))


def _video(
    export: Export, path: Path, draw: Callable[..., NDArray[np.uint8]], *, audio: bool = False, alpha: Any = None
) -> None:
    from twospeed.video.writer import VideoWriter

    source = export.source if export.source.is_file() and audio else None
    times = np.frombuffer(base64.b64decode(export.project.get("times_s")), "<f8")
    rate = float(1 / np.median(np.diff(times))) if len(times) > 1 else None
    with VideoWriter(path, rate, audio_from=source, alpha=alpha) as writer:
        for frame, result in export.results():
            writer.write(draw(frame.image, result), frame.time_s)


FORMATS: dict[str, tuple[str, str, Callable[[Export, Path], None]]] = {
    "png": ("masks.zip", "palette PNGs, for --mask of the command line", _annotations),
    "overlay": ("overlay.mp4", "overlay video, with sound", _overlay),
    "prores": ("cutout.mov", "cut-out with alpha, ProRes 4444", _cutout),
    "webm": ("cutout.webm", "cut-out with alpha, WebM VP9", _cutout),
    "matte": ("matte.mp4", "matte video, white on black", _matte),
    "coco": ("coco.json", "COCO, run lengths in JSON", _annotations),
    "youtube-vis": ("youtube_vis.json", "YouTube-VIS JSON", _annotations),
    "davis": ("davis.zip", "DAVIS submission", _annotations),
    "youtube-vos": ("youtube_vos.zip", "YouTube-VOS submission", _annotations),
    "yolo-seg": ("yolo.zip", "YOLO polygons", _annotations),
    "cvat": ("cvat.xml", "CVAT for images", _annotations),
    "labelme": ("labelme.zip", "labelme JSON", _annotations),
}
"""What can be exported: file name, words for people, writer."""


def _main() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    asked = json.loads(sys.stdin.read())
    try:
        project = Project(Path(asked["project"]), only_read=True)
        objects = frozenset(asked["objects"])
        if not objects:
            raise InputError("there is no object to export; mark one first")
        _, _, write = FORMATS[asked["as"]]
        folder = make_folder(project.folder / "exports")
        target = folder / asked["file"]
        export = Export(project, Path(asked["source"]), asked["first"], asked["last"], objects, asked["options"])
        with atomic_file(target) as temporary:
            write(export, temporary)
        print(json.dumps({"file": target.name}), flush=True)
    except TwospeedError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    _main()
