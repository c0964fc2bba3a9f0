"""What `twospeed track` does with a tracker and prompts that were read: track, resume, time, sum up, preview."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twospeed.cli.printing import print_note
from twospeed.cli.track_options import QUALITIES, MemoryOptions
from twospeed.errors import InputError
from twospeed.weights.catalog import DEFAULT_TRACKER

if TYPE_CHECKING:
    from twospeed.cli.prompts import FramePrompts, Prompts
    from twospeed.output.folder import ResultFolder
    from twospeed.output.run import Run
    from twospeed.pipelines.propagate import Direction
    from twospeed.pipelines.tracker import Tracker
    from twospeed.pipelines.video_tracker import VideoTracker
    from twospeed.results import Frame, ObjectMasks
    from twospeed.video.sources import PositionLike, Source

SECONDS_BETWEEN_STATES = 30.0
SHARE_OF_STATES = 0.05  # of the time, at most: large memories are saved less often
FRAMES_TIMED = 10  # before the rate is printed


@dataclass(frozen=True)
class TrackJob:
    """What is tracked. part: the frames, where it goes backward too. whole: compute also frames that are finished."""

    tracker: VideoTracker
    prompts: FramePrompts
    source: Source
    part: range | None
    direction: Direction
    whole: bool

    def check(self, first: int, span: tuple[PositionLike | None, PositionLike | None]) -> None:
        """Raise InputError at once for prompts of frames that are not tracked, where the source can be counted.

        first: the first frame. span: the start and the end that were given.
        """
        from twospeed.video.reader import frame_range

        marked = {*self.prompts.indices, *self.prompts.gone}
        if self.source.stored and marked - {first}:
            part = self.part or frame_range(self.source, *span)
            for index in sorted(marked - {*part}):
                raise _beyond(index, part[0], part[-1])

    def silence(self, first: int) -> str:
        """Return which frames come out empty, since no mask reaches them; else nothing."""
        indices = self.prompts.indices
        if self.direction == "forward" and indices and indices[0] > first:
            what = f"frames {first} to {indices[0] - 1} come before the first mask and stay empty"
            return f"{what}; --direction both tracks them, too"
        if self.part is not None and self.direction == "backward" and indices[-1] < self.part[-1]:
            what = f"frames {indices[-1] + 1} to {self.part[-1]} come after the last mask and stay empty"
            return f"{what}; --direction both tracks them, too"
        return ""

    def results(self, frames: Iterable[Frame], run: Run, *, in_advance: bool) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Track. A resumed run reads its first masks from its files and computes the others exactly as they were.

        in_advance: as `Tracker.seen_ahead`. Raises InputError at the end for prompts of frames that the video does not
        have.
        """
        from twospeed.pipelines.tracker import Tracker

        assert run.folder is not None
        if self.part is not None:
            yield from self._segments(self.part, frames, run)
            return
        indices: list[int] = []  # of the first and the last frame

        def counted() -> Iterator[Frame]:
            for frame in frames:
                indices[1:] = [frame.index]
                yield frame

        if isinstance(self.tracker, Tracker):
            yield from self._resumable(self.tracker, counted(), run, in_advance=in_advance)
        else:
            numbered = counted()
            first = next(numbered)
            labels = self.prompts.labels(first.index, first.image)
            masks = {} if labels is None else {first.index: labels}
            found = False
            for frame, result in self.tracker.run(chain([first], numbered), masks):
                found = found or bool(result.labels.any())
                yield frame, result
            if not found and not self.tracker.needs_masks:
                raise InputError(
                    f"{self.source.name}: no object was found in {indices[-1] - indices[0] + 1} frames; mark one",
                    option="point",
                )
        for index in sorted({*self.prompts.indices, *self.prompts.gone}):
            if not indices[0] <= index <= indices[-1]:
                raise _beyond(index, indices[0], indices[-1])

    def _segments(self, part: range, frames: Iterable[Frame], run: Run) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Track in segments from the masks: a resumed run begins with the segment in which it was interrupted."""
        from twospeed.pipelines.propagate import frames_of, track_segments

        assert run.folder is not None
        kept = 0 if self.whole else len(run.kept)
        for position, frame in zip(range(kept), frames, strict=False):
            yield frame, _finished(run, position, frame)
        if kept >= len(part):
            return
        read, keyframes = frames_of(self.source), dict[int, Any]()
        for index in self.prompts.indices:
            for frame in read(range(index, index + 1)):
                keyframes[index] = self.prompts.labels(index, frame.image)
        yield from track_segments(
            read, cast("Tracker", self.tracker), keyframes, part, self.direction, self.prompts.gone, begin=part[kept]
        )

    def _resumable(
        self, tracker: Tracker, frames: Iterator[Frame], run: Run, *, in_advance: bool
    ) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Track with `Tracker`, whose state is saved now and then."""
        assert run.folder is not None
        restart, saved = 0 if self.whole else run.folder.saved_state(), time.perf_counter()
        pause = SECONDS_BETWEEN_STATES
        tracker.reset()
        if restart:
            tracker.load_state(run.folder.state(restart))
        for position, frame in zip(range(restart), frames, strict=False):
            yield frame, _finished(run, position, frame)
        for position, (frame, seen) in enumerate(tracker.seen_ahead(frames, in_advance=in_advance), restart):
            labels = self.prompts.labels(frame.index, frame.image)
            gone = self.prompts.gone.get(frame.index, ())
            result = tracker.step(frame.image, labels, gone=gone, time_s=frame.time_s, **seen)
            yield frame, result.numbered(frame.index)
            now = time.perf_counter()
            if now - saved > pause:
                run.wait()  # a state counts only once the frames before it are there
                with run.folder.new_state(position + 1) as path:
                    tracker.save_state(path)
                saved = time.perf_counter()
                pause = max(SECONDS_BETWEEN_STATES, (saved - now) / SHARE_OF_STATES)


