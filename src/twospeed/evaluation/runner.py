"""What every evaluation of a network has: the networks, a folder that can be resumed, progress, and one clock.

A benchmark reads its samples, lets the pipelines that users run write predictions in the benchmark's own format, scores
those files and returns a `Report`. What is the same for all of them is here.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from twospeed.errors import InputError
from twospeed.evaluation.report import Report
from twospeed.files import make_folder, read_json, write_json
from twospeed.results import OnProgress, Progress

if TYPE_CHECKING:
    from torch import nn

    from twospeed.training.distributed import Process

Model: TypeAlias = "str | nn.Module"

SETTINGS_FILE = "evaluation.json"
"""In the folder of a run: what runs there, so that a resumed run can be compared with it."""


@dataclass
class Clock:
    """Frames, and the seconds that networks took for them, by kind of frame; reading and writing files is left out.

    all_frames: those of the whole evaluation where that is known, an interrupted run's among them.
    """

    frames: int = 0
    all_frames: int | None = None
    laps: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def running(self, kind: str = "frame", frames: int = 1) -> Iterator[None]:
        """Count the seconds inside, for this many frames."""
        start = time.perf_counter()
        yield
        self.add(kind, time.perf_counter() - start, frames)

    def add(self, kind: str, seconds: float, frames: int = 1) -> None:
        """Count seconds that were measured elsewhere."""
        self.frames += frames
        self.laps.setdefault(kind, []).append(seconds)

    @property
    def seconds(self) -> float:
        """All seconds counted."""
        return sum(map(sum, self.laps.values()))

    def median(self, kind: str) -> float:
        """Median seconds of one kind; NaN where it was never timed."""
        return statistics.median(self.laps[kind]) if kind in self.laps else math.nan

    def speed(self, clock: str, **more: float) -> dict[str, Any]:
        """Return what a report says of speed; empty when nothing ran. clock: what was counted, for readers."""
        if not self.frames:
            return {}
        seconds = self.seconds
        rate = self.frames / seconds
        whole = {} if self.all_frames is None else {"seconds_for_all_frames": self.all_frames / rate}
        return {"frames": self.frames, "seconds": seconds, **whole, "frames_per_second": rate, **more, "clock": clock}


def listed(value: Any) -> list[Any]:
    """Return a list or tuple as a list, and anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


