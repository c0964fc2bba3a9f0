"""Hand out videos until each is done or has failed, and let nothing be lost or done twice on the way."""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twospeed.batch.inputs import Video
from twospeed.batch.local import Engine
from twospeed.batch.manifest import Manifest, Row, now, open_manifest
from twospeed.batch.report import REPORT, report_page
from twospeed.batch.storage import Storage
from twospeed.batch.tables import RESULTS, results_table, write_table
from twospeed.batch.worker import PARTS, VIDEOS, Outcome, Task, facts_of, part_names
from twospeed.errors import InputError, TwospeedError
from twospeed.files import parse_json
from twospeed.results import OnProgress, Progress

BATCH, EVENTS = "batch.json", "events"
_WAIT_S = 0.5
_SECONDS_BETWEEN_REPORTS = 60.0
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """attempts: at each video, where a fault or a death of the worker ends one. backoff_s: before the second attempt,
    doubled before each further one. lease_s: how long an owner or a worker may show no life."""

    attempts: int = 3
    backoff_s: float = 2.0
    lease_s: float = 60.0


_Unit = tuple[str, int]
"""What is handed out: a video's key with the number of one of its parts, 0 for the whole."""

OnEvent = Callable[[Mapping[str, Any]], None]


class Batch:
    """One run of a batch in a storage that it owns; use as a context manager.

    Raises InputError where another run owns the storage, or it holds a batch of another job or with other options.
    """

    def __init__(self, storage: Storage, job: str, arguments: Sequence[str], policy: Policy | None = None) -> None:
        self.storage, self.policy = storage, policy or Policy()
        self._settings: dict[str, Any] = {"job": job, "arguments": list(arguments)}
        self._stack = contextlib.ExitStack()
        self._events: list[str] = []
        self._event_parts = 0

    def __enter__(self) -> Batch:
        with self._stack:
            self._beat = self._stack.enter_context(self.storage.hold(self.policy.lease_s))
            self.batch_id = self._check_settings()
            self.manifest: Manifest = open_manifest(self.storage)
            self._stack.callback(self.manifest.close)
            self._recover()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check_settings(self) -> str:
        content = self.storage.read(BATCH)
        if content is None:
            batch_id = uuid.uuid4().hex
            self.storage.write(BATCH, json.dumps({"id": batch_id, **self._settings}, indent=2).encode())
            return batch_id
        known = read_settings(self.storage)
        for name, value in self._settings.items():
            if known[name] != value:
                then, here = (" ".join(v) if isinstance(v, list) else v for v in (known[name], value))
                raise InputError(
                    f"{self.storage.url} holds a batch with {name} {then or 'none'!r}, now it is {here or 'none'!r}; "
                    "give the same, or choose another place"
                )
        return str(known["id"])

    def _recover(self) -> None:
        """Take over what an owner that is gone has left: finished work counts, the rest is pending again."""
        lost = [row for row in self.manifest.rows.values() if row.state == "running"]
        for row in lost:
            if (facts := delivered(self.storage, row.key)) is not None:
                self.manifest.finish(row, facts, facts["seconds"])
        self.manifest.release([row for row in lost if row.state == "running"])

    def add(self, videos: Sequence[Video]) -> None:
        """Add videos that the batch does not have yet."""
        self.manifest.add(videos)

    def run(
        self,
        engine: Engine,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_progress: OnProgress = lambda progress: None,
        on_event: OnEvent = lambda event: None,
    ) -> dict[str, int]:
        """Work until every video is done or has failed, and return how many are in each state.

        is_stopped: asked now and then; once it says so, nothing more begins, and what runs ends.

        Raises CheckpointError's message as InputError where a setup error holds for all videos, OutputError where the
        manifest cannot be written. What runs then is taken back.
        """
        rows, running = self.manifest.rows, set[_Unit]()
        due = {(key, 0): 0.0 for key, row in rows.items() if row.state == "pending"}
        parts: dict[str, int] = {}  # of the videos that are computed in several
        begun = reported = time.monotonic()
        before = self.manifest.counts()
        setup_error = ""

        def show() -> None:
            counts, seconds = self.manifest.counts(), time.monotonic() - begun
            ended = counts["done"] + counts["failed"]
            earlier = before["done"] + before["failed"]
            here = ended - earlier
            values = {"failed": float(counts["failed"]), "running": float(len(running))}
            if here:
                values |= {"per_minute": 60 * here / seconds, "minutes_left": (len(rows) - ended) * seconds / here / 60}
            on_progress(Progress("batch", ended, len(rows), "videos", seconds, values, done_before=earlier))

        self._note(on_event, "start", videos=len(rows), slots=engine.slots, **before)
        try:
            while running or (due and not is_stopped() and not setup_error):
                self._beat()
                moment = time.monotonic()
                ready = [unit for unit, after in due.items() if after <= moment]
                for unit in ready[: 0 if is_stopped() or setup_error else engine.free]:
                    del due[unit]
                    running.add(unit)
                    key, part = unit
                    row = rows[key]
                    if row.state == "pending":  # else another part of it runs
                        self.manifest.claim(row, self.storage.id)
                    count = parts.get(key, 1)
                    engine.submit(Task(key, row.source, row.arguments, row.attempts, row.stopped, part, count))
                    self._note(on_event, "begin", video=key, attempt=row.attempts, **({"part": part} if part else {}))
                for outcome in engine.wait(_WAIT_S):
                    unit, row = (outcome.key, outcome.part), rows[outcome.key]
                    if unit not in running:
                        continue
                    running.remove(unit)
                    if outcome.ending == "setup":
                        setup_error = setup_error or outcome.error
                    elif outcome.ending == "split":
                        parts[row.key] = outcome.parts
                        missing = self._missing_parts(row.key, outcome.parts)
                        due = dict.fromkeys(missing, 0.0) | due  # before other videos
                        self._note(on_event, "split", video=row.key, parts=outcome.parts)
                    elif outcome.part and outcome.ending == "done":
                        self._note(on_event, "part", video=row.key, part=outcome.part, seconds=outcome.seconds)
                        if not any(key == row.key for key, _ in (*running, *due)) and row.state != "failed":
                            due = {(row.key, 0): 0.0} | due
                    elif row.state != "failed":  # by another part
                        pause = self._settle(row, outcome, on_event)
                        if pause is not None:
                            due[unit] = time.monotonic() + pause
                        else:  # done, or failed for good
                            due = {unit: after for unit, after in due.items() if unit[0] != row.key}
                show()
                if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                    self.write_reports(time.monotonic() - begun, before)
                    reported = time.monotonic()
        finally:
            engine.close()
            with contextlib.suppress(TwospeedError):
                self.manifest.release([row for row in rows.values() if row.state == "running"])
        counts = self.manifest.counts()
        self._note(on_event, "end", seconds=round(time.monotonic() - begun, 3), **counts)
        self.write_reports(time.monotonic() - begun, before)
        if setup_error:
            raise InputError(setup_error)
        return counts

    def write_reports(self, seconds: float, before: Mapping[str, int]) -> None:
        """Write results.parquet, report.html and what has happened since."""
        rows = list(self.manifest.rows.values())
        self.storage.write(RESULTS, write_table(results_table(rows)))
        ended = self.manifest.counts()["done"] - before["done"]
        page = report_page(str(self._settings["job"]), self.storage.url, rows, ended=ended, seconds=seconds)
        self.storage.write(REPORT, page.encode())
        if self._events:
            name = f"{EVENTS}/{now().replace(':', '')}-{self.storage.id[:8]}-{self._event_parts:06d}.jsonl"
            self.storage.write(name, "".join(self._events).encode())
            self._event_parts += 1
            self._events.clear()

    def _missing_parts(self, key: str, count: int) -> list[_Unit]:
        """Return what is left to compute of a video in parts: those that no earlier run has left, or the whole."""
        there = self.storage.names(f"{PARTS}/{key}")
        missing = [number for number, name in enumerate(part_names(count), 1) if name not in there]
        return [(key, number) for number in missing or [0]]

    def _settle(self, row: Row, outcome: Outcome, on_event: OnEvent) -> float | None:
        """Note how an attempt ended; return after how many seconds there is another one, None for none."""
        if outcome.ending != "done" and (facts := delivered(self.storage, row.key)) is not None:
            # It died after it had delivered
            outcome = Outcome(row.key, "done", seconds=facts["seconds"], facts=facts, parts=outcome.parts)
        if outcome.ending == "done":
            self.manifest.finish(row, outcome.facts, outcome.seconds)
            if outcome.parts > 1:
                self.storage.remove(f"{PARTS}/{row.key}")
            self._note(on_event, "done", video=row.key, seconds=outcome.seconds, frames=outcome.facts.get("frames"))
            return None
        final = outcome.ending == "input" or row.attempts >= self.policy.attempts
        self.manifest.fail(row, outcome.ending, outcome.error, final=final, seconds=outcome.seconds)
        self._note(on_event, "failed" if final else "retry", video=row.key, kind=outcome.ending, error=outcome.error)
        if final:
            return None
        pause = min(self.policy.backoff_s * 2 ** (row.attempts - 1), _LONGEST_PAUSE_S)
        return pause * random.uniform(0.75, 1.25)  # so that what fails together is not tried again together

    def _note(self, on_event: OnEvent, what: str, **facts: Any) -> None:
        event = {"time": now(), "event": what, **facts}
        self._events.append(json.dumps(event) + "\n")
        on_event(event)


def read_settings(storage: Storage) -> dict[str, Any]:
    """Return what `batch.json` says: id, job, arguments. Raises InputError where there is no batch."""
    content = storage.read(BATCH)
    if content is None:
        raise InputError(f"{storage.url} holds no batch; its folder has a {BATCH}")
    try:
        known = parse_json(content.decode(), BATCH)
        if not all(isinstance(one, str) for one in (known["id"], known["job"], *known["arguments"])):
            raise TypeError("its values are no texts")
        return {name: known[name] for name in ("id", "job", "arguments")}
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{storage.url}/{BATCH} is no description of a batch ({error}); choose another place"
        ) from error


def delivered(storage: Storage, key: str) -> dict[str, Any] | None:
    """Return the facts of a video whose results are there, whole; else None."""
    content = storage.read(f"{VIDEOS}/{key}/run.json") if storage.exists(f"{VIDEOS}/{key}") else None
    if content is None:
        return None
    try:
        return facts_of(parse_json(content.decode(), "run.json"))
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{storage.url}/{VIDEOS}/{key}/run.json cannot be read as the record of a run ({error}); remove that folder"
        ) from error
