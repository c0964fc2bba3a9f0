"""What is known of every video of a batch: one row each, written through before anything is done on the strength of it.

    pending ──claim──> running ──done──> done
       ^                  │
       └── release/retry ─┴──failed──> failed ──retry-failed──> pending

Only the process that owns the storage writes, so that a row is never claimed twice. A running row names its owner; rows
of an owner that is gone are released by the next one. No row holds a time that is compared with another: leases are
counted by a clock that never jumps, see `driver`.
"""

from __future__ import annotations

import json
import re
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from twospeed.batch.inputs import Video
from twospeed.batch.storage import BucketStorage, FolderStorage, Storage
from twospeed.errors import InputError, OutputError
from twospeed.files import make_folder, parse_json

State = Literal["pending", "running", "done", "failed"]
FILE, FOLDER = "manifest.sqlite", "manifest"
_KEY = re.compile(r"\w[\w.-]{,120}")  # what `Video.key` gives


@dataclass
class Row:
    """One video. attempts: begun, without those that were stopped or lost with their owner. kind: of the error, see
    `worker.Ending`. seconds: of the attempt that ended it. facts: see `worker.facts_of`. begun, ended: for people."""

    key: str
    source: str
    arguments: Sequence[str] = ()
    state: State = "pending"
    attempts: int = 0
    stopped: bool = False
    owner: str = ""
    kind: str = ""
    error: str = ""
    seconds: float = 0.0
    begun: str = ""
    ended: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Manifest(ABC):
    """The rows, in the order in which videos were added."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {row.key: row for row in self._load()}

    @abstractmethod
    def _load(self) -> Iterable[Row]:
        """Read all rows, in order."""

    @abstractmethod
    def _save(self, rows: Sequence[Row]) -> None:
        """Write rows through, all of them or none where the storage can."""

    def close(self) -> None:
        """Close what is open."""
        return

    def add(self, videos: Iterable[Video]) -> list[Row]:
        """Add rows for videos that have none yet. What is known of the others stays.

        But for options of videos that have failed, or were not begun: those that have others now, or a mask that was
        missing, are pending with them.
        """
        known = {row.source: row for row in self.rows.values()}
        taken = {key.casefold() for key in self.rows}
        new, changed = [], []
        for video in videos:
            if (row := known.get(video.source)) is not None:
                open_again = row.state in ("pending", "failed") and not row.stopped and not video.error
                if open_again and list(video.arguments) != list(row.arguments):
                    row.arguments, row.state, row.attempts = list(video.arguments), "pending", 0
                    row.kind = row.error = row.ended = ""
                    changed.append(row)
                continue
            key = video.key(taken)
            taken.add(key.casefold())
            row = Row(key, video.source, list(video.arguments))
            if video.error:
                row.state, row.kind, row.error, row.ended = "failed", "input", video.error, now()
            known[video.source] = self.rows[key] = row
            new.append(row)
        self._save([*new, *changed])
        return new

    def claim(self, row: Row, owner: str) -> None:
        """Let a row run under an owner."""
        assert row.state == "pending"
        row.state, row.owner, row.begun, row.ended = "running", owner, now(), ""
        row.attempts += 1
        self._save([row])

    def finish(self, row: Row, facts: dict[str, Any], seconds: float) -> None:
        """Count a video as done."""
        row.state, row.owner, row.kind, row.error, row.facts = "done", "", "", "", facts
        row.seconds, row.ended, row.stopped = seconds, now(), False
        self._save([row])

    def fail(self, row: Row, kind: str, error: str, *, final: bool, seconds: float = 0.0) -> None:
        """Note an attempt that has failed. final: there will be no other."""
        row.state, row.owner = "failed" if final else "pending", ""
        row.kind, row.error, row.seconds, row.ended, row.stopped = kind, error, seconds, now(), False
        self._save([row])

    def release(self, rows: Sequence[Row]) -> None:
        """Take back attempts that were stopped: they do not count, and the next one continues them."""
        for row in rows:
            row.state, row.owner, row.stopped = "pending", "", True
            row.attempts = max(0, row.attempts - 1)
        self._save(rows)

    def retry_failed(self) -> list[Row]:
        """Let failed rows run again, with new attempts; not those that could never begin, for lack of a mask."""
        rows = [row for row in self.rows.values() if row.state == "failed" and row.attempts]
        for row in rows:
            row.state, row.attempts = "pending", 0
        self._save(rows)
        return rows

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each state."""
        found = Counter(row.state for row in self.rows.values())
        return {state: found.get(state, 0) for state in ("pending", "running", "done", "failed")}