class Networks:
    """The networks of one evaluation: as given, by name, and with the checksums of their weights.

    model: a catalogue name or a network, or several. weights: one source for all, or one for each, as `create_model`
    takes them. task: that of all named networks. on_progress: called while weights are downloaded. Raises InputError
    when numbers or tasks differ; WeightsUnavailable for weights that are not there.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        weights: Any = "default",
        *,
        task: str,
        on_progress: OnProgress | None = None,
    ):
        self.given: list[Any] = listed(model)
        sources = listed(weights)
        self.weights = sources * len(self.given) if len(sources) == 1 else sources
        if len(self.given) != len(self.weights):
            count = f"{len(self.given)} networks with {len(self.weights)} weights"
            raise InputError(f"{count}: give one for each, in the same order")
        self.names = tuple(one if isinstance(one, str) else type(one).__name__ for one in self.given)
        self.checksums: tuple[str | None, ...] = ()
        if any(isinstance(one, str) for one in self.given):
            from twospeed.weights.catalog import find
            from twospeed.weights.store import weights_sha256

            for name in filter(lambda one: isinstance(one, str), self.given):
                if (its := find(name).task) != task:
                    raise InputError(f"{name} is made for the task {its}; choose a network for the task {task}")
            self.checksums = tuple(
                weights_sha256(one, source, on_progress=on_progress)
                if isinstance(one, str) and source is not None
                else None
                for one, source in zip(self.given, self.weights, strict=True)
            )

    @property
    def title(self) -> str:
        """Names of all networks, for people."""
        return " + ".join(self.names)

    def built(self, **options: Any) -> list[Any]:
        """Build those that are given by name, with these constructor options; networks are returned as they are."""
        if not any(isinstance(one, str) for one in self.given):
            return self.given
        from twospeed.pipelines.inputs import network_for
        from twospeed.weights.catalog import find

        return [
            network_for(find(one).task, one, source, (), **options)[0] if isinstance(one, str) else one
            for one, source in zip(self.given, self.weights, strict=True)
        ]


@dataclass(eq=False)
class Run:
    """One evaluation of networks. settings: plain values that a resumed run must agree on; the report shows them."""

    benchmark: str
    networks: Networks
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_progress: OnProgress = lambda progress: None
    clock: Clock = field(default_factory=Clock)
    started: float = field(default_factory=time.perf_counter)

    def progress(self, task: str, done: int, total: int | None, unit: str, message: str = "") -> None:
        """Report how far the run is. message: a line that is worth printing, at the end of a part."""
        seconds = time.perf_counter() - self.started
        before = max(0, done - self.clock.frames) if unit == "frames" else 0  # of the run that this one resumes
        self.on_progress(Progress(task, done, total, unit, seconds, message=message, done_before=before))

    @contextmanager
    def folder(self, output: Path | str | None, *, resume: bool, public: bool = True, **more: Any) -> Iterator[Path]:
        """Give the folder for predictions: `output`, claimed for this run, or a temporary one.

        public: whether the annotations are here; where they are not, only predictions can be made, and a folder is
        needed for them. more: what else a resumed run must agree on. Raises InputError, OutputError.
        """
        if output is None:
            if not public:
                raise InputError(
                    f"{self.benchmark}: the annotations of this split are not public, so only predictions can be made: "
                    "give a folder for them",
                    option="output",
                )
            with tempfile.TemporaryDirectory(prefix="twospeed-") as temporary:
                yield Path(temporary)
            return
        description = {
            "benchmark": self.benchmark, "models": list(self.networks.names),
            "weights_sha256": list(self.networks.checksums), **more, "settings": self.settings,
        }  # fmt: skip
        claim(Path(output), description, resume=resume)
        yield Path(output)

    @contextmanager
    def shared_folder(self, output: Path | str | None, process: Process, *, resume: bool) -> Iterator[Path]:
        """As `folder`, for each process of a run: the main one claims it, then the others come."""
        from twospeed.training.distributed import wait_for_all

        if not process.is_main:
            wait_for_all()
        with self.folder(output, resume=resume or not process.is_main) as folder:
            if process.is_main:
                wait_for_all()
            yield folder

    def report(self, *, clock: str, timed: Mapping[str, float] | None = None, **fields: Any) -> Report:
        """Return the report: what is said of every run, with `fields` of this one. clock: what the clock counts."""
        return Report(
            **{
                "benchmark": self.benchmark,
                "model": self.networks.title,
                "weights_sha256": self.networks.checksums,
                "settings": self.settings,
                "speed": self.clock.speed(clock, **(timed or {})),
                **fields,
            }
        )


def check_source(predictions: Any, model: Any, output: Any, resume: bool) -> None:
    """Raise InputError unless either files are scored or a model is run, with options that belong to it."""
    files, networks = (value is not None and value != [] and value != () for value in (predictions, model))
    if files == networks:
        given = "both" if files else "neither"
        raise InputError(f"give either predictions (files to score) or a model (to run), not {given}")
    if files and (output is not None or resume):
        raise InputError("an output folder and resuming belong to a run of a model; scoring files writes nothing")
    if resume and output is None:
        raise InputError("to resume, give the folder of the interrupted run", option="output")


def claim(folder: Path, description: Mapping[str, Any], *, resume: bool) -> None:
    """Make a folder ready for a run and write down what runs there.

    description: what a resumed run must agree on. Raises InputError when the folder holds results and `resume` is off,
    when they were made otherwise, or when it holds something else; OutputError when it cannot be written.
    """
    plain = json.loads(json.dumps(description, default=str))
    note = make_folder(folder) / SETTINGS_FILE
    if note.is_file():
        before = read_json(note)
        if not isinstance(before, dict):
            raise InputError(f"{note}: does not describe a run; choose another folder", option="output")
        if not resume:
            raise InputError(f"{folder}: holds results already; resume them, or choose another folder", option="resume")
        if changed := sorted(key for key in {*plain, *before} if plain.get(key) != before.get(key)):
            was = ", ".join(_change(key, before.get(key), plain.get(key)) for key in changed)
            raise InputError(f"{folder}: was begun with {was}; use the same, or choose another folder")
    elif any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no run to resume; choose another folder", option="output")
    write_json(note, plain)


def _change(key: str, before: Any, now: Any) -> str:
    """Name what differs, down to the single setting."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return ", ".join(f"{name} {before.get(name)!r} (now {now.get(name)!r})" for name in names)
    return f"{key} {before!r} (now {now!r})"


def coverage(scored: int, official: int | None, noun: str, of_what: str) -> str:
    """Describe how much of a set was scored."""
    if official is None:
        return f"{scored} {noun}, not an official split"
    return f"{scored} of {official} {noun} ({of_what})"