def _finished(run: Run, position: int, frame: Frame) -> ObjectMasks:
    """Read the result of a frame that a run has finished before it was interrupted."""
    import numpy as np

    from twospeed.results import ObjectMasks
    from twospeed.video.indexed_png import read_label_map

    assert run.folder is not None
    entry, size = run.kept[position], frame.image.shape[:2]
    labels = read_label_map(run.folder.work / entry["file"], allow_empty=True, expect_size=size)
    nothing = np.zeros((0, *size), np.float32)
    sure = np.array([pair.split(":")[1] for pair in entry["row"][-1].split(";") if pair], np.float32)
    return ObjectMasks(labels, nothing, tuple(entry["objects"]), frame.index, frame.time_s, sure)


def _beyond(index: int, first: int, last: int) -> InputError:
    return InputError(f"a prompt is for frame {index}, but the frames that are tracked are {first} to {last}")


def check_quality(folder: ResultFolder, model: str, options: Mapping[str, Any]) -> None:
    """Raise InputError where the run to be resumed was of another quality as a whole: its options say little alone."""
    if folder.earlier is None:
        return
    was = _quality_of({**folder.earlier["options"], "model": folder.earlier["model"]})
    now = _quality_of({**options, "model": model})
    if was and now and was != now:
        raise InputError(
            f"{folder.path} holds a run of quality {was}, now it is {now}; give the same options, begin anew, or "
            "choose another folder",
            option="quality",
        )


def _quality_of(facts: Mapping[str, Any]) -> str | None:
    """Return the quality whose settings these all are."""
    defaults = {"model": DEFAULT_TRACKER, "memory_every": MemoryOptions.memory_every}
    for name, settings in QUALITIES.items():
        wanted = defaults | settings
        if wanted == {key: facts.get(key) for key in wanted}:
            return name
    return None


def timed(
    results: Iterator[tuple[Frame, ObjectMasks]], what: str, total: int | None
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Pass results on, and print their rate once it is known."""
    since = time.perf_counter()
    for done, item in enumerate(results):
        if done == 1:
            since = time.perf_counter()  # the first one takes longer
        if done == FRAMES_TIMED:
            rate = (done - 1) / max(time.perf_counter() - since, 1e-9)
            long = f", about {total / rate:.0f} s for {total} frames" if total else ""
            print_note(f"{what}: {rate:.1f} frames/s on this machine{long}")
        yield item


def write_preview(
    given: Prompts,
    source: Source,
    path: Path,
    start: str | None,
    end: str | None,
    direction: str,
    snap: bool,
    *,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write mask and overlay of the first frame that has prompts, without any tracking."""
    import numpy as np

    from twospeed.output.folder import ResultFolder
    from twospeed.output.overlay import draw_masks
    from twospeed.output.run import Run
    from twospeed.results import ObjectMasks
    from twospeed.video.image_files import encoded
    from twospeed.video.reader import frame_range, open_video

    with open_video(source, start, end) as reader:
        frame = first = next(reader)
        begin = frame_range(source, start, end)[-1] if direction == "backward" else first.index
        prompts = given.read(begin, first.image.shape[:2], snap=snap)
        index = prompts.indices[0]
        if index != first.index and source.stored:
            with open_video(source, index, index + 1) as one:
                frame = next(one)
        while frame.index < index:
            frame = next(reader)
    labels = prompts.labels(index, frame.image)
    assert labels is not None
    ids = tuple(sorted({int(i) for i in set(labels.ravel().tolist())} - {0, 255}))
    with (
        ResultFolder(path, ["overlay.png", "masks/*.png"], overwrite=overwrite) as folder,
        Run("track --preview", model="none", weights_sha256=None, options={}, folder=folder) as run,
    ):
        overlay = encoded(draw_masks(frame.image, labels), ".png")
        planes = np.stack([labels == i for i in (0, *ids)]).astype(np.float32)
        run.write_labels("masks", frame, ObjectMasks(labels, planes, ids, frame.index, frame.time_s))
        run.write("overlay.png", lambda target: target.write_bytes(overlay))
        run.advance()
    if not quiet:
        objects = "1 object" if len(ids) == 1 else f"{len(ids)} objects"
        print_note(f"{path}: frame {index}, {objects}")
