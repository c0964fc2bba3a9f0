"""One training from its start, or its last checkpoint, to its end: folder, checkpoints, log, divergence, interruptions.

RUN/config.json       every setting, as used; can be fed back
RUN/origin.json       command, commit, versions, machine
RUN/metrics.jsonl     all metrics, one JSON object per line: {"kind": "train", "step": 10, ...}
RUN/<kind>.csv        the same rows of one kind as a table (train.csv, validation.csv, ...)
RUN/tensorboard/      the same as curves, where tensorboard is installed
RUN/checkpoint_*.pt   the two newest checkpoints

A recipe holds its loop and calls a `Run`:

    with start_run(config, config.device, resume=resume) as run:
        network, optimizer = ...
        step = run.restore(model=network, optimizer=optimizer).get("step", 0)
        while step < steps:
            ...
            step += 1
            run.check_finite(step, loss=loss)
            run.log("train", step, loss=loss)
            if run.due(step):
                run.save(step, model=network, optimizer=optimizer)
        run.check_weights(network)
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from twospeed.errors import CheckpointError, InputError
from twospeed.files import lock_file, make_folder
from twospeed.results import OnProgress, Progress
from twospeed.training.checkpoint import check_same, checkpoints, load_checkpoint, restore_random_state, save_checkpoint
from twospeed.training.distributed import Process, gather, processes, seed_everything
from twospeed.training.log import RunLog, Value, resolved

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "out", "device", "workers", "batch_per_forward", "checkpoint_minutes", "log_every", "stop_after_steps",
)  # fmt: skip
"""Settings that may differ when a run is resumed: they do not touch what is learned."""


LIMITS = {
    "workers": (0, 128), "seed": (0, 2**63 - 1), "lr": (0, 1e38), "weight_decay": (0, 1e6), "log_every": (1, 10**9),
    "checkpoint_minutes": (0, 1e6),
}  # fmt: skip
"""Least and largest values of settings that every recipe has."""


def check_settings(config: Any) -> None:
    """Raise InputError for a setting of `LIMITS` that is outside of its limits, and for forks that are not safe."""
    for name, (least, most) in LIMITS.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not least <= value <= most:
            raise InputError(f"{name} is {value}; give a number from {least} to {most}", option=name)
    # OpenVINO 2026.4 beside a fork corrupted memory: the next training in the process ended in a segmentation fault
    if "openvino" in sys.modules and getattr(config, "workers", None) and multiprocessing.get_start_method() == "fork":
        raise InputError(
            "OpenVINO is loaded in this process, which must not start loading processes by a fork then; train in "
            "another process, or without workers",
            option="workers",
        )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings that a run reads; recipes add their own, and set other defaults."""

    out: Path = Path("runs/run")
    seed: int = 0  # of all random choices
    checkpoint_minutes: float = 10.0  # one is written at the end of an epoch or of the run, too
    log_every: int = 20  # steps
    stop_after_steps: int | None = None  # end early, as if interrupted after a checkpoint (trials)


