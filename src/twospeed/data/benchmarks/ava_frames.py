"""The pixels around AVA's keyframes: frame lists, folders of frames or videos.

    frames/VIDEO/VIDEO_000001.jpg     30 a second from second 900 on; frame_lists/train.csv and val.csv list them
    videos/VIDEO.mp4                  the films, or what was cut from second 900 on, at any frame rate

A clip is centred on its keyframe: `frames` images, `stride` / 30 s apart, from half a clip before it (SlowFast
section 5, as PySlowFast samples it). What lies before the first or after the last image repeats that one.
`data.clips.keyframes` draws what training sees of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import FIRST_SECOND, read_frame_list
from twospeed.data.benchmarks.ava_keyframes import Keyframe
from twospeed.data.benchmarks.video_lists import VIDEO_SUFFIXES
from twospeed.errors import DatasetError
from twospeed.video.folders import list_images, read_chosen_images
from twospeed.video.reader import frame_times, read_frames
from twospeed.video.sampling import TRAINED_RATE, keyframe_clip

FIRST_ANNOTATED = 902  # second of the film: a video that ends before it was cut at FIRST_SECOND
SUFFIXES = sorted(VIDEO_SUFFIXES)
VIDEO_FOLDERS = ("videos", "trainval", "test", "")


class AvaFrames:
    """Opens clips around keyframes, wherever the images of a video are.

    data: the data set's folder. Each video is looked for in the splits' frame lists, then as a folder `frames/VIDEO`,
    then as a file in `videos`, `trainval`, `test` or the folder itself. first_second: the film's second at which frames
    and videos begin; None takes 900 for frames, and for a video 900 or 0: the film itself reaches second 902, at which
    annotations begin. Raises DatasetError when the folder or a list is not as it should be.
    """

    def __init__(
        self, data: Path | str, splits: Sequence[str] = ("train", "val"), *, first_second: float | None = None
    ) -> None:
        self.data = Path(data)
        self.first_second = first_second
        if not self.data.is_dir():
            raise DatasetError(f"{self.data}: no such folder; it should hold AVA's frames or videos")
        base = self.data / "frames" if (self.data / "frames").is_dir() else self.data
        self._images: dict[str, list[Path]] = {}
        for split in splits:
            listing = self.data / "frame_lists" / f"{split}.csv"
            if listing.is_file():
                lists = read_frame_list(listing)
                self._images |= {video: [base / name for name in names] for video, names in lists.items()}
        self._files: dict[str, Path] = {}

    def check(self, keyframes: Iterable[Keyframe]) -> None:
        """Refuse keyframes whose video is missing or, where that costs nothing to know, too short.

        Raises DatasetError, which counts the videos that are missing and names the first.
        """
        second_of: dict[str, float] = {}
        for keyframe in keyframes:
            second_of.setdefault(keyframe.video, keyframe.second)
            if keyframe.video in self._images:
                self._image_index(keyframe.video, keyframe.second)
        missing = [video for video in second_of if not self._listed(video) and self._file(video) is None]
        if missing:
            raise DatasetError(
                f"{self.data}: {len(missing)} of {len(second_of)} videos are missing, the first is {missing[0]}; "
                f"looked for frames/{missing[0]}/ and for {missing[0]}.mp4 (.mkv, ...) in videos, trainval and test"
            )

    def clip(self, video: str, second: float, frames: int, stride: int) -> NDArray[np.uint8]:
        """Read the clip around a keyframe: uint8 (frames, H, W, 3), RGB.

        Raises DatasetError when the video is missing or the keyframe lies outside of it, VideoError for images that
        cannot be read.
        """
        if self._listed(video):
            images = self._images[video]
            indices = keyframe_clip(self._image_index(video, second), frames, stride, len(images))
            distinct, places = np.unique(indices, return_inverse=True)
            return read_chosen_images(images, distinct.tolist())[places]
        path = self._file(video)
        if path is None:
            raise DatasetError(
                f"{self.data}: has no frames and no video of {video}; put them in frames/{video}/ or videos/"
            )
        times_s = frame_times(path)
        step_s = float(times_s[-1]) / max(len(times_s) - 1, 1)
        end_s = float(times_s[-1]) + step_s
        first = self.first_second
        if first is None:
            first = FIRST_SECOND if end_s < FIRST_ANNOTATED else 0.0
        if not 0 <= second - first < end_s:
            raise DatasetError(self._out_of_range(str(path), second, first, first + end_s))
        wanted_s = second - first + (np.arange(frames) - frames / 2) * stride / TRAINED_RATE
        # The last image that is shown by then; containers round times, hence the grace.
        indices = np.searchsorted(times_s, wanted_s + 0.01 * step_s, side="right") - 1
        return read_frames(path, np.clip(indices, 0, None), threads=1)

    def _image_index(self, video: str, second: float) -> int:
        first = FIRST_SECOND if self.first_second is None else self.first_second
        index, count = round((second - first) * TRAINED_RATE), len(self._images[video])
        if not 0 <= index < count:
            raise DatasetError(self._out_of_range(f"{self.data}: {video}", second, first, first + count / TRAINED_RATE))
        return index

    def _out_of_range(self, name: str, second: float, first: float, end: float) -> str:
        return (
            f"{name}: the keyframe at second {second:g} is out of range: its images are those of seconds "
            f"{first:g} to {end:.2f} (first_second says at which second of the film they begin)"
        )

    def _listed(self, video: str) -> bool:
        """Return whether a video is there as images; remembers the contents of its folder."""
        if video not in self._images and (self.data / "frames" / video).is_dir():
            self._images[video] = list_images(self.data / "frames" / video)
        return video in self._images

    def _file(self, video: str) -> Path | None:
        if video not in self._files:
            candidates = (self.data / folder / f"{video}{end}" for folder in VIDEO_FOLDERS for end in SUFFIXES)
            found = next((path for path in candidates if path.is_file()), None)
            if found is None:
                return None
            self._files[video] = found
        return self._files[video]


def in_pixels(boxes_xyxy: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Turn fractions of an image into its pixel numbers, 0..W-1 and 0..H-1, as PySlowFast does: (n, 4)."""
    size = np.array([width, height, width, height], np.float64)
    return np.clip(boxes_xyxy * size, 0, size - 1)
