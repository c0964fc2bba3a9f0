"""The SQLite file of a project: its tables, transactions, and the changes that undo and redo exchange.

Everything that is accepted is committed before it is answered. Each change is an `op` that holds what was there
before; undo and redo exchange that with what is there now.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from twospeed.app import wire
from twospeed.app.wire import TRACKED, WireMask
from twospeed.errors import InputError, OutputError
from twospeed.files import parse_json

SCHEMA = 1
OPS_KEPT = 100
BYTES_KEPT = 256 << 20

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE object (id INTEGER PRIMARY KEY, name TEXT, colour TEXT, hidden INTEGER, locked INTEGER, position INTEGER);
CREATE TABLE mark (frame INTEGER, object INTEGER, data TEXT, PRIMARY KEY (frame, object));
CREATE TABLE mask (frame INTEGER PRIMARY KEY, runs BLOB, confidence BLOB, source INTEGER, job INTEGER, rev INTEGER,
                   stale INTEGER);
CREATE TABLE op (seq INTEGER PRIMARY KEY AUTOINCREMENT, tab TEXT, kind TEXT, undone INTEGER DEFAULT 0);
CREATE TABLE mask_before (op INTEGER, frame INTEGER, runs BLOB, confidence BLOB, source INTEGER, job INTEGER,
                          stale INTEGER, PRIMARY KEY (op, frame));
CREATE TABLE row_before (op INTEGER, place TEXT, key TEXT, data TEXT, PRIMARY KEY (op, place, key));
CREATE TABLE job (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, options TEXT, state TEXT, done INTEGER,
                  total INTEGER, error TEXT, seconds REAL, op INTEGER);
CREATE TABLE result (kind TEXT, frame INTEGER, data BLOB, PRIMARY KEY (kind, frame));
"""

_FRAME = "typeof(frame)='integer' AND frame>=0 AND frame<?"
_SOUND = {
    "mask": f"{_FRAME} AND typeof(runs)='blob' AND typeof(confidence)='blob' AND source IN (0, 1, 2) AND "
    "typeof(rev)='integer' AND rev BETWEEN 0 AND 4294967295",
    "mark": f"{_FRAME} AND typeof(object)='integer' AND typeof(data)='text'",
    "object": "id BETWEEN 1 AND 254 AND typeof(name)='text' AND typeof(colour)='text' AND typeof(position)='integer'",
    "job": "typeof(options)='text'",
}
"""What every row of a table fulfils; the ? is the number of frames."""


class Undone(NamedTuple):
    """A change that was undone or redone: the frames whose masks it changed, and the revision since."""

    frames: list[int]
    rev: int


class Conflict(InputError):
    """Somebody else, in another tab, changed the same meanwhile."""


