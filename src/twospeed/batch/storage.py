"""Where a batch's results lie: a folder on a disk, or a bucket. Files appear whole or not at all, and one run owns it.

Buckets are reached through fsspec; each request is tried several times, since some of them always fail.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from twospeed.errors import InputError, OutputError, TwospeedError
from twospeed.files import atomic_file, lock_file, make_folder

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRIES = 6
_FIRST_PAUSE_S = 0.1
OWNER = "owner"


class Storage(ABC):
    """A place for files under names such as `videos/clip/run.json`.

    url: as the user gave it. id, owner: of this process as the owner of the place. Methods raise OutputError.
    """

    url: str

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.owner = {"host": socket.gethostname(), "process": os.getpid(), "id": self.id}

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a file's content, None where it is missing."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder, sorted."""

    @abstractmethod
    def deliver(self, folder: Path, name: str) -> None:
        """Let a finished local folder appear under a name. Where it is there already, ours is removed."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether a delivered folder is there, whole."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a delivered folder, if it is there."""

    @abstractmethod
    def hold(self, lease_s: float) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Own the place; give a function that is called now and then to show that its owner lives.

        lease_s: after so long without a sign of life the owner counts as dead, where that cannot be seen otherwise.
        Raises InputError where another run owns it, saying which.
        """


def open_storage(url: str) -> Storage:
    """Return the storage at a path or an address such as s3://bucket/folder."""
    return BucketStorage(url) if "://" in url else FolderStorage(Path(url))


