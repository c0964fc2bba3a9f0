"""One run of a job: counts frames, reports progress, and leaves masks, overlay, tables and `run.json` in its folder."""

from __future__ import annotations

import csv
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from twospeed.environment import installed_versions
from twospeed.errors import InputError, TwospeedError
from twospeed.files import write_json
from twospeed.output.folder import FRAMES, RECORD, REPORT, ResultFolder
from twospeed.output.record import Identity, RunRecord
from twospeed.output.report import Report
from twospeed.results import ClassMap, ColourTags, Frame, ObjectMasks, OnProgress, Progress
from twospeed.video.colours import BT709
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import Alpha, VideoWriter

OVERLAY = "overlay.mp4"
COLUMNS = ("output_index", "source_index", "file_name", "time_s", "pts", "keyframe", "confidence")


def frame_name(frame: Frame) -> str:
    """Return what files of a frame are named after: the image in folders, else the number in the source."""
    return frame.name or f"{frame.index:05d}"


R = TypeVar("R", ObjectMasks, ClassMap)


@contextmanager
def _whole_frame() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait for the block, in which a frame's labels, row and overlay are completed."""
    waiting: list[int] = []
    kept: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # others receive no signals
        known = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
        kept = {number: signal.getsignal(number) for number in known if number is not None}
        kept = {number: handler for number, handler in kept.items() if callable(handler)}
    try:
        for number in kept:
            signal.signal(number, lambda number, frame: waiting.append(number))
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    for number in waiting[:1]:
        kept[number](number, None)


