"""What `run.json` holds of a run: settings, inputs and outputs by content, versions, speed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from twospeed.errors import InputError, OutputError
from twospeed.files import read_json

Identity: TypeAlias = Mapping[str, Any]
"""{"bytes": size, "sha256": digest}; of an input also "path", as it was given."""

_PART = 1 << 20  # bytes hashed at each end of a file
_FILES_READ = 64  # of many; all names and sizes count


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of `run.json`. Fractions and seconds, no percentages.

    inputs: identities by role ("video", "mask of frame 0", ...); live sources have none. frames: how many are done.
    frames_per_second: of those that this process computed. summary: results in short, by job. files: what the run
    wrote, by name within the folder. warnings: lines about the whole run.
    """

    command: str
    model: str
    weights_sha256: str | None
    options: Mapping[str, Any]
    inputs: Mapping[str, Identity]
    versions: Mapping[str, str] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0
    frames_per_second: float = 0.0
    finished: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Identity] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """Return in which setting or input this run differs from an earlier record; None where it does not."""
        own = json.loads(json.dumps([self._settings(), _contents(self.inputs)], default=str))
        settings = {"command": other["command"], "model": other["model"], "weights_sha256": other["weights_sha256"]}
        for now, then in zip(own, ({**settings, **other["options"]}, _contents(other["inputs"])), strict=True):
            for key in sorted(now.keys() | then.keys()):
                if now.get(key) != then.get(key):
                    if now is own[0]:
                        return f"{key} {then.get(key)!r}, now it is {now.get(key)!r}"
                    return f"another {key} (its content differs)"
        return None

    def _settings(self) -> dict[str, Any]:
        return {"command": self.command, "model": self.model, "weights_sha256": self.weights_sha256, **self.options}


def _contents(inputs: Mapping[str, Identity]) -> dict[str, Any]:
    return {name: [identity["bytes"], identity["sha256"]] for name, identity in inputs.items()}


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json. Raises OutputError for one that cannot be read or is none."""
    try:
        record = read_json(path)
        dict(record["options"])
        if not isinstance(record.get("finished", False), bool):
            raise ValueError(f"finished is {record['finished']!r}")
        if outside := [name for name in record["files"] if not is_inside(name)]:
            raise ValueError(f"it names a file outside of its folder, {outside[0]!r}")
        for identity in (*record["files"].values(), *record["inputs"].values()):
            str(identity["bytes"]), str(identity["sha256"])
        return {"finished": False, **{name: record[name] for name in ("command", "model", "weights_sha256")}, **record}
    except KeyError as error:
        raise OutputError(
            f"{path} holds no {error}: it was written by another version; choose another folder"
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read as the record of a run ({error}); choose another folder") from error


def is_inside(name: object) -> bool:
    """Return whether this is the name of a file within a result folder: records may come from anyone."""
    if not isinstance(name, str) or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def identify(files: Sequence[Path]) -> dict[str, Any]:
    """Return {"bytes", "sha256"} of files: of one by its first and last MiB, of several also by their names.

    Of many files the content of up to 64, spread over them, counts. No file, a live source, has None for both. Raises
    InputError where one cannot be read.
    """
    if not files:
        return {"bytes": None, "sha256": None}
    try:
        if len(files) == 1:
            with files[0].open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                digest = hashlib.sha256(file.read(_PART))
                if size > _PART:
                    file.seek(-_PART, 2)
                    digest.update(file.read())
            return {"bytes": size, "sha256": digest.hexdigest()}
        sizes = [file.stat().st_size for file in files]
        read = files[:: max(1, -(-len(files) // _FILES_READ))]
        content = [[file.name for file in files], sizes, [identify([file])["sha256"] for file in read]]
        return {"bytes": sum(sizes), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