class Run:
    """A running training; a context manager, made by `Run.start_or_resume`. Every process of the run has one.

    resumes: whether there is a checkpoint to continue from; then start weights need not be read.
    """

    def __init__(
        self, config: RunSettings, process: Process, saved: dict[str, Any] | None, on_progress: OnProgress | None
    ):
        self.config, self.process, self.path = config, process, config.out
        self.resumes = saved is not None
        self.total_steps: int | None = None  # for progress; the recipe sets it where it knows it
        self._saved = saved or {}
        self._on_progress = on_progress
        self._folder: RunLog | None = None
        self._started = self._saved_at = time.monotonic()
        self._interrupted: int = 0  # signal number
        self._exit = contextlib.ExitStack()

    @classmethod
    def start_or_resume(
        cls,
        config: RunSettings,
        process: Process,
        *,
        resume: bool = False,
        may_change: Collection[str] = (),
        on_progress: OnProgress | None = None,
    ) -> Run:
        """Start a run in `config.out`, or resume the one there. Nothing is written before the first row or checkpoint.

        resume: continue from the newest checkpoint that can be read; a damaged one is renamed to *.damaged and the one
        before is used. Without any checkpoint (a run that was killed before its first) the training starts from the
        beginning, with or without resume. may_change: settings beyond MAY_CHANGE that a resumed run may have otherwise.
        Raises InputError when the folder holds checkpoints or weights and resume is False, when another process trains
        into it, and for other settings or another number of processes than before; CheckpointError when all checkpoints
        are damaged; OutputError for a folder that cannot be written.
        """
        check_settings(config)
        folder = config.out
        lock = contextlib.ExitStack()
        found: Path | None = None
        if process.is_main:
            existed = folder.is_dir()
            make_folder(folder)
            try:
                lock.enter_context(lock_file(folder / ".lock", f"{folder}: another training is writing here"))
                lock.callback(_remove_if_empty, folder, existed)
                for left in folder.glob(".*.partial*"):  # of a process that was killed: the lock is ours
                    left.unlink(missing_ok=True)
                kept = checkpoints(folder)
                if not resume and (kept or any(folder.glob("*.safetensors"))):
                    raise InputError(
                        f"{folder}: holds a run already; resume it, or choose another folder", option="out"
                    )
                found = _newest_readable(kept) if resume else None
                if found is None and (resume or (folder / "metrics.jsonl").exists()):
                    logger.warning("%s: no checkpoint yet; the training starts from the beginning", folder)
                    for old in (folder / "metrics.jsonl", *folder.glob("*.csv")):
                        old.unlink(missing_ok=True)  # rows of the attempt that left no checkpoint
            except BaseException:
                lock.close()
                raise
        try:
            found = gather(found)[0]
            saved = None if found is None else load_checkpoint(found, process)
            if saved is not None:
                if "config" in saved:
                    check_same(config, saved["config"], may_change={*MAY_CHANGE, *may_change})
                logger.info("%s: resumes from step %d", folder, saved["step"])
            run = cls(config, process, saved, on_progress)
            run._exit.push(lock.pop_all())
            return run
        except BaseException:
            lock.close()
            raise

    def __enter__(self) -> Self:
        self._exit.enter_context(self._heed_signals())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    # ---------------------------------------------------------------- checkpoints

    def restore(self, **parts: Any) -> dict[str, Any]:
        """Bring parts (model=network, optimizer=...) and random states back to the checkpoint; return its content.

        Called after everything is built and seeded. Of a new run the content is empty, and nothing changes.
        """
        saved = self._saved
        if not saved:
            return {}
        for name, part in parts.items():
            try:
                part.load_state_dict(saved[name])
            except (KeyError, RuntimeError, ValueError) as error:
                why = " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{self.path}: the checkpoint's {name} does not fit this training ({why})"
                ) from error
        restore_random_state(saved["random"][self.process.rank])
        return saved

    def due(self, step: int) -> bool:
        """Return whether a checkpoint shall be written after this step: it is time, or the run is being interrupted.

        Several processes agree on it at the steps that are logged.
        """
        stops = step == self.config.stop_after_steps
        late = time.monotonic() - self._saved_at > 60 * self.config.checkpoint_minutes
        wanted = bool(late or self._interrupted)
        if self.process.world > 1:
            wanted = step % self.config.log_every == 0 and any(gather(wanted))
        return stops or wanted

    def save(self, step: int, **parts: Any) -> None:
        """Write a checkpoint of parts (their state dicts) and values with all random states; every rank calls this.

        The file is whole or absent; the two newest stay. After an interruption (Ctrl-C, SIGTERM) the run ends here.
        Raises InputError when the model's weights are not finite: the checkpoint before stays the newest.
        """
        content = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
        if isinstance(content.get("model"), Mapping):
            self._refuse_damaged(content["model"], step)
        self._begin(step)
        save_checkpoint(self.path, step, {"config": resolved(self.config), **content}, self.process)
        self._saved_at = time.monotonic()
        number = max(gather(self._interrupted))
        if number:
            logger.warning("%s: interrupted; step %d is saved, resume continues from there", self.path, step)
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def ended(self, step: int) -> bool:
        """Return whether the run shall stop early after this step, as its settings say (trials)."""
        return step == self.config.stop_after_steps

    # ---------------------------------------------------------------- log

    def log(self, kind: str, step: int, **values: Value) -> None:
        """Append a row to metrics.jsonl, <kind>.csv and TensorBoard, and report it as progress."""
        self._begin(step)
        assert self._folder is not None
        self._folder.log(kind, step, **values)
        if self._on_progress is not None and self.process.is_main:
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
            seconds = time.monotonic() - self._started
            before = self._saved.get("step", 0)
            self._on_progress(Progress(kind, step, self.total_steps, "steps", seconds, numbers, done_before=before))

    def note(self, text: str) -> None:
        """Log a line for people; the first process only."""
        if self.process.is_main:
            logger.info("%s", text)

    # ---------------------------------------------------------------- divergence

    def check_finite(self, step: int, *, lr: float | None = None, **values: float) -> None:
        """Raise InputError when a loss or another number of a step is not finite: the training has diverged."""
        for name, value in values.items():
            if not math.isfinite(value):
                now = "" if lr is None else f" (now {lr:g})"
                raise InputError(
                    f"step {step}: the {name.replace('_', ' ')} is {value}; lower lr{now}, lengthen the warm-up or set "
                    "clip_gradient",
                    option="lr",
                )

    def check_weights(self, network: nn.Module, step: int | None = None) -> None:
        """Raise InputError when weights are not finite: such a network is not written anywhere."""
        self._refuse_damaged(network.state_dict(), step)

    def _refuse_damaged(self, state: Mapping[str, Any], step: int | None) -> None:
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        damaged = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        if damaged:
            at = "after the last step" if step is None else f"after step {step}"
            raise InputError(
                f"{at}: {len(damaged)} of {len(tensors)} tensors of the network are not finite ({damaged[0]}, ...), "
                "nothing was written; lower lr, lengthen the warm-up or set clip_gradient",
                option="lr",
            )

    # ---------------------------------------------------------------- inside

    def _begin(self, step: int) -> None:
        if self._folder is None:
            at = self._saved["step"] if self.resumes else None
            self._folder = RunLog(self.path, self.config, resume_step=at, active=self.process.is_main)
            self._exit.callback(self._folder.close)

    @contextlib.contextmanager
    def _heed_signals(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM end the run after a checkpoint; the second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.getsignal(kind) for kind in kinds}

        def heed(number: int, frame: FrameType | None) -> None:
            self._interrupted = number
            for kind, handler in before.items():
                signal.signal(kind, handler)
            logger.warning("finishing the step, then saving; interrupt again to stop at once")

        for kind, handler in before.items():
            if handler is not None and handler is not signal.SIG_IGN:
                signal.signal(kind, heed)
        try:
            yield
        finally:
            for kind, handler in before.items():
                if handler is not None:
                    signal.signal(kind, handler)


