"""All that leaves a run of masks beside label PNGs and the overlay: exports, mattes, videos with objects hidden."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.output.censor import (
    blur_objects,
    fitted_background,
    pixelate_objects,
    read_background,
    replace_background,
)
from twospeed.output.exports import EXPORTS, Export, check_formats
from twospeed.output.matte import matte, premultiplied, write_exr
from twospeed.output.run import Run, frame_name
from twospeed.results import AnnotatedFrame, Frame, ObjectMasks
from twospeed.video.image_files import encoded
from twospeed.video.writer import Alpha

MatteFormat = Literal["prores4444", "webm", "png", "exr"]

_SUFFIXES = {"prores4444": ".mov", "webm": ".webm", "png": ".png", "exr": ".exr"}


@dataclass(frozen=True)
class MaskOutputSettings:
    """What is wanted. exports: names of formats, of `EXPORTS`. export_images: the frames as JPEG beside them.

    matte: format of the objects with alpha. matte_alpha: None is what the format's readers expect, premultiplied for
    exr, else straight. matte_layers: one matte for each object. remove_background: a colour or an image file to put
    behind the objects. Raises InputError for what is not known.
    """

    exports: tuple[str, ...] = ()
    export_images: bool = False
    matte: MatteFormat | None = None
    matte_alpha: Alpha | None = None
    matte_layers: bool = False
    blur: bool = False
    pixelate: bool = False
    remove_background: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "exports", check_formats(self.exports))
        if self.remove_background is not None:
            read_background(self.remove_background)
        for name in ("matte_alpha", "matte_layers"):
            if getattr(self, name) and self.matte is None:
                raise InputError("mattes are described but none is asked for", option="matte")

    @property
    def options(self) -> dict[str, Any]:
        """The settings that differ from their defaults, for the record of a run."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def inputs(self) -> list[Path]:
        """Files that are read."""
        image = self.remove_background
        return [Path(image)] if image is not None and Path(image).is_file() else []

    @property
    def needs_probabilities(self) -> bool:
        """Whether labels alone are not enough."""
        return self.matte is not None or self.remove_background is not None

    @property
    def patterns(self) -> list[str]:
        """Names of the files that will be written into the run's folder."""
        names = [f"exports/{pattern}" for name in self.exports for pattern in EXPORTS[name].patterns]
        names += ["exports/images/*.jpg"] if self.export_images else []
        names += ["blurred.mp4"] if self.blur else []
        names += ["pixelated.mp4"] if self.pixelate else []
        names += ["background.mp4"] if self.remove_background is not None else []
        if self.matte is not None:
            several = self.matte_layers or self.matte in ("png", "exr")
            names.append(f"matte/*{_SUFFIXES[self.matte]}" if several else f"matte{_SUFFIXES[self.matte]}")
        return names


class MaskOutputs:
    """Writes what the settings want into a run's folder, frame by frame, at constant memory.

    video: a short name of the source. image_suffix: of its images. rate: frames per second. To be used as a context
    manager around the run's loop; when the run ends, files are complete for the frames that are done.
    """

    def __init__(
        self, settings: MaskOutputSettings, run: Run, *, video: str, rate: Any, image_suffix: str = ".jpg"
    ) -> None:
        self._settings, self._run, self._video, self._rate = settings, run, video, rate
        self._suffix = ".jpg" if settings.export_images else image_suffix
        self._stack = ExitStack()
        self._exports: list[Export] | None = None
        self._times = array("d")  # of the frames so far: a layer begins with the video, whenever its object appears
        self._layers: set[int] = set()
        self._background: NDArray[np.uint8] | None = None
        run.at_end(self.close)

    def add(self, frame: Frame, masks: ObjectMasks) -> None:
        """Take the next frame, whose labels the run has written."""
        wanted, image, name = self._settings, frame.image, frame_name(frame)
        if self._exports is None:
            self._exports = [
                self._stack.enter_context(EXPORTS[each](self._file, self._suffix)) for each in wanted.exports
            ]
        for export in self._exports:
            export.add(AnnotatedFrame(self._video, name, frame.index, masks))
        if wanted.export_images:
            self._write_image(f"exports/images/{name}.jpg", image, cv2.IMWRITE_JPEG_QUALITY, 95)
        if wanted.blur:
            self._write_video("blurred.mp4", blur_objects(image, masks), frame.time_s)
        if wanted.pixelate:
            self._write_video("pixelated.mp4", pixelate_objects(image, masks), frame.time_s)
        if wanted.remove_background is not None:
            if self._background is None:
                self._background = fitted_background(read_background(wanted.remove_background), *image.shape[:2])
            self._write_video("background.mp4", replace_background(image, masks, self._background), frame.time_s)
        if wanted.matte is not None:
            self._add_matte(frame, masks, name)
        self._times.append(frame.time_s)

    def close(self) -> None:
        """Complete the exports. Closing twice does nothing."""
        self._stack.close()

    def __enter__(self) -> MaskOutputs:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _file(self, name: str) -> Any:
        assert self._run.folder is not None
        return self._run.folder.file(f"exports/{name}")

    def _add_matte(self, frame: Frame, masks: ObjectMasks, name: str) -> None:
        suffix = _SUFFIXES[str(self._settings.matte)]
        if not self._settings.matte_layers:
            file = f"matte/{name}{suffix}" if suffix in (".png", ".exr") else f"matte{suffix}"
            self._write_matte(file, matte(frame.image, masks), frame.time_s)
            return
        for object_id in masks.object_ids:
            stem = f"matte/object_{object_id}"
            if suffix not in (".png", ".exr") and object_id not in self._layers:
                for time_s in self._times:
                    self._write_matte(f"{stem}{suffix}", np.zeros((*frame.image.shape[:2], 4), np.uint8), time_s)
            self._layers.add(object_id)
            file = f"{stem}_{name}{suffix}" if suffix in (".png", ".exr") else f"{stem}{suffix}"
            self._write_matte(file, matte(frame.image, masks, object_id), frame.time_s)

    def _write_matte(self, name: str, rgba: NDArray[np.uint8], time_s: float) -> None:
        assert self._run.folder is not None
        exr = name.endswith(".exr")
        wanted = self._settings.matte_alpha or ("premultiplied" if exr else "straight")
        if exr:
            with self._run.folder.file(name) as path:
                write_exr(path, rgba, premultiply=wanted == "premultiplied")
            return
        stored = premultiplied(rgba) if wanted == "premultiplied" else rgba
        if name.endswith(".png"):
            self._write_image(name, stored, cv2.IMWRITE_PNG_COMPRESSION, 3)
        else:  # what is stored is what is given: the writer itself would make straight colours of it
            self._run.write_video(name, stored, time_s, self._rate, alpha="straight")

    def _write_video(self, name: str, image: NDArray[np.uint8], time_s: float) -> None:
        self._run.write_video(name, image, time_s, self._rate)

    def _write_image(self, name: str, image: NDArray[np.uint8], parameter: int, value: int) -> None:
        assert self._run.folder is not None
        with self._run.folder.file(name) as path:
            path.write_bytes(encoded(image, Path(name).suffix, parameter, value))
