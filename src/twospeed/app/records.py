"""Jobs of a project, and what classify, detect and segment found in its video."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twospeed.app.database import Database
from twospeed.errors import InputError


class Records(Database):
    """The part of a project that only jobs write."""

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
