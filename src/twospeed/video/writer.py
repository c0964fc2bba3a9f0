"""Write a video that plays everywhere: H.264, yuv420p, index first; or one with alpha for editors and web pages.

with VideoWriter("overlay.mp4", rate=reader.info.frame_rate) as writer:
    for frame in reader:
        writer.write(draw(frame.image), frame.time_s)
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from twospeed.errors import InputError, OutputError
from twospeed.files import atomic_file
from twospeed.results import ColourTags
from twospeed.video.audio import AudioTrack
from twospeed.video.colours import BT709, scaler_matrix
from twospeed.video.containers import ASSUMED_RATE

logger = logging.getLogger(__name__)

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
ALPHA_FORMATS = {".mov": "mov", ".webm": "webm"}

Alpha = Literal["straight", "premultiplied"]

_LONGEST_FRAME = 1 << 28  # ticks, most of an hour; MP4 holds eight times that, and frames are reordered


class VideoWriter:
    """Encode frames one by one into a file that appears, whole, when the writer is closed.

    path: .mp4, .m4v, .mov or .mkv; its folder must exist. rate: frames per second (25 if None), used for frames that
    are written without a time. quality: x264's CRF, 0 (lossless) to 51. preset: x264's speed. keyframe_every: a
    keyframe after so many frames at most, and no B-frames, so that jumps are quick; None leaves it to x264.

    Until `close()`, data go into a hidden file beside `path`; an older file at `path` survives until then. Leaving a
    `with` block closes; leaving it by an exception discards what was written, unless it is KeyboardInterrupt or
    keep_partial is true: then the frames so far become a playable file. Without one frame no file appears.

    audio_from: a video file whose sound is kept: copied where the container takes its codec, else as AAC; it starts
    with the first frame written, by `time_s` in seconds from that file's first image, and ends with the last. A file
    without sound gives none.
    alpha: frames are RGBA, with colours "straight" or "premultiplied" by alpha. The file is ProRes 4444 (.mov) or VP9
    (.webm); both store straight colours. `quality` and `preset` are of x264 and not used then.

    colours: how they are stored and tagged; those of a source (`VideoInfo.colours`) make both look alike. ProRes has no
    full range and always states a matrix: limited range and BT.601 take their places.
    H.264 in 4:2:0 wants even sizes: an odd width or height is padded by one pixel, a copy of the last column or row.
    Raises OutputError where the file cannot be written (no folder, no permission, full disk), with nothing left
    behind, and InputError for an unknown suffix or an image of another shape than the first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: float | Fraction | None = None,
        *,
        quality: int = 20,
        preset: str = "veryfast",
        keyframe_every: int | None = None,
        keep_partial: bool = False,
        audio_from: str | os.PathLike[str] | None = None,
        alpha: Alpha | None = None,
        colours: ColourTags = BT709,
    ) -> None:
        self.path = Path(path)
        self.frames_written = 0
        self._keep_partial = keep_partial
        if alpha not in (None, "straight", "premultiplied"):
            raise InputError(f"alpha={alpha!r} is neither 'straight' nor 'premultiplied'", option="alpha")
        formats, kind = (FORMATS, "a video") if alpha is None else (ALPHA_FORMATS, "a video with alpha")
        if self.path.suffix.lower() not in formats:
            raise InputError(f"{self.path}: {kind} is written as {', '.join(formats)}, not {self.path.suffix!r}")
        self._format = formats[self.path.suffix.lower()]
        self._alpha, self._colours = alpha, colours
        self._audio_from = None if audio_from is None else Path(audio_from)
        self._audio: AudioTrack | None = None
        rate = ASSUMED_RATE if rate is None else rate
        if not 0 < rate < float("inf"):
            raise InputError(f"rate must be a positive number of frames per second, not {rate}")
        if not 0 <= quality <= 51:
            raise InputError(f"quality is a CRF from 0 to 51, not {quality}")
        self._rate = Fraction(rate).limit_denominator(1001)
        # Ticks that divide one frame of the rate exactly and are fine enough (1/90000 s) for any time in between.
        self._ticks_per_second = self._rate.numerator * -(-90_000 // self._rate.numerator)
        # With its macroblock tree x264 encodes the same images in other bits from one run to the next: it reads memory
        # that it has not written. Without, files are a tenth larger at the same CRF, and their images a little better.
        self._encoder_options = {"preset": preset, "crf": str(quality), "mbtree": "0"}
        if keyframe_every is not None:
            self._encoder_options |= {"g": str(keyframe_every), "bf": "0"}
        self._container: Any = None
        self._stream: Any = None
        self._pixels, self._range = "yuv420p", ColorRange.MPEG
        self._reformatter = VideoReformatter()
        self._shape: tuple[int, ...] | None = None
        self._first_s: float | None = None
        self._last_tick: int | None = None
        self._closed = False
        if self.path.is_dir():
            raise OutputError(f"{self.path}: is a folder; name a file in it")
        self._file = atomic_file(self.path)
        self._partial = self._file.__enter__()
        try:
            self._partial.open("wb").close()  # so that a missing folder or permission shows before any work is done
        except OSError as error:
            self._remove()
            raise self._failure(error) from None

    def write(self, image: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Append one frame: uint8 (H, W, 3), RGB, or (H, W, 4), RGBA, with alpha, of the first frame's size.

        time_s: when it is shown, in seconds on any clock that runs forward (the first frame is shown at 0); None puts
        it one frame of the rate after the one before. A time that is not later than the last is moved just behind it.
        """
        if self._closed:
            raise OutputError(f"{self.path}: is closed, no more frames can be written")
        channels = 3 if self._alpha is None else 4
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or not image.size:
            raise InputError(f"a frame is uint8 (H, W, {channels}), not {image.dtype} {image.shape}")
        if self._shape is None:
            self._shape = image.shape
        elif image.shape != self._shape:
            raise InputError(
                f"{self.path}: frame {self.frames_written} is {image.shape[1]}x{image.shape[0]}, "
                f"those before are {self._shape[1]}x{self._shape[0]}; scale all frames to one size"
            )
        tick = self._tick(time_s)
        try:
            if self._container is None:
                self._open(*image.shape[:2])
            decoded = self._image(image)
            decoded.pts = tick
            decoded.time_base = Fraction(1, self._ticks_per_second)
            self._container.mux(self._stream.encode(decoded))
            self._mux_audio(tick)
        except (av.error.FFmpegError, OSError) as error:
            self._discard()
            raise self._failure(error) from None
        self._last_tick = tick
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file and put it at `path`: all frames written so far play. Closing twice does nothing."""
        if self._closed:
            return
        if self._container is None:
            self._discard()
            return
        self._closed = True
        try:
            try:
                self._container.mux(self._stream.encode(None))
                if self._audio is not None and self._last_tick is not None:
                    self._mux_audio(self._last_tick + round(self._ticks_per_second / self._rate))
                    for packet in self._audio.finish():
                        self._container.mux(packet)
            finally:
                self._close_audio()
                self._container.close()
            with self._partial.open("rb+") as file:
                os.fsync(file.fileno())  # some file systems report a full disk only now
        except (av.error.FFmpegError, OSError) as error:
            self._remove()
            raise self._failure(error) from None
        except BaseException:  # a second interruption
            self._remove()
            raise
        self._file.__exit__(None, None, None)

    def _open(self, height: int, width: int) -> None:
        options = {"movflags": "+faststart"} if self._format in ("mp4", "mov") else {}
        container = av.open(f"file:{self._partial}", mode="w", format=self._format, options=options)
        self._container = container
        codec, pixels, encoder_options = "libx264", "yuv420p", self._encoder_options
        if self._alpha is not None and self._format == "mov":
            codec, pixels, encoder_options = "prores_ks", "yuva444p10le", {"profile": "4444"}
        elif self._alpha is not None:
            codec, pixels = "libvpx-vp9", "yuva420p"
            encoder_options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "0"}
        stream: Any = container.add_stream(codec, rate=self._rate, options=encoder_options)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = self._pixels = pixels
        if pixels == "yuva420p":
            stream.metadata["alpha_mode"] = "1"
        context = stream.codec_context
        context.time_base = Fraction(1, self._ticks_per_second)
        context.colorspace, context.color_primaries = self._colours.matrix, self._colours.primaries
        context.color_trc = self._colours.transfer
        full_range = self._colours.full_range and codec != "prores_ks"  # which has no place for it
        context.color_range = self._range = ColorRange.JPEG if full_range else ColorRange.MPEG
        self._stream = stream
        if self._audio_from is not None:
            self._audio = AudioTrack(self._audio_from, container, self._format)

    def _mux_audio(self, until: int) -> None:
        """Mux the sound up to this tick of the output."""
        if self._audio is not None:
            start_s = self._first_s or 0.0
            for packet in self._audio.packets(start_s, start_s + until / self._ticks_per_second):
                self._container.mux(packet)

    def _close_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()

    def _image(self, image: NDArray[np.uint8]) -> Any:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._alpha == "premultiplied":
            image = _straight(image)
        layout = "rgb24" if self._alpha is None else "rgba"
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
        stored = self._reformatter.reformat(
            rgb,
            format=self._pixels,
            dst_colorspace=scaler_matrix(self._colours),
            dst_color_range=self._range,
            threads=1,
        )
        stored.color_primaries = self._colours.primaries  # ProRes writes what its frames state
        stored.color_trc = self._colours.transfer
        return stored

    def _tick(self, time_s: float | None) -> int:
        if time_s is not None and not -1e9 < time_s < 1e9:
            raise InputError(f"{self.path}: frame {self.frames_written} has the time {time_s} s")
        if self._last_tick is None:
            self._first_s = time_s
            return 0
        if time_s is None:
            return self._last_tick + round(self._ticks_per_second / self._rate)
        if self._first_s is None:  # the frames before came without times
            self._first_s = time_s - self._last_tick / self._ticks_per_second - 1 / float(self._rate)
        tick = max(self._last_tick + 1, round((time_s - self._first_s) * self._ticks_per_second))
        if (longer := tick - self._last_tick - _LONGEST_FRAME) > 0:
            seconds = longer / self._ticks_per_second
            logger.warning("%s: a gap in the times is shown %.0f s shorter, to fit into the file", self.path, seconds)
            self._first_s += seconds
            tick -= longer
        return tick

    def _discard(self) -> None:
        """Close without result: no file at `path`, none beside it."""
        self._closed = True
        self._close_audio()
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError):
                self._container.close()
        self._remove()

    def _remove(self) -> None:
        with suppress(_Discarded):
            self._file.__exit__(_Discarded, _Discarded(), None)

    def _failure(self, error: BaseException) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(
            f"{self.path}: cannot be written ({reason}) after {self.frames_written} frames; "
            f"is there room, and may you write in {self.path.parent}?"
        )

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        elif self._keep_partial:
            with suppress(OutputError):  # the exception that is under way says more
                self.close()
        else:
            self._discard()


def _straight(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Divide the colours of RGBA by alpha; what is fully transparent becomes black."""
    alpha = image[..., 3:].astype(np.float32)
    colours = image[..., :3] * (255 / np.maximum(alpha, 1))
    return np.concatenate([np.minimum(colours + 0.5, 255).astype(np.uint8), image[..., 3:]], axis=2)


class _Discarded(Exception):
    """Ends the file's context so that nothing is left of it."""