class Database:
    """The file, safe to use from several threads. One process writes it, others pass only_read.

    Raises InputError for a file of another version, OutputError where the disk refuses.
    """

    def __init__(self, folder: Path, *, only_read: bool = False) -> None:
        self.folder, self.id = folder, folder.name
        self._lock = threading.RLock()
        file = folder / "project.db"
        new = not file.exists()
        try:
            self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if new:
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be opened as a project ({error})") from error
        if version != SCHEMA:
            self._db.close()
            raise InputError(f"{file}: is a project of version {version}, this program knows {SCHEMA}; update it")
        self._check_tables(file)
        if only_read:
            self._db.execute("PRAGMA query_only=1")
            return
        with self._changes():
            self._db.execute("UPDATE job SET state='interrupted' WHERE state IN ('running', 'queued')")

    def _check_tables(self, file: Path) -> None:
        """Raise InputError for a file with other tables, or with views or triggers: it may come from anyone."""
        found = self._all("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
        wanted = {" ".join(one.split()) for one in _TABLES.split(";")} - {""}
        if {" ".join(str(sql).split()) for (sql,) in found} != wanted:
            self._db.close()
            raise InputError(f"{file}: is no project of this program; its tables are others")
        if type(rev := self.get("rev", 0)) is not int or not 0 <= rev < 1 << 31:
            raise InputError(f"{file}: its revision is {str(rev)[:40]!r}")

    def check_content(self) -> None:
        """Raise InputError where what the file says makes no sense: it may come from anyone."""
        numbers = [self.get(name) for name in ("frames", "width", "height")]
        texts = [self.get(name) for name in ("name", "path", "times_s")]
        begin, end = self.get("in", 0), self.get("out", 0)
        if (
            any(type(one) is not int or not 0 < one < 1 << 31 for one in numbers)
            or any(not isinstance(one, str) for one in texts)
            or not (type(begin) is int and type(end) is int and 0 <= begin < numbers[0] and 0 <= end < numbers[0])
        ):
            raise InputError(f"{self.folder}: the project does not describe its video; delete it, and open that again")
        for table, sound in _SOUND.items():
            if wrong := self._one(
                f"SELECT COUNT(*) FROM {table} WHERE ({sound}) IS NOT 1", *[numbers[0]] * sound.count("?")
            )[0]:
                raise InputError(
                    f"{self.folder}: {wrong} rows of the project's table {table} hold what they cannot hold"
                )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the table `meta`."""
        row = self._one("SELECT value FROM meta WHERE key=?", key)
        return default if row is None else self._json(row[0])

    @property
    def frames(self) -> int:
        """How many frames the video has."""
        return int(self.get("frames"))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame."""
        return int(self.get("height")), int(self.get("width"))

    @property
    def rev(self) -> int:
        """The number of the last change."""
        return int(self.get("rev", 0))

    def undo(self, *, redo: bool = False, others: Collection[str] = ()) -> Undone | None:
        """Exchange the last change (redo: the last one undone) with what was before.

        others: tabs whose changes are not touched. Returns None where there is nothing to undo. Raises InputError while
        that change is still being made, Conflict where it is of the others.
        """
        with self._lock:
            order = "undone=1 ORDER BY seq" if redo else "undone=0 ORDER BY seq DESC"
            row = self._one(f"SELECT seq, tab, kind FROM op WHERE {order}")
            if row is None:
                return None
            op, tab, kind = row
            if tab in others:
                raise Conflict(f"the last change ({kind}) was made in another tab that is still open")
            if self._one("SELECT id FROM job WHERE op=? AND state IN ('running', 'queued')", op):
                raise InputError("this change is still being made; stop it first")
            with self._changes():
                for place, key, data in self._all("SELECT place, key, data FROM row_before WHERE op=?", op):
                    now = self._row(place, key)
                    self._write_row(place, key, self._json(data))
                    self._db.execute(
                        "UPDATE row_before SET data=? WHERE op=? AND place=? AND key=?",
                        (json.dumps(now), op, place, key),
                    )
                frames = [frame for (frame,) in self._all("SELECT frame FROM mask_before WHERE op=?", op)]
                for frame in frames:
                    self._exchange_mask(op, frame)
                self._db.execute("UPDATE op SET undone=? WHERE seq=?", (0 if redo else 1, op))
                return Undone(frames, self.rev)

    # --- inside --------------------------------------------------------------------------------------------------

    def _json(self, text: Any) -> Any:
        """Read a value of a table. Raises InputError for what is none."""
        if not isinstance(text, str):
            raise InputError(f"{self.folder}: the project holds {str(text)[:40]!r} where a text belongs")
        return parse_json(text, self.folder)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OverflowError as error:
            raise InputError("a number is larger than a project can hold") from error
        except sqlite3.OperationalError as error:
            raise OutputError(f"cannot use {self.folder} ({error}); free space, then try again") from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise InputError(f"{self.folder}: the project is damaged ({error})") from error

    @contextmanager
    def _changes(self) -> Iterator[None]:
        """One transaction with a revision of its own; within another, a part of it."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            with self._faults():
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._put("rev", self.rev + 1)
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):  # where it did not even begin
                        self._db.execute("ROLLBACK")
                    raise

    @contextmanager
    def _op(self, kind: str, tab: str) -> Iterator[int]:
        """A change that can be undone: what was undone before it cannot be redone any more."""
        with self._changes():
            for (seq,) in self._all("SELECT seq FROM op WHERE undone=1"):
                self._forget(seq)
            cursor = self._db.execute("INSERT INTO op (tab, kind) VALUES (?, ?)", (tab, kind))
            op = int(cursor.lastrowid or 0)
            yield op
            self._prune()

    def _prune(self) -> None:
        seqs = [row[0] for row in self._all("SELECT seq FROM op ORDER BY seq")]
        sizes = dict(self._all("SELECT op, SUM(LENGTH(runs)) FROM mask_before GROUP BY op"))
        held = sum(size or 0 for size in sizes.values())
        while len(seqs) > OPS_KEPT or (held > BYTES_KEPT and len(seqs) > 1):
            held -= sizes.get(seqs[0]) or 0
            self._forget(seqs.pop(0))

    def _forget(self, op: int) -> None:
        for table, column in (("op", "seq"), ("mask_before", "op"), ("row_before", "op")):
            self._db.execute(f"DELETE FROM {table} WHERE {column}=?", (op,))

    def _set_mask(self, op: int, mask: WireMask, job: int | None = None) -> None:
        self._keep_mask(op, mask.frame)
        self._store_mask(mask, job)

    def _store_mask(self, mask: WireMask, job: int | None = None) -> None:
        if (mask.height, mask.width) != self.size:
            height, width = self.size
            raise InputError(f"the mask is {mask.width}x{mask.height}, its frame {width}x{height}")
        self._db.execute(
            "INSERT OR REPLACE INTO mask VALUES (?, ?, ?, ?, ?, ?, 0)",
            (mask.frame, mask.runs, wire.pack_confidence(mask.confidence), mask.source, job, self.rev),
        )

    def _keep_mask(self, op: int, frame: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO mask_before SELECT ?, f.frame, runs, confidence, source, job, stale "
            "FROM (SELECT ? AS frame) f LEFT JOIN mask ON mask.frame = f.frame",
            (op, frame),
        )

    def _exchange_mask(self, op: int, frame: int) -> None:
        columns = "runs, confidence, source, job, stale"
        before = self._one(f"SELECT {columns} FROM mask_before WHERE op=? AND frame=?", op, frame)
        now = self._one(f"SELECT {columns} FROM mask WHERE frame=?", frame) or (None,) * 5
        self._db.execute("INSERT OR REPLACE INTO mask_before VALUES (?, ?, ?, ?, ?, ?, ?)", (op, frame, *now))
        if before is None or before[0] is None:
            self._db.execute("DELETE FROM mask WHERE frame=?", (frame,))
        else:
            runs, confidence, source, job, stale = before
            row = (frame, runs, confidence, source, job, self.rev, stale)
            self._db.execute("INSERT OR REPLACE INTO mask VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _set_row(self, op: int, place: str, key: str, value: list[Any] | None) -> None:
        now = json.dumps(self._row(place, key))
        self._db.execute("INSERT OR IGNORE INTO row_before VALUES (?, ?, ?, ?)", (op, place, key, now))
        self._write_row(place, key, value)

    def _row(self, place: str, key: str) -> list[Any] | None:
        if place == "object":
            row = self._one("SELECT name, colour, hidden, locked, position FROM object WHERE id=?", int(key))
            return None if row is None else list(row)
        if place == "mark":
            frame, object_id = key.split(":")
            row = self._one("SELECT data FROM mark WHERE frame=? AND object=?", int(frame), int(object_id))
            return None if row is None else [self._json(row[0])]
        if place == "stale":
            row = self._one("SELECT stale FROM mask WHERE frame=?", int(key.split(",")[0]))
            return [0 if row is None else row[0]]
        value = self.get(key)
        return None if value is None else [value]

    def _write_row(self, place: str, key: str, value: list[Any] | None) -> None:
        if place == "object":
            self._db.execute("DELETE FROM object WHERE id=?", (int(key),))
            if value is not None:
                self._db.execute("INSERT INTO object VALUES (?, ?, ?, ?, ?, ?)", (int(key), *value))
        elif place == "mark":
            frame, object_id = key.split(":")
            self._db.execute("DELETE FROM mark WHERE frame=? AND object=?", (int(frame), int(object_id)))
            if value is not None:
                row = (int(frame), int(object_id), json.dumps(value[0]))
                self._db.execute("INSERT INTO mark VALUES (?, ?, ?)", row)
        elif place == "stale":
            self._db.executemany(
                "UPDATE mask SET stale=?, rev=? WHERE frame=? AND source=?",
                [((value or [0])[0], self.rev, int(frame), TRACKED) for frame in key.split(",")],
            )
        elif value is None:
            self._db.execute("DELETE FROM meta WHERE key=?", (key,))
        else:
            self._put(key, value[0])

    def _put(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def _one(self, sql: str, *values: Any) -> Any:
        with self._lock, self._faults():
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock, self._faults():
            return self._db.execute(sql, values).fetchall()