class SqliteManifest(Manifest):
    """Rows in a file of SQLite, with a log that is written ahead: readers do not wait, a crash loses nothing.

    Raises OutputError where the disk refuses or the file is none of ours.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with self._errors():
            if read_only:
                # Readers leave files of their own beside the manifest, unless they are told that nobody writes
                written = path.with_name(f"{path.name}-wal").exists()
                mode = "mode=ro" if written else "mode=ro&immutable=1"
                self._base = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
            else:
                make_folder(path.parent)
                self._base = sqlite3.connect(path)
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute("PRAGMA synchronous=NORMAL")
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS video "
                    "(number INTEGER PRIMARY KEY, key TEXT UNIQUE, state TEXT, row TEXT)"
                )
        super().__init__()

    def _load(self) -> Iterable[Row]:
        with self._errors():
            rows = self._base.execute("SELECT row FROM video ORDER BY number").fetchall()
        return [_row(text, self.path) for (text,) in rows]

    def _save(self, rows: Sequence[Row]) -> None:
        with self._errors(), self._base:
            self._base.executemany(
                "INSERT INTO video (key, state, row) VALUES (?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET state = excluded.state, row = excluded.row",
                [(row.key, row.state, json.dumps(asdict(row))) for row in rows],
            )

    def close(self) -> None:
        """Close the file."""
        with self._errors():
            self._base.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutputError(f"cannot use {self.path} ({error}); free space, or choose another folder") from error


class BucketManifest(Manifest):
    """Rows as objects in a bucket, one each."""

    def __init__(self, storage: BucketStorage) -> None:
        self._storage = storage
        self._numbers: dict[str, int] = {}
        super().__init__()

    def _load(self) -> Iterator[Row]:
        where = f"{self._storage.url}/{FOLDER}"
        found = []
        for content in self._storage.read_many(FOLDER):
            try:
                entry = parse_json(content.decode(), where)
                found.append((int(entry["number"]), json.dumps(entry["row"])))
            except (InputError, ValueError, KeyError, TypeError) as error:
                raise OutputError(f"{where} holds what is none of a batch ({error}); choose another place") from error
        for number, text in sorted(found):
            row = _row(text, where)
            self._numbers[row.key] = number
            yield row

    def _save(self, rows: Sequence[Row]) -> None:
        for row in rows:
            number = self._numbers.setdefault(row.key, len(self._numbers))
            content = json.dumps({"number": number, "row": asdict(row)})
            self._storage.write(f"{FOLDER}/{row.key}.json", content.encode())


def open_manifest(storage: Storage, *, read_only: bool = False) -> Manifest:
    """Return the manifest of a storage."""
    if isinstance(storage, FolderStorage):
        return SqliteManifest(storage.root / FILE, read_only=read_only)
    assert isinstance(storage, BucketStorage)
    return BucketManifest(storage)


def _row(text: str, where: object) -> Row:
    """Read a row. It may come from anyone, and its key names folders that are written and removed."""
    known = {each.name for each in fields(Row)}
    try:
        row = Row(**{name: value for name, value in parse_json(text, where).items() if name in known})
        texts = (row.key, row.source, row.owner, row.kind, row.error, row.begun, row.ended, *row.arguments)
        sound = all(isinstance(one, str) for one in texts) and isinstance(row.facts, dict)
        sound = sound and isinstance(row.arguments, list)
        sound = sound and row.state in get_args(State) and type(row.attempts) is int and row.seconds >= 0
        if not sound or not _KEY.fullmatch(row.key):
            raise ValueError(f"the row of {str(row.key)[:80]!r}")
    except (InputError, ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{where} holds what is no video of a batch ({error}); choose another place") from error
    return row


def now() -> str:
    """Return the time for people to read; nothing depends on it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
