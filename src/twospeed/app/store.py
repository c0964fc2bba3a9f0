"""What is known of one video, on disk: its source, objects, marks and masks, in one SQLite file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app import wire
from twospeed.app.database import Conflict, Database
from twospeed.app.plan import ranges_of
from twospeed.app.wire import EDITED, GIVEN, STALE, TRACKED, WireMask
from twospeed.errors import InputError
from twospeed.results import AnnotatedFrame, ObjectMasks

MOST_OBJECTS = 50  # as many as are tracked at once
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")  # Okabe and Ito
_DESCRIBED = ("name", "width", "height", "frames", "times_s", "fingerprint", "run")


class Project(Database):
    """One video's state. Safe to use from several threads; one process writes it, others pass only_read.

    Raises InputError for a file of another version, OutputError where the disk refuses.
    """

    def describe(self, source: Mapping[str, Any], times_s: NDArray[np.float64]) -> None:
        """Write down the source once: name, path, width, height, size, checksum; and every frame's time in seconds."""
        with self._changes():
            for key, value in source.items():
                self._put(key, value)
            self._put("times_s", base64.b64encode(times_s.astype("<f8").tobytes()).decode())
            self._put("frames", len(times_s))
            self._put("rev", 0)

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Every frame's time in seconds."""
        return np.frombuffer(base64.b64decode(self.get("times_s")), "<f8")

    def relocate(self, path: str, fingerprint: str, name: str | None = None) -> None:
        """Write down where the source is now. path: relative to the open folder. name: a new one, if any."""
        with self._changes():
            if name is not None:
                self._put("name", name)
            self._put("path", path)
            self._put("fingerprint", fingerprint)

    def state(self) -> dict[str, Any]:
        """Return everything but masks, as JSON."""
        with self._lock:
            rows = self._all("SELECT frame, source, stale, confidence FROM mask ORDER BY frame")
            keys = [frame for frame, source, _, _ in rows if source != TRACKED]
            curves: dict[int, NDArray[np.float32]] = {}
            for frame, _, _, confidence in rows:
                for object_id, value in wire.unpack_confidence(confidence).items():
                    curve = curves.setdefault(object_id, np.full(self.frames, np.nan, np.float32))
                    curve[frame] = value
            marks = self._all("SELECT frame, object, data FROM mark ORDER BY frame")
            return {
                "id": self.id,
                **{key: self.get(key) for key in _DESCRIBED},
                "in": self.get("in", 0),
                "out": self.get("out", self.frames - 1),
                "objects": self.objects(),
                "keyframes": keys,
                "tracked": ranges_of(frame for frame, source, _, _ in rows if source == TRACKED),
                "stale": ranges_of(frame for frame, _, stale, _ in rows if stale),
                "marks": [{"frame": f, "object": o, **self._json(data)} for f, o, data in marks],
                "curves": {i: base64.b64encode(c.astype("<f4").tobytes()).decode() for i, c in curves.items()},
                "jobs": self.jobs(),
                "results": [row[0] for row in self._all("SELECT DISTINCT kind FROM result")],
                "rev": self.rev,
                "undo": self._one("SELECT kind FROM op WHERE undone=0 ORDER BY seq DESC") is not None,
                "redo": self._one("SELECT kind FROM op WHERE undone=1 ORDER BY seq") is not None,
            }

    def objects(self) -> list[dict[str, Any]]:
        """Return the objects in order."""
        rows = self._all("SELECT id, name, colour, hidden, locked, position FROM object ORDER BY position, id")
        names = ("id", "name", "colour", "hidden", "locked", "position")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def mask(self, frame: int) -> WireMask | None:
        """Return a frame's mask, or None."""
        row = self._one("SELECT runs, confidence, source, rev, stale FROM mask WHERE frame=?", frame)
        return None if row is None else self._wire(frame, *row)

    def masks(self, first: int, last: int, step: int = 1) -> list[WireMask]:
        """Return the masks of frames first..last, every step-th."""
        rows = self._all(
            "SELECT frame, runs, confidence, source, rev, stale FROM mask WHERE frame BETWEEN ? AND ? "
            "AND (frame - ?) % ? = 0 ORDER BY frame",
            *(first, last, first, step),
        )
        return [self._wire(*row) for row in rows]

    def labels(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame's labels, zeros where there is no mask."""
        mask = self.mask(frame)
        return np.zeros(self.size, np.uint8) if mask is None else mask.labels()

    def object_masks(self, frame: int, objects: frozenset[int] | None = None) -> ObjectMasks:
        """Return a frame's masks of all objects, or the chosen ones. Probabilities are not stored: there are none."""
        mask = self.mask(frame)
        known = {} if mask is None else mask.confidence
        ids = sorted(entry["id"] for entry in self.objects() if objects is None or entry["id"] in objects)
        found = self.labels(frame)
        labels = np.where(np.isin(found, ids), found, 0).astype(np.uint8)
        confidence = np.array([known.get(i, 1.0) for i in ids], np.float32)
        planes = np.zeros((0, *labels.shape), np.float32)
        return ObjectMasks(labels, planes, tuple(ids), frame, float(self.times[frame]), confidence)

    def keyframes(self) -> list[int]:
        """Return the frames whose masks a person made, sorted."""
        return [row[0] for row in self._all("SELECT frame FROM mask WHERE source!=? ORDER BY frame", TRACKED)]

    def changed_since(self, rev: int) -> list[list[int]]:
        """Return ranges of frames whose masks changed after a revision."""
        return ranges_of(row[0] for row in self._all("SELECT frame FROM mask WHERE rev>? ORDER BY frame", rev))

    def stale_frames(self) -> list[int]:
        """Return the frames that were tracked from keyframes that have changed since."""
        return [row[0] for row in self._all("SELECT frame FROM mask WHERE stale=1 ORDER BY frame")]

    # --- changes -------------------------------------------------------------------------------------------------

    def add_object(self, name: str = "", tab: str = "") -> int:
        """Add an object; returns its id, the lowest that is free."""
        with self._op("new object", tab) as op:
            used = {row[0] for row in self._all("SELECT id FROM object")}
            free = [i for i in range(1, MOST_OBJECTS + 1) if i not in used]
            if not free:
                raise InputError(f"{MOST_OBJECTS} objects is the most that can be tracked at once")
            self._set_row(op, "object", str(free[0]), _new_object(free[0], name))
            return free[0]

    def change_object(self, object_id: int, changes: Mapping[str, Any], tab: str = "") -> None:
        """Change name, colour, hidden, locked or position of an object."""
        with self._op("change object", tab) as op:
            row = self._row("object", str(object_id))
            if row is None:
                raise InputError(f"there is no object {object_id}")
            names = ("name", "colour", "hidden", "locked", "position")
            new = [changes.get(name, old) for name, old in zip(names, row, strict=True)]
            self._set_row(op, "object", str(object_id), new)

    def delete_object(self, object_id: int, tab: str = "") -> None:
        """Delete an object with its marks, and its pixels in every mask."""
        with self._op("delete object", tab) as op:
            if self._row("object", str(object_id)) is None:
                raise InputError(f"there is no object {object_id}")
            self._set_row(op, "object", str(object_id), None)
            for (frame,) in self._all("SELECT frame FROM mark WHERE object=?", object_id):
                self._set_row(op, "mark", f"{frame}:{object_id}", None)
            for (frame,) in self._all("SELECT frame FROM mask"):
                mask = self.mask(frame)
                labels = self.labels(frame)
                if mask is not None and (object_id in mask.confidence or (labels == object_id).any()):
                    left = np.where(labels == object_id, 0, labels).astype(np.uint8)
                    sure = {i: value for i, value in mask.confidence.items() if i != object_id}
                    self._set_mask(op, wire.mask_of(left, frame, sure, mask.source & ~STALE))

    def set_range(self, first: int, last: int, tab: str = "") -> None:
        """Set the in and out points: tracking and exports are of frames first..last."""
        if not 0 <= first <= last < self.frames:
            raise InputError(f"in {first} and out {last} are no part of frames 0 to {self.frames - 1}")
        with self._op("in and out", tab) as op:
            self._set_row(op, "meta", "in", [first])
            self._set_row(op, "meta", "out", [last])

    def set_marks(
        self,
        frame: int,
        object_id: int,
        marks: Mapping[str, Any] | None,
        region: NDArray[np.bool_],
        tab: str = "",
        base_rev: int | None = None,
    ) -> WireMask:
        """Keep an object's marks on a frame (None: remove them), with the mask they give, as one change.

        base_rev: the revision that the edit began from; raises Conflict where the frame has changed since.
        """
        with self._op("marks", tab) as op:
            self._check_unchanged(frame, base_rev)
            self._set_row(op, "mark", f"{frame}:{object_id}", None if marks is None else [dict(marks)])
            return self._paint(op, frame, object_id, region, GIVEN)

    def paint(
        self, frame: int, object_id: int, region: NDArray[np.bool_], tab: str = "", base_rev: int | None = None
    ) -> WireMask:
        """Make an object's mask on a frame exactly this region, where no locked object is. base_rev: as `set_marks`."""
        with self._op("paint", tab) as op:
            self._check_unchanged(frame, base_rev)
            if object_id in self.gone().get(frame, ()):
                self._set_row(op, "mark", f"{frame}:{object_id}", None)
            return self._paint(op, frame, object_id, region, EDITED)

    def put_labels(self, labels: Mapping[int, NDArray[np.uint8]], tab: str = "", base_rev: int | None = None) -> int:
        """Take whole label maps, by frame, as given masks (import), adding new objects; returns their revision."""
        with self._op("import", tab) as op:
            for frame in labels:
                self._check_unchanged(frame, base_rev)
            known = {entry["id"] for entry in self.objects()}
            found = sorted({int(i) for one in labels.values() for i in np.unique(one)} - {0, 255} - known)
            if found and (found[-1] > MOST_OBJECTS or len(known) + len(found) > MOST_OBJECTS):
                raise InputError(f"the masks hold object {found[-1]}; ids run from 1 to {MOST_OBJECTS}")
            for i in found:
                self._set_row(op, "object", str(i), _new_object(i))
            for frame, one in labels.items():
                clean = np.where(one == 255, 0, one).astype(np.uint8)
                self._set_mask(op, wire.mask_of(clean, frame, {}, GIVEN))
            for frame in labels:
                self._make_stale(op, frame)
            return self.rev

    def clear_mask(self, frame: int, object_id: int, tab: str = "", base_rev: int | None = None) -> WireMask:
        """Delete an object's mask here: the object is gone from this frame on, until it is marked again."""
        with self._op("gone", tab) as op:
            self._check_unchanged(frame, base_rev)
            mask = self._paint(op, frame, object_id, np.zeros(self.size, bool), EDITED)
            marks: dict[str, Any] = {"points": [], "box": None, "polygon": [], "start": None, "gone": True}
            self._set_row(op, "mark", f"{frame}:{object_id}", [marks])
            return mask

    def marks(self, frame: int, object_id: int) -> dict[str, Any] | None:
        """Return an object's marks on a frame."""
        row = self._one("SELECT data FROM mark WHERE frame=? AND object=?", frame, object_id)
        return None if row is None else dict(self._json(row[0]))

    def gone(self) -> dict[int, list[int]]:
        """Return the objects that are gone, by the frame where a person said so."""
        found: dict[int, list[int]] = {}
        for frame, object_id, data in self._all("SELECT frame, object, data FROM mark"):
            if self._json(data).get("gone"):
                found.setdefault(frame, []).append(object_id)
        return found

    def remove_keyframe(self, frame: int, tab: str = "", base_rev: int | None = None) -> None:
        """Forget a frame's mask and marks altogether."""
        with self._op("remove keyframe", tab) as op:
            self._check_unchanged(frame, base_rev)
            for (object_id,) in self._all("SELECT object FROM mark WHERE frame=?", frame):
                self._set_row(op, "mark", f"{frame}:{object_id}", None)
            was_key = frame in self.keyframes()
            self._keep_mask(op, frame)
            self._db.execute("DELETE FROM mask WHERE frame=?", (frame,))
            if was_key:
                self._make_stale(op, frame)

    def add_tracked(self, job_id: int, masks: Iterable[WireMask]) -> list[WireMask]:
        """Store masks as a job delivers them, all under one op; returns those stored, as they are now.

        Frames that a person marked stay as they are, and so do the pixels of locked objects, which win over others.
        """
        with self._lock:
            if (op := self._one("SELECT op FROM job WHERE id=?", job_id)[0]) is None:
                with self._op("track", "") as op:
                    self._db.execute("UPDATE job SET op=? WHERE id=?", (op, job_id))
            locked = [entry["id"] for entry in self.objects() if entry["locked"]]
            known = {entry["id"] for entry in self.objects()}
            stored = []
            with self._changes():
                for mask in masks:
                    row = self._one("SELECT source FROM mask WHERE frame=?", mask.frame)
                    if row is not None and row[0] != TRACKED:
                        continue
                    merged = self._with_locked(mask, locked, known).marked(source=TRACKED, rev=self.rev)
                    self._set_mask(op, merged, job_id)
                    stored.append(merged)
                self._db.execute("UPDATE job SET done=done+? WHERE id=?", (len(stored), job_id))
            return stored

    def add_finished(self, masks: Iterable[WireMask]) -> None:
        """Store masks as they are, of a finished run, with objects that are not known yet. There is nothing to undo."""
        with self._changes():
            for mask in masks:
                found = {*mask.confidence, *np.unique(mask.labels()).tolist()} - {0}
                if found and max(found) > MOST_OBJECTS:
                    raise InputError(f"the masks hold object {max(found)}; ids run from 1 to {MOST_OBJECTS}")
                self.add_objects_found(found)
                self._store_mask(mask)

    def add_objects_found(self, ids: Iterable[int]) -> None:
        """Add objects that a job found, where they are not known yet."""
        with self._changes():
            known = {entry["id"] for entry in self.objects()}
            for i in sorted(set(ids) - known):
                self._write_row("object", str(i), _new_object(i))

    # --- jobs, and what they found ------------------------------------------------------------------------------

    def jobs(self) -> list[dict[str, Any]]:
        """Return the newest jobs, newest first."""
        names = ("id", "kind", "options", "state", "done", "total", "error", "seconds")
        rows = self._all(f"SELECT {', '.join(names)} FROM job ORDER BY id DESC LIMIT 20")
        return [{**dict(zip(names, row, strict=True)), "options": self._json(row[2])} for row in rows]

    def job(self, job_id: int) -> dict[str, Any]:
        """Return one job. Raises InputError where there is none."""
        for entry in self.jobs():
            if entry["id"] == job_id:
                return entry
        raise InputError(f"there is no job {job_id}")

    def add_job(self, kind: str, options: Mapping[str, Any], total: int) -> int:
        """Queue a job; returns its id."""
        with self._changes():
            cursor = self._db.execute(
                "INSERT INTO job (kind, options, state, done, total, seconds) VALUES (?, ?, 'queued', 0, ?, 0)",
                (kind, json.dumps(options), total),
            )
            return int(cursor.lastrowid or 0)

    def set_job(self, job_id: int, **values: Any) -> None:
        """Change state, done, total, error or seconds of a job."""
        with self._changes():
            for name, value in values.items():
                self._db.execute(f"UPDATE job SET {name}=? WHERE id=?", (value, job_id))

    def frames_of_job(self, job_id: int) -> list[int]:
        """Return the frames whose masks a job made."""
        return [row[0] for row in self._all("SELECT frame FROM mask WHERE job=? AND stale=0", job_id)]

    def put_results(self, kind: str, results: Mapping[int, Any]) -> None:
        """Store results of classify, detect or segment, by frame: bytes as they are, anything else as JSON."""
        rows = [
            (kind, i, one if isinstance(one, bytes) else json.dumps(one, allow_nan=False).encode())
            for i, one in results.items()
        ]
        with self._changes():
            self._db.executemany("INSERT OR REPLACE INTO result VALUES (?, ?, ?)", rows)

    def clear_results(self, kind: str) -> None:
        """Forget the results of a kind before they are made anew."""
        with self._changes():
            self._db.execute("DELETE FROM result WHERE kind=?", (kind,))

    def results(self, kind: str) -> list[tuple[int, bytes]]:
        """Return (frame, data) of a kind, sorted."""
        return self._all("SELECT frame, data FROM result WHERE kind=? ORDER BY frame", kind)

    def result(self, kind: str, frame: int) -> bytes | None:
        """Return the data of a frame."""
        row = self._one("SELECT data FROM result WHERE kind=? AND frame=?", kind, frame)
        return None if row is None else row[0]

    def result_frames(self, kind: str) -> list[int]:
        """Return the frames that have a result of a kind, sorted."""
        return [row[0] for row in self._all("SELECT frame FROM result WHERE kind=? ORDER BY frame", kind)]

    # --- inside --------------------------------------------------------------------------------------------------

    def _check_unchanged(self, frame: int, base_rev: int | None) -> None:
        row = self._one("SELECT rev FROM mask WHERE frame=?", frame)
        if base_rev is not None and row is not None and row[0] > base_rev:
            raise Conflict(f"frame {frame} was changed meanwhile, in another tab or by tracking")

    def _paint(self, op: int, frame: int, object_id: int, region: NDArray[np.bool_], source: int) -> WireMask:
        if self._row("object", str(object_id)) is None:
            raise InputError(f"there is no object {object_id}; add it first")
        locked = [entry["id"] for entry in self.objects() if entry["locked"]]
        if object_id in locked:
            raise InputError(f"object {object_id} is locked; unlock it to change it")
        labels = self.labels(frame).copy()
        free = ~np.isin(labels, locked)
        labels[labels == object_id] = 0
        labels[region & free] = object_id
        mask = wire.mask_of(labels, frame, {}, source)
        self._set_mask(op, mask)
        self._make_stale(op, frame)
        return mask.marked(source=source, rev=self.rev)

    def _with_locked(self, mask: WireMask, locked: list[int], known: set[int]) -> WireMask:
        labels = mask.labels()
        before = self.mask(mask.frame)
        old = np.zeros_like(labels) if before is None else before.labels()
        unknown = set(mask.confidence) - known
        if not locked and not unknown:
            return mask
        labels = np.where(np.isin(labels, [*locked, *unknown]), 0, labels)
        labels = np.where(np.isin(old, locked), old, labels).astype(np.uint8)
        kept = {} if before is None else {i: c for i, c in before.confidence.items() if i in locked}
        new = {i: c for i, c in mask.confidence.items() if i in known and i not in locked}
        return wire.mask_of(labels, mask.frame, {**new, **kept}, TRACKED)

    def _make_stale(self, op: int, frame: int) -> None:
        """Mark the tracked frames from the keyframe before this one to the next as stale."""
        keys = [key for key in self.keyframes() if key != frame]
        first = max((key for key in keys if key < frame), default=-1)
        last = min((key for key in keys if key > frame), default=self.frames)
        rows = self._all(
            "SELECT frame FROM mask WHERE frame>? AND frame<? AND source=? AND stale=0", first, last, TRACKED
        )
        if rows:
            self._set_row(op, "stale", ",".join(str(f) for (f,) in rows), [1])

    def _wire(self, frame: int, runs: bytes, confidence: bytes, source: int, rev: int, stale: int) -> WireMask:
        height, width = self.size
        known = wire.unpack_confidence(confidence)
        return WireMask(frame, height, width, runs, known, source + (STALE if stale else 0), rev)


def _new_object(number: int, name: str = "") -> list[Any]:
    """Return the row of an object: name, colour, hidden, locked, position."""
    return [name or f"object {number}", COLOURS[(number - 1) % len(COLOURS)], 0, 0, number]


def is_project(path: Path) -> bool:
    """Whether this is the folder of a project of the page."""
    return (path / "project.db").is_file()


def read_project(path: Path, *, marked: bool = False) -> Iterator[AnnotatedFrame]:
    """Yield the masks of a project's folder, in order of frames; also while the page is open.

    marked: only of frames that a person marked or corrected. Raises InputError for what is no project.
    """
    project = Project(path, only_read=True)
    try:
        if project.get("frames") is None:
            raise InputError(f"{path}: is no finished project; open its video in the page again")
        video = Path(project.get("name")).stem
        keys = project.keyframes()
        frames = keys if marked else [i for a, b in project.changed_since(-1) for i in range(a, b + 1)]
        for index in frames:
            yield AnnotatedFrame(video, f"{index:05d}", index, project.object_masks(index))
    finally:
        project.close()