class FolderStorage(Storage):
    """A folder on a disk, owned by a lock that ends with its process."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.url = root.absolute(), str(root)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None where it is missing."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.root / name} cannot be read ({error.strerror})") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        make_folder((self.root / name).parent)
        with atomic_file(self.root / name) as temporary:
            temporary.write_bytes(content)

    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder, sorted."""
        there = self.root / folder
        return sorted(path.name for path in there.iterdir() if path.name[0] != ".") if there.is_dir() else []

    def deliver(self, folder: Path, name: str) -> None:
        """Let a finished local folder appear under a name, by rename."""
        target = self.root / name
        make_folder(target.parent)
        try:
            folder.rename(target)
        except OSError as error:
            if not target.is_dir():
                raise OutputError(f"cannot write {target} ({error.strerror}); free space") from error
            shutil.rmtree(folder, ignore_errors=True)

    def exists(self, name: str) -> bool:
        """Say whether a delivered folder is there, whole."""
        return (self.root / name).is_dir()

    def remove(self, name: str) -> None:
        """Remove a delivered folder: first its name, so that no half of it is ever seen."""
        if self.exists(name):
            gone = self.root / ".work" / f"removed-{uuid.uuid4().hex}"
            make_folder(gone.parent)
            (self.root / name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def hold(self, lease_s: float) -> Iterator[Callable[[], None]]:
        """Own the folder by a lock of the system; no clock is needed."""
        make_folder(self.root)
        who = "another process"
        with contextlib.suppress(OutputError, ValueError, KeyError, TypeError):  # it may be damaged: the lock decides
            holder = json.loads(self.read(".owner.json") or b"{}")
            who = f"process {holder['process']:d} on {holder['host']}"
        with lock_file(self.root / ".lock", f"{self.root} is held by {who}, which runs a batch into it"):
            self.write(".owner.json", json.dumps(self.owner).encode())
            try:
                yield lambda: None
            finally:
                with contextlib.suppress(OSError):
                    (self.root / ".owner.json").unlink()

    def is_held(self) -> bool:
        """Say whether a run works here now."""
        if not (self.root / ".lock").exists():
            return False
        try:
            with lock_file(self.root / ".lock", ""):
                return False
        except InputError:
            return True


class BucketStorage(Storage):
    """Objects below an address. Whole folders appear with their last object, `run.json`.

    The owner is the newest object of `owner/`, numbered and created only where it is missing, so that of two runs that
    take over a dead one's place exactly one wins. Its life shows in a counter: whoever waits compares what it reads
    with what it has read before, by a clock of its own that never jumps; no two clocks are compared.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url.rstrip("/")
        self.fs, path = file_system(url)
        self.root = path.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """Return an object's content, None where it is missing."""
        try:
            return bytes(tried(lambda: self.fs.cat_file(self._path(name)), f"{self.url}/{name}"))
        except FileNotFoundError:
            return None

    def read_many(self, folder: str) -> list[bytes]:
        """Return the contents of all objects directly in a folder, read at once."""
        paths = [self._path(f"{folder}/{name}") for name in self.names(folder)]
        found = tried(lambda: self.fs.cat(paths), f"{self.url}/{folder}") if paths else {}
        return [bytes(found[path]) for path in sorted(found)]

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        tried(lambda: self.fs.pipe_file(self._path(name), content), f"{self.url}/{name}")

    def create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none of that name; say whether this call has created it."""

        def request() -> bool:
            try:
                self.fs.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            return True

        # An answer that was lost leaves our own object, so that its content decides
        return bool(tried(request, f"{self.url}/{name}")) or self.read(name) == content

    def names(self, folder: str) -> list[str]:
        """Return the names directly in a folder, sorted."""
        try:
            found = tried(lambda: self.fs.ls(self._path(folder), detail=False, refresh=True), f"{self.url}/{folder}")
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := PurePosixPath(path).name) and path != self._path(folder))

    def deliver(self, folder: Path, name: str) -> None:
        """Upload a folder, `run.json` last."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file == folder / "run.json"):
            target = self._path(f"{name}/{file.relative_to(folder).as_posix()}")
            tried(lambda file=file, target=target: self.fs.put_file(str(file), target), target)  # type: ignore[misc]
        shutil.rmtree(folder, ignore_errors=True)

    def exists(self, name: str) -> bool:
        """Say whether a delivered folder is there, whole."""
        return self.read(f"{name}/run.json") is not None

    def remove(self, name: str) -> None:
        """Remove a delivered folder, `run.json` first."""
        for path in (self._path(f"{name}/run.json"), self._path(name)):
            with contextlib.suppress(FileNotFoundError):
                tried(lambda path=path: self.fs.rm(path, recursive=True), path)  # type: ignore[misc]

    @contextlib.contextmanager
    def hold(self, lease_s: float) -> Iterator[Callable[[], None]]:
        """Own the place by its newest owner object."""
        epoch, holder = self._newest()
        if holder.get("alive"):
            _log.info("%s: waiting %g s to see whether its owner lives", self.url, lease_s)
            end = time.monotonic() + lease_s
            while time.monotonic() < end:
                time.sleep(min(1.0, lease_s / 4))
                if self._newest() != (epoch, holder):
                    raise InputError(
                        f"{self.url} is held by process {holder['process']} on {holder['host']}, which runs a batch "
                        "into it; wait until it has ended, or choose another place"
                    )
        epoch, beats, last = epoch + 1, 0, time.monotonic()
        name = f"{OWNER}/{epoch:08d}.json"

        def state(alive: bool) -> bytes:
            return json.dumps({**self.owner, "beats": beats, "alive": alive}).encode()

        if not self.create(name, state(True)):
            raise InputError(f"another run has just taken {self.url}; wait until it has ended, or choose another place")

        def beat() -> None:
            nonlocal beats, last
            if time.monotonic() - last < lease_s / 4:
                return
            if self._newest()[0] != epoch:
                raise OutputError(f"another run has taken {self.url} over, as this one showed no life for {lease_s} s")
            beats, last = beats + 1, time.monotonic()
            self.write(name, state(True))

        try:
            yield beat
        finally:
            with contextlib.suppress(TwospeedError):
                if self._newest()[0] == epoch:
                    self.write(name, state(False))

    def _newest(self) -> tuple[int, dict[str, Any]]:
        names = self.names(OWNER)
        content = self.read(f"{OWNER}/{names[-1]}") if names else None
        try:
            return (int(PurePosixPath(names[-1]).stem), dict(json.loads(content))) if content else (0, {})
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.url}/{OWNER}/{names[-1]} is none of a batch; choose another place") from error


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path within it. Raises InputError where it has none."""
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{url}: addresses need fsspec; install twospeed[batch]") from error
    try:
        found = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: {error}; give a path, or an address such as s3://bucket/folder") from error
    return found[0], str(found[1])


def tried(request: Callable[[], _T], what: str) -> _T:
    """Make a request, again after a pause that doubles where the network or the server fails.

    Raises FileNotFoundError as it comes, InputError for missing credentials or rights, OutputError after the last try.
    """
    for attempt in range(_TRIES):
        try:
            return request()
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise InputError(f"{what}: access is refused ({error}); check the credentials and their rights") from error
        except Exception as error:
            if "Credential" in type(error).__name__:  # of botocore and of Google's library
                raise InputError(
                    f"{what}: no credentials ({error}); set them as the storage's own tools take them, such as "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from error
            if isinstance(error, TypeError | TwospeedError):
                raise
            if attempt == _TRIES - 1:
                raise OutputError(f"{what}: the storage fails ({type(error).__name__}: {error})") from error
            _log.info("%s: %s; trying again", what, error)
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise AssertionError


def fetch(url: str, folder: Path) -> Path:
    """Download a file into a folder, whole or not at all, and return its path. Raises InputError for a missing one."""
    fs, path = file_system(url)
    target = make_folder(folder) / PurePosixPath(path.partition("?")[0]).name
    with atomic_file(target) as temporary:
        try:
            tried(lambda: fs.get_file(path, str(temporary)), url)
        except FileNotFoundError as error:
            raise InputError(f"{url}: no such file") from error
    return target