class _OneBehind(AbstractContextManager["_OneBehind"]):
    """Does what it is given on a thread of its own, one thing after another, while its user computes the next.

    An exception comes out when the next thing is given, or at the end. When the block is left, whatever the reason, all
    that was given is done.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "twospeed-write")
        self._last: Future[None] | None = None

    def give(self, work: Callable[[], None]) -> None:
        """Do this next; waits for what was given before."""
        self.wait()
        self._last = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until all that was given is done."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _whole_frame():
            self._pool.shutdown()
        if kind is None:
            self.wait()


class Run(AbstractContextManager["Run"]):
    """Use as a context manager around the loop over a video, inside that of its folder.

    Nothing is written before the first result. When the block is left, whatever the reason, finished frames stay: the
    overlay plays, frames.csv and run.json agree with the files. Before the first frame an error leaves nothing.

    folder: where results go; None writes none. total: frames to come, if known. since: time.perf_counter() when
    the work began, where that was before the block. options, inputs: see `RunRecord`. audio_from: a video file whose
    sound goes into every video that is written. colours: set it to how those videos store colours, if not as BT.709.
    Raises InputError where an earlier run that is resumed had other settings or inputs, OutputError.
    """

    def __init__(
        self,
        command: str,
        *,
        model: str,
        weights_sha256: str | None,
        options: Mapping[str, Any],
        inputs: Mapping[str, Identity] | None = None,
        folder: ResultFolder | None = None,
        total: int | None = None,
        on_progress: OnProgress = lambda progress: None,
        since: float | None = None,
        audio_from: Path | None = None,
    ) -> None:
        self._record = RunRecord(command, model, weights_sha256, dict(options), dict(inputs or {}))
        self.folder, self.total, self._on_progress = folder, total, on_progress
        self.frames = self.rows = 0
        self._times_s: list[float] = []  # of the first frame, and of the last
        self._begun = False
        self._since, self._started, self._ended = since, time.perf_counter(), 0.0
        self._audio_from = audio_from
        self.colours: ColourTags | None = None
        self._videos: dict[str, VideoWriter] = {}
        self._writers = ExitStack()
        self._writing = _OneBehind()
        self._at_end: list[Callable[[], None]] = []
        self.report = Report()
        self.kept: list[dict[str, Any]] = []
        if folder is not None and folder.earlier is not None:
            if difference := self._record.difference(folder.earlier):
                raise InputError(
                    f"{folder.path} holds a run with {difference}; give the same options, begin anew, or choose "
                    "another folder",
                    option="resume",
                )
            self.kept = folder.kept

    @property
    def finished_frames(self) -> int | None:
        """Frames of the run to be resumed if it has finished already, else None."""
        earlier = None if self.folder is None else self.folder.earlier
        return earlier["frames"] if earlier is not None and earlier["finished"] else None

    def __enter__(self) -> Run:
        self._started = self._since or time.perf_counter()
        return self

    def advance(self, frames: int = 1) -> None:
        """Count frames that are finished, and report them."""
        self._begin()
        self.frames += frames
        seconds = time.perf_counter() - self._started
        before = min(self.frames, len(self.kept))
        progress = Progress(self._record.command, self.frames, self.total, "frames", seconds, done_before=before)
        self._on_progress(progress)

    def label_frames(
        self,
        into: str,
        results: Iterable[tuple[Frame, R]],
        on_result: Callable[[Frame, R], None] = lambda frame, result: None,
        *,
        draw: Callable[[Frame, R], NDArray[np.uint8]] | None = None,
        rate: Any = None,
    ) -> None:
        """Run a job that labels every frame: write labels, overlay and table as results come.

        into: folder of the labels. draw: makes the overlay's image; None for no overlay. rate: of the source.
        on_result: called with each frame and its result. A frame is drawn, written and reported on another thread while
        `results` computes the next one.
        """

        def write(frame: Frame, result: R) -> None:
            self.write_labels(into, frame, result)
            drawn = frame.image
            if draw is not None:
                drawn = draw(frame, result)
                self.write_video(OVERLAY, drawn, frame.time_s, rate)
            self.report.add_labels(frame, drawn, result)
            on_result(frame, result)
            self.advance()

        with self, self._writing:
            for frame, result in results:
                self._writing.give(partial(write, frame, result))

    def wait(self) -> None:
        """Wait until all frames that `label_frames` was given are written."""
        self._writing.wait()

    def add_frame(self, frame: Frame) -> None:
        """Add a line to frames.csv for a frame without labels."""
        self._begin()
        if self.folder is not None:
            self.folder.note({"row": self._row(frame, None)})

    def write_labels(self, into: str, frame: Frame, result: ObjectMasks | ClassMap) -> None:
        """Write a frame's labels as a palette PNG, with its line in frames.csv.

        The file is named after the image in folders, else by the frame's number in the source, as DAVIS does. Where the
        run that is resumed left it, it is kept.
        """
        self._begin()
        if self.folder is None:
            return
        if self.rows < len(self.kept):
            self.rows += 1
            return
        name = f"{into}/{frame_name(frame)}.png"
        facts = {"restarts": getattr(result, "is_keyframe", False), "objects": getattr(result, "object_ids", ())}
        if isinstance(result, ClassMap):
            facts["confidence"] = result.confidence
        with self.folder.file(name, row=self._row(frame, result), **facts) as temporary:
            write_indexed_png(temporary, result.labels)

    def write_overlay(self, image: NDArray[np.uint8], time_s: float, rate: Any) -> None:
        """Append an image to overlay.mp4, of a job without labels. rate: of the source, frames per second."""
        self.report.add_image(None, time_s, image)
        self.write_video(OVERLAY, image, time_s, rate)

    def write_video(
        self, name: str, image: NDArray[np.uint8], time_s: float, rate: Any, *, alpha: Alpha | None = None
    ) -> None:
        """Append an image, uint8 (H, W, 3), or (H, W, 4) with alpha, to a video of this name. rate: of the source.

        overlay.mp4, which is looked at and not worked with, is encoded faster than the others: at the same quality its
        file is larger.
        """
        self._begin()
        assert self.folder is not None
        if name not in self._videos:
            self._videos[name] = VideoWriter(
                self.folder.claim(name), rate, keep_partial=True, audio_from=self._audio_from, alpha=alpha,
                colours=self.colours or BT709, preset="superfast" if name == OVERLAY else "veryfast",
            )  # fmt: skip
            self._writers.enter_context(self._videos[name])
        self._videos[name].write(image, time_s)

    def path(self, name: str) -> Path:
        """Return where a file goes that is written over a while, in the run's folder; it counts once the run ends."""
        self._begin()
        assert self.folder is not None
        self._at_end.insert(0, lambda: self.folder.settle(name))  # type: ignore[union-attr]
        return self.folder.claim(name)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a whole file by a function that is given a path."""
        self._begin()
        assert self.folder is not None
        with self.folder.file(name) as temporary:
            write(temporary)

    def frame_times(self) -> list[tuple[int, float]]:
        """Return index and time in seconds of all frames so far, as the journal has them."""
        assert self.folder is not None
        return [(entry["row"][1], entry["row"][3]) for entry in self.folder.journal() if "row" in entry]

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the run's folder."""
        self.write(name, lambda path: write_json(path, content))

    def at_end(self, call: Callable[[], None]) -> None:
        """Call this when the block is left and any frame is done, also after an error: for tables of what is done."""
        self._at_end.append(call)

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Keep what the job prints at its end in run.json; a run that has finished is described by it."""
        self._record = replace(self._record, summary=dict(summary))

    def summary(self) -> dict[str, Any]:
        """Return what the job prints at its end; of a run that has finished before, what it has printed then."""
        assert self.folder is not None
        earlier = self.folder.earlier if self.finished_frames is not None else None
        record = asdict(self.record()) if earlier is None else earlier
        numbers = {name: record[name] for name in ("frames", "seconds", "frames_per_second")}
        return {"output": str(self.folder.path), **numbers, **record.get("summary", {})}

    def record(self, *, finished: bool = False) -> RunRecord:
        """Describe the run so far; once the block is left, as it was then."""
        seconds = (self._ended or time.perf_counter()) - self._started
        computed = self.frames - len(self.kept)
        return replace(
            self._record,
            versions=installed_versions(),
            frames=self.frames,
            seconds=round(seconds, 3),
            frames_per_second=round(computed / seconds, 3) if seconds > 0 else 0.0,
            finished=finished,
            warnings=tuple(self.report.warnings),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        try:
            self._writers.__exit__(kind, error, trace)
            if self.folder is None or not self._begun:
                return
            if kind is not None and not self.frames:
                self.folder.discard()
                return
            for name in self._videos:
                self.folder.settle(name)
            if len(self._times_s) == 2 and self._times_s[0] == self._times_s[1]:
                self.warn(
                    "all frames have the same time, as the video's timestamps do not advance: times, and videos that "
                    "were written, are of no use; write the video again with times"
                )
            for call in self._at_end:
                call()
            if self.rows:  # the run that sums up several videos has none
                with self.folder.file(FRAMES) as temporary:
                    self._write_frames(temporary)
            with self.folder.file(REPORT) as temporary:
                temporary.write_text(self._report(error), encoding="utf-8")
            self.folder.finish(self.record(finished=kind is None))
        except TwospeedError:
            if kind is None:  # else the error that is under way says more
                raise

    def warn(self, text: str) -> None:
        """Keep a line about the whole run, for its report and run.json."""
        if text not in self.report.warnings:
            self.report.warnings.append(text)

    def _report(self, error: BaseException | None) -> str:
        record = self.record()
        video = record.inputs.get("video", {}).get("path", "")
        facts = {"video": video, "model": record.model, "frames": record.frames, "seconds": record.seconds}
        facts |= {"frames per second": record.frames_per_second}
        settings = [(name, value) for name, value in record.options.items() if value not in (None, False, [], "")]
        self.report.tables.append(("Settings", (), settings))
        stopped = "" if error is None else f"stopped after {record.frames} frames: {error or type(error).__name__}"
        title = f"twospeed {record.command} {Path(str(video)).name}".strip()
        if self.folder is not None:
            self.report.links += [*(name for name in self.folder.contents() if name != REPORT), RECORD]
        return self.report.html(title, facts, failure=stopped)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            if self.folder is not None:
                self.folder.begin(self.record())

    def _row(self, frame: Frame, result: Any) -> list[Any]:
        sure = ""
        if isinstance(result, ObjectMasks):
            pairs = zip(result.object_ids, result.confidence, strict=True)
            sure = ";".join(f"{number}:{value:.4f}" for number, value in pairs)
        elif isinstance(result, ClassMap) and result.confidence is not None:
            sure = f"{result.confidence:.4f}"
        self.rows += 1
        name, time_s = frame.name or "", round(frame.time_s, 6)
        self._times_s = [*self._times_s[:1], time_s]
        return [self.rows - 1, frame.index, name, time_s, frame.pts, int(frame.is_keyframe), sure]

    def _write_frames(self, path: Path) -> None:
        assert self.folder is not None
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(entry["row"] for entry in self.folder.journal() if "row" in entry)
