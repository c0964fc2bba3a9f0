"""Files as users expect them: a file is written whole or not at all, and text is read in one way.

Everything that leaves the program goes through `atomic_file`, `write_text` or `write_json`; every text file
that comes in goes through `read_text` or `read_json`.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import math
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from twospeed.errors import InputError, OutputError, TwospeedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST_TEXT = 1 << 30  # bytes; AVA's largest list has 200 MB
_MOST_ARRAY_BYTES = 1 << 31  # Kinetics-700's scores of all videos have 100 MB


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes that name when the block ends without an error.

    The temporary name keeps the suffix, begins with a dot and holds the numbers of process and thread, so that two
    writers do not share it. After an error nothing is left and an older file of that name is as it was. The file gets
    the usual permissions of a new file. Raises OutputError where the disk refuses.
    """
    if not path.name or path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.partial{path.suffix}")
    try:
        with disk_errors(path):
            yield temporary
            _usual_permissions(temporary)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def visible_files(folder: Path, suffix: str) -> list[Path]:
    """List a folder's files of this suffix, in capitals too, sorted, without hidden ones, such as ._NAME of macOS."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == suffix and p.name[0] != ".")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders that processes left which were killed while they wrote `path`."""
    if os.name != "posix":
        return
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
        number = re.fullmatch(r"([0-9]{1,9})\.[0-9]+", left.name[len(path.stem) + 2 :].partition(".partial")[0])
        if number is None:
            continue
        try:
            os.kill(int(number[1]), 0)  # whether that process lives
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                left.unlink()
        except OSError:
            pass


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; it takes that name when the block ends without an error.

    After an error nothing is left. `path` itself must not exist yet. Raises OutputError where the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
            temporary.mkdir(parents=True)
            yield temporary
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder of that name. Raises InputError for a name that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:300]}: no file can have this name ({reason})") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all. Raises OutputError."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; what JSON does not know is written as its text. Raises OutputError."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def make_folder(path: Path) -> Path:
    """Create an output folder and its parents. Raises OutputError where that is not possible or it is not writable."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise OutputError(f"no permission to write into {path}; choose another folder")
    return path


@contextlib.contextmanager
def lock_file(path: Path, message: str) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends; the file itself stays behind.

    message: what InputError says when another process holds it. Raises OutputError where the file cannot be made.
    """
    with disk_errors(path):
        file = path.open("ab")
    with file:
        try:
            lock(file)
        except OSError as error:
            raise InputError(f"{message}; wait until it has ended, or choose another folder") from error
        yield


def lock(file: IO[Any]) -> None:
    """Lock an open file for as long as it is open. Raises OSError where another process holds it."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_text(path: Path, *, most_bytes: int = _LONGEST_TEXT) -> str:
    """Read a text file, UTF-8 with or without a byte order mark.

    Raises InputError where it is missing, no regular file, too long or not UTF-8.
    """
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise InputError(f"{path}: {what}; expected a text file")
        if (size := path.stat().st_size) > most_bytes:
            raise InputError(f"{path}: {size} bytes; text files of up to {most_bytes} bytes are read")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def read_json(path: Path, error_type: type[InputError] = InputError) -> Any:
    """Read a JSON file. Raises error_type where it cannot be read as `read_text` does, or is not JSON."""
    try:
        return parse_json(read_text(path), path)
    except InputError as error:
        raise error_type(str(error)) from error


def parse_json(text: str, where: object) -> Any:
    """Parse JSON. Raises InputError for what is none, is nested too deeply, or has numbers of thousands of digits."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise InputError(f"{where}: not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON that can be read ({error})") from error


def read_arrays(path: Path, error_type: type[InputError] = InputError) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file by name: numbers and texts, no pickles.

    Raises error_type for a file that cannot be read, or whose arrays are not as large as their headers say, which is
    checked before memory is taken.
    """
    import numpy as np

    try:
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            if (total := sum(entry.file_size for entry in archive.infolist())) > _MOST_ARRAY_BYTES:
                raise error_type(f"{path}: holds {total} bytes; up to {_MOST_ARRAY_BYTES} are read")
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2
                    shape, fortran, kind = read(file)
                    data = file.read()
                if kind.hasobject or math.prod(shape) * kind.itemsize != len(data):
                    raise ValueError(f"{entry.filename}: {len(data)} bytes for {kind} {shape}")
                array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
                arrays[entry.filename.removesuffix(".npy")] = array
        return arrays
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
        raise error_type(f"{path}: cannot be read as arrays ({type(error).__name__}: {error})") from error


def _header_2(file: IO[bytes]) -> Any:
    import numpy as np

    return np.lib.format.read_array_header_2_0(file)


def _whole_number(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says while `path` is written into OutputError with its name."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TwospeedError):
            raise
        raise OutputError(
            f"cannot write {path} ({error.strerror or error}); free space, or choose another place"
        ) from error


def _usual_permissions(path: Path) -> None:
    """Give a file the permissions that `open` would: some libraries leave theirs readable by the owner alone."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