@contextlib.contextmanager
def start_run(
    config: RunSettings,
    device: str | None,
    *,
    resume: bool = False,
    may_change: Collection[str] = (),
    on_progress: OnProgress | None = None,
) -> Iterator[Run]:
    """Join the processes of a run on a device, start or resume it, and seed every process alike.

    Arguments and errors as of `processes` and `Run.start_or_resume`.
    """
    with (
        processes(device) as process,
        Run.start_or_resume(config, process, resume=resume, may_change=may_change, on_progress=on_progress) as run,
    ):
        seed_everything(config.seed)
        yield run


def _newest_readable(kept: list[Path]) -> Path | None:
    """Return the newest checkpoint that can be read; damaged ones are renamed. None when there are none."""
    for path in reversed(kept):
        try:
            torch.load(path, map_location="cpu", weights_only=True)["step"]
        except Exception as error:  # torch raises many kinds for a damaged archive
            logger.warning("%s: damaged (%s); the checkpoint before it is used", path, type(error).__name__)
            path.replace(path.with_suffix(".damaged"))
        else:
            return path
    if kept:
        raise CheckpointError(
            f"{kept[-1].parent}: all {len(kept)} checkpoints are damaged; start anew in another folder, or resume once "
            "more to start from the beginning here"
        )
    return None


def _remove_if_empty(folder: Path, existed: bool) -> None:
    """Leave no trace of a run that has written nothing; the lock is still held."""
    with contextlib.suppress(OSError):
        if all(path.name == ".lock" for path in folder.iterdir()):
            (folder / ".lock").unlink()
            if not existed:
                folder.rmdir()
