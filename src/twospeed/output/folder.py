"""The folder of a run's results: a run replaces what an earlier run wrote, and nothing else.

While a run works it holds a lock, and a journal (`.resume.jsonl`) lists every file before it appears, so that also
after a crash it is known whose file is whose. Where an earlier run has left results, the new ones are written beside
them (in `.rerun`) and take their place at the end: until then the earlier run stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from twospeed.errors import OutputError
from twospeed.files import atomic_file, disk_errors, lock, make_folder, write_json
from twospeed.output.record import Identity, RunRecord, identify, is_inside, read_record

RECORD, FRAMES, REPORT = "run.json", "frames.csv", "report.html"
PROJECTS = "twospeed_projects"  # what the page keeps beside videos
JOURNAL, LOCK, BESIDE = ".resume.jsonl", ".lock", ".rerun"

_LEFTOVER = re.compile(r"\..+\.\d+(\.\d+)?\.partial(\.\w+)?")


class ResultFolder(AbstractContextManager["ResultFolder"]):
    """One run's folder. Entering it checks and locks it, `begin` creates what is missing, `finish` ends the run.

    path: the folder. names: of the files that the run may write, within the folder; `masks/*.png` are all PNG files in
    masks/. inputs: files and folders that the run reads; none of them may be among these.
    overwrite: replace also files of such names that no earlier run wrote, or that were changed since. resume: continue
    an earlier run that was interrupted; `earlier` is then its record, if there is one.

    Raises OutputError where another run is writing, or a file that is not ours would be replaced.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        *,
        inputs: Iterable[Path] = (),
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.path, self.work = path, path
        self.earlier: dict[str, Any] | None = None
        self._names = (*names, FRAMES, REPORT, RECORD)
        self._inputs, self._overwrite, self._resume = list(inputs), overwrite, resume
        self._replaceable: dict[str, Identity | None] = {}
        self._lock: IO[str] | None = None
        self._journal: IO[str] | None = None
        self._created: list[Path] = []
        self._begun = False

    def __enter__(self) -> ResultFolder:
        try:
            exists = self.path.exists()
        except OSError as error:
            raise OutputError(f"cannot create the folder {self.path} ({error.strerror}); choose another one") from error
        if exists and not self.path.is_dir():
            raise OutputError(f"cannot create the folder {self.path} (a file has that name); choose another folder")
        if exists:
            self._take_lock()
            try:
                self._examine()
            except BaseException:
                self.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def locked(self) -> bool:
        """Whether this run holds the folder."""
        return self._lock is not None

    def release(self) -> None:
        """Give up the lock; files stay as they are."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if os.name == "posix":
                    (self.path / LOCK).unlink()  # while it is held: who waits for it looks again
                self._lock.close()
                if os.name != "posix":
                    (self.path / LOCK).unlink()  # fails where another run holds it by now
            self._lock = None

    def begin(self, record: RunRecord) -> None:
        """Create the folder, write the record of an unfinished run, and open the journal."""
        if self._lock is None:
            missing = [self.path, *self.path.parents]
            self._created = [folder for folder in missing if not folder.exists()]
            make_folder(self.path)
            self._take_lock()
            self._examine()
        if self.earlier is None:
            shutil.rmtree(self.path / BESIDE, ignore_errors=True)
            if self._replaceable:
                self.work = self.path / BESIDE
        self._begun = True
        self._make(self.work)
        kept = len(self.kept)
        with atomic_file(self.work / JOURNAL) as temporary, temporary.open("w", encoding="utf-8") as journal:
            for entry in self.journal():  # of the run that is resumed
                if "row" in entry and entry["row"][0] >= kept:
                    del entry["row"]
                journal.write(json.dumps(entry) + "\n")
        with disk_errors(self.work):
            self._journal = (self.work / JOURNAL).open("a", encoding="utf-8")
        self._write_record(replace(record, finished=False, files={}))

    @cached_property
    def kept(self) -> list[dict[str, Any]]:
        """Journal entries of the frames that an interrupted run has finished, in order, while their files are there.

        Raises OutputError where a file was changed since.
        """
        kept: list[dict[str, Any]] = []
        for entry in self.journal() if self.earlier is not None else ():
            if not {"row", "file"} <= entry.keys() or entry["row"][0] != len(kept):
                continue
            file = self.work / entry["file"]
            if not file.is_file():
                break
            if identify([file]) != {"bytes": entry.get("bytes"), "sha256": entry.get("sha256")}:
                raise OutputError(f"{file} was changed after the run that wrote it; it cannot be resumed")
            kept.append(entry)
        return kept

    @contextlib.contextmanager
    def file(self, name: str, **entry: Any) -> Iterator[Path]:
        """Give a temporary path to write a file of the run to; it appears under its name when the block ends.

        entry: further values for its line in the journal. Raises OutputError.
        """
        target = self.work / name
        self._make(target.parent)
        with atomic_file(target) as temporary:
            yield temporary
            self.note({"file": name, **identify([temporary]), **entry})

    def claim(self, name: str) -> Path:
        """Return where a file goes whose writer creates it by itself; call `settle` when it is complete."""
        self.note({"file": name})
        self._make((self.work / name).parent)
        return self.work / name

    def settle(self, name: str) -> None:
        """Enter the content of a claimed file, if it has appeared, in the journal."""
        if (self.work / name).is_file():
            self.note({"file": name, **identify([self.work / name])})

    def note(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the journal. It survives this process; written through to the system at once."""
        assert self._journal is not None
        with disk_errors(self.work):
            self._journal.write(json.dumps(entry) + "\n")
            self._journal.flush()

    def contents(self) -> list[str]:
        """Return what the run has written so far, but for its record: files, and folders with a slash at their end."""
        files = [name for name, identity in files_of_run(self.work).items() if identity is not None and name != RECORD]
        return sorted({name.partition("/")[0] + "/" * ("/" in name) for name in files})

    def journal(self) -> Iterator[dict[str, Any]]:
        """Read the journal of the run at hand, or of the one to be resumed; a line that is not complete is left out."""
        yield from _entries(self.work / JOURNAL)

    @contextlib.contextmanager
    def new_state(self, frames: int) -> Iterator[Path]:
        """Give a path to write what a job must know to continue after so many frames; older states are removed then."""
        with atomic_file(self.state(frames)) as temporary:
            yield temporary
            self.note({"state": frames, "sha256": _digest(temporary)})
        self._remove_states(self.work, but=self.state(frames))

    def state(self, frames: int) -> Path:
        """Return where the state after so many frames is kept."""
        return self.work / f".state-{frames}.safetensors"

    def saved_state(self) -> int:
        """Return after how many frames the last state was saved from which the run can be resumed; 0 for none."""
        if self.earlier is None:
            return 0
        digests = {entry.get("state"): entry.get("sha256") for entry in self.journal() if "state" in entry}
        for frames in sorted((n for n in digests if type(n) is int and n <= len(self.kept)), reverse=True):
            if self.state(frames).is_file() and _digest(self.state(frames)) == digests[frames]:
                return frames
        return 0

    @staticmethod
    def _remove_states(folder: Path, but: Path | None = None) -> None:
        for file in folder.glob(".state-*.safetensors"):
            if file != but:
                file.unlink(missing_ok=True)

    def finish(self, record: RunRecord) -> None:
        """Write the record with all files. A finished run then takes the place of the earlier one."""
        files = {name: identity for name, identity in files_of_run(self.work).items() if identity is not None}
        record = replace(record, files=dict(sorted(files.items())))
        self._write_record(record)
        if record.finished:
            assert self._journal is not None
            self._journal.close()
            self._journal = None
            (self.work / JOURNAL).unlink(missing_ok=True)
            self._remove_states(self.work)
            if self.work != self.path:
                self._swap(asdict(record))

    def discard(self) -> None:
        """Remove what a run has written that ended before its first result; an earlier run stays as it was."""
        if not self._begun or self.earlier is not None:
            return
        for name in (*files_of_run(self.work), RECORD, JOURNAL):
            with contextlib.suppress(OSError):
                (self.work / name).unlink(missing_ok=True)
        self.release()
        for folder in sorted(set(self._created), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _make(self, folder: Path) -> None:
        if not folder.exists():
            self._created.append(folder)
        make_folder(folder)

    def _write_record(self, record: RunRecord) -> None:
        write_json(self.work / RECORD, asdict(record))

    def _examine(self) -> None:
        """Tidy up after dead runs, find the run to resume, and refuse to touch what is not ours."""
        beside = self.path / BESIDE
        if not os.access(self.path, os.W_OK):
            raise OutputError(f"no permission to write into {self.path}; choose another folder")
        if (beside / RECORD).is_file() and (record := read_record(beside / RECORD))["finished"]:
            self._swap(record, again=True)
        self._clean()
        self._end_finished()
        if self._resume:
            for folder in (beside, self.path):
                if (folder / RECORD).exists():
                    self.work, self.earlier = folder, read_record(folder / RECORD)
                    self._check_finished()
                    break
        self._refuse_inputs()
        ours = files_of_run(self.path)
        root = self.path.resolve()
        for name in ours:  # as a record says that may come from anyone
            if not (self.path / name).parent.resolve().is_relative_to(root):
                raise OutputError(f"{self.path / name} lies behind a link that leads elsewhere; choose another folder")
        with contextlib.suppress(OutputError):  # a run.json that is not ours is refused below
            if (self.path / RECORD).is_file():
                read_record(self.path / RECORD)
                ours[RECORD] = None
        present = [file for name in self._names for file in self._matching(name)]
        for file in present:
            if not file.exists():
                continue
            name = file.relative_to(self.path).as_posix()
            if file.is_dir():
                raise OutputError(f"{file} is a folder, the run would write a file there; choose another folder")
            current = identify([file])
            if not self._overwrite and (name not in ours or ours[name] not in (None, current)):
                what = "was changed after" if name in ours else "was not written by"
                raise OutputError(
                    f"{file} {what} an earlier run; choose another folder, or allow to replace it", option="overwrite"
                )
            self._replaceable[name] = current

    def _end_finished(self) -> None:
        """Remove what a run needed that was interrupted after its last word, that it is finished."""
        with contextlib.suppress(OutputError):  # a run.json that is not ours is refused later
            journal, record = self.path / JOURNAL, self.path / RECORD
            if journal.is_file() and record.is_file() and read_record(record)["finished"]:
                journal.unlink()
                self._remove_states(self.path)

    def _matching(self, name: str) -> list[Path]:
        return sorted(self.path.glob(name)) if "*" in name else [self.path / name]

    def _check_finished(self) -> None:
        """Refuse to take a run for finished whose files are gone or were changed."""
        assert self.earlier is not None
        for name, identity in self.earlier["files"].items() if self.earlier["finished"] else ():
            file = self.work / name
            if not file.is_file() or identify([file]) != identity:
                what = "was changed after" if file.is_file() else "is missing from"
                raise OutputError(f"{file} {what} the run that had finished; begin anew without resuming it")

    def _refuse_inputs(self) -> None:
        many = {(self.path / name).parent.resolve() for name in self._names if "*" in name}
        names = {(self.path / name).resolve() for name in self._names if "*" not in name} | many
        for given in self._inputs:
            real = given.resolve()
            if real in names or real.parent in many:
                raise OutputError(f"{given} is an input, the results would replace it; choose another folder")

    def _swap(self, record: Mapping[str, Any], *, again: bool = False) -> None:
        """Let the finished run beside take the place of the earlier one.

        again: after a crash in the middle of it.
        """
        beside, new = self.path / BESIDE, dict(record["files"])
        old = {**files_of_run(self.path), **self._replaceable}
        for name, identity in old.items():
            file = self.path / name
            if again or identity is None or name == RECORD or not file.is_file():
                continue
            if identify([file]) != identity:
                raise OutputError(f"{file} was changed during the run; the new results are in {beside}")
        # From here on, until the last line, what lies in the folder is a mixture, and its record says so
        mixed = {name: identity for name, identity in {**old, **new}.items() if identity and name != RECORD}
        write_json(self.path / RECORD, {**record, "finished": False, "files": mixed})
        with disk_errors(self.path):
            (self.path / JOURNAL).unlink(missing_ok=True)
            self._remove_states(self.path)
            for name in [*new, *(name for name in old if name not in new and name != RECORD)]:
                if (beside / name).is_file():
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    (beside / name).replace(self.path / name)
                elif name not in new:
                    (self.path / name).unlink(missing_ok=True)
            for folder in {(self.path / name).parent for name in old} - {self.path}:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # where nothing is left in it
        write_json(self.path / RECORD, record)
        shutil.rmtree(beside, ignore_errors=True)
        self.work = self.path

    def _clean(self) -> None:
        """Remove temporary files that killed runs left."""
        folders = {self.path, *((self.path / name).parent for name in self._names)}
        folders |= {self.path / BESIDE / folder.relative_to(self.path) for folder in folders}
        for folder in folders:
            if folder.is_dir():
                for file in folder.glob(".*"):
                    if _LEFTOVER.fullmatch(file.name) and file.is_file():
                        with contextlib.suppress(OSError):
                            file.unlink()

    def _take_lock(self) -> None:
        path = self.path / LOCK
        while self._lock is None:
            try:
                file = path.open("a+", encoding="utf-8")
            except OSError as error:
                raise OutputError(
                    f"no permission to write into {self.path} ({error.strerror}); choose another folder"
                ) from error
            try:
                lock(file)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    file.close()
                    raise OutputError(
                        f"another run is writing into {self.path}; wait for its end, or choose another folder"
                    ) from error
                self._lock = file  # a file system without locks
                return
            if os.name == "posix" and not _is_at(file, path):
                file.close()  # the run before has just ended and removed it
                continue
            self._lock = file


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    if not journal.is_file():
        return
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and _is_sound(entry):
                yield entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_sound(entry: dict[str, Any]) -> bool:
    """Return whether this is a line that a run writes: journals may be damaged, or come from anyone."""
    row, objects = entry.get("row", [0]), entry.get("objects", [])
    return (
        is_inside(entry.get("file", "none"))
        and isinstance(entry.get("state", 0), int)
        and isinstance(row, list)
        and bool(row)
        and type(row[0]) is int
        and isinstance(objects, list)
        and all(type(number) is int for number in objects)
    )


def files_of_run(folder: Path) -> dict[str, Identity | None]:
    """Return the files that a run in this folder wrote; None for those whose content is not known."""
    found: dict[str, Identity | None] = {}
    with contextlib.suppress(OutputError):
        if (folder / RECORD).is_file():
            found |= read_record(folder / RECORD)["files"]
    for entry in _entries(folder / JOURNAL):
        if isinstance(name := entry.get("file"), str):
            known = {"bytes", "sha256"} <= entry.keys()
            found[name] = {"bytes": entry["bytes"], "sha256": entry["sha256"]} if known else None
    return found
